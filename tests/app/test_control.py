"""What control writes down about keys, and what it shows to whom."""

from types import SimpleNamespace

import pytest

from datahall.app.control import Control
from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.errors import UserError
from datahall.testing.catalogue import app, declare
from datahall.testing.clock import AutoClock

NOW = 1_700_000_000_000_000_000


@pytest.fixture
def hall(tmp_path):
    """As much of a hall as these operations touch."""
    clock = AutoClock(NOW)
    catalogue = SqliteCatalogue(tmp_path / "hall.db", clock, entry_key=b"k" * 32)
    yield SimpleNamespace(
        catalogue=catalogue,
        clock=clock,
        sequencer=SimpleNamespace(problem=None),
        paths=SimpleNamespace(root=tmp_path),
        blobs=LocalBlobStore(tmp_path / "blobs"),
    )
    catalogue.close()


def test_the_entry_of_an_issued_key_names_its_team_and_its_expiry(hall):
    made = Control(hall).issue_key("ci", ("read", "predict"), "blue", 2.0)
    endless = Control(hall).issue_key("ci", ("read",), "blue", None)
    first, second = (entry.body for entry in hall.catalogue.entries())
    expected = {"key": made.status.id, "name": "ci", "team": "blue", "scopes": ["predict", "read"]}
    assert first == {**expected, "expires": made.status.expires}
    assert made.status.expires.startswith("2023-11-16")
    assert (second["key"], second["expires"]) == (endless.status.id, None)


def test_a_key_that_cannot_be_writes_nothing(hall):
    for name, team in (("ci", "../x"), ("ci", "*"), ("a\0b", "blue"), ("x" * 500_000, "blue"), ("ci", "x" * 500_000)):
        with pytest.raises(UserError):
            Control(hall).issue_key(name, ("predict",), team, None)
    assert list(hall.catalogue.entries()) == []


def test_a_team_sees_its_own_and_of_the_hall_s_problems_that_there_are_any(hall):
    for name, team in (("a", "ward"), ("b", "lab")):
        declare(hall.catalogue, app(name, team=team))
    control = Control(hall)
    assert control.status("ward").problems == ()
    control.watch(lambda: ("dep_b: the replica of lab fails",))
    mine, all_of_it = control.status("ward"), control.status()
    assert ([found.app for found in mine.apps], len(mine.problems)) == (["a"], 1)
    assert "lab" not in mine.problems[0]
    assert [found.app for found in all_of_it.apps] == ["a", "b"]
    assert all_of_it.problems == ("dep_b: the replica of lab fails",)
