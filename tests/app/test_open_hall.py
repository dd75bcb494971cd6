"""Opening a hall: one control a catalogue, and never with the keys of another hall."""

from __future__ import annotations

import shutil
from contextlib import closing

import msgspec
import pytest

from datahall.app.belonging import open_keys
from datahall.app.control import Control
from datahall.app.leasing import leased
from datahall.app.owner import ensure_owner
from datahall.app.settings import read_settings
from datahall.app.stores import open_catalogue
from datahall.app.wiring import open_hall
from datahall.backends.db.unfinished import Marker, marker_of
from datahall.core.clock import SystemClock
from datahall.core.errors import HallBusyError, SchemaError, UserError
from datahall.core.hall import HallPaths
from datahall.core.records import Act, Change, Step
from datahall.testing.catalogue import app, declare

STORES = ["sqlite", "postgres"]
STEP = Step(id="step_1", app="x", stage="train", name="n", state="running", outputs={}, started_at_ns=1)


@pytest.fixture
def make(tmp_path, monkeypatch, request):
    """Return what makes the folder of a hall whose settings name its store."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    def one(name, store):
        paths = HallPaths(tmp_path / name)
        paths.create()
        if store == "postgres":
            paths.settings.write_text(f"database = '{request.getfixturevalue('postgres_url')}'\n")
            paths.settings.chmod(0o600)
        return paths

    return one


def test_a_second_control_on_one_catalogue_is_refused_and_interrupts_nothing(make):
    first, second = make("first", "postgres"), make("second", "postgres")
    with open_hall(first) as hall:
        shutil.rmtree(second.keys)
        shutil.copytree(first.keys, second.keys)
        with leased(hall.catalogue, hall.catalogue.leases, "run/x", "busy", clock=hall.clock) as fenced:
            fenced.act(Act(kind="step.started", actor="control", app="x", changes=(Change(new=STEP),)))
            with pytest.raises(HallBusyError), open_hall(second) as other:
                Control(other).recover()
            done = msgspec.structs.replace(STEP, state="done")
            fenced.act(Act(kind="step.completed", actor="control", app="x", changes=(Change(old=STEP, new=done),)))
    with open_hall(second) as other:  # the control: once the first has ended
        Control(other).recover()
        assert other.catalogue.get(Step, STEP.id) == done


@pytest.mark.parametrize("store", STORES)
def test_a_hall_that_is_opened_again_waits_for_nobody(make, store):
    paths = make("hall", store)
    for name in "abc":
        with open_hall(paths) as hall:
            ensure_owner(hall.catalogue, hall.keys, hall.clock)
            declare(hall.catalogue, app(name))
            before_ns = hall.clock.monotonic_ns()
            assert hall.sequencer.flush().size == len(hall.catalogue.entries())
            assert hall.clock.monotonic_ns() - before_ns < 5e9  # a lease that nobody gave back takes 10 s to run out


def begun(paths):
    with open_hall(paths) as hall:
        ensure_owner(hall.catalogue, hall.keys, hall.clock)
        return len(hall.catalogue.entries())


def still_works(paths, num_entries):
    with open_hall(paths) as hall:
        assert len(hall.catalogue.entries()) == num_entries
        declare(hall.catalogue, app("after"))
        assert hall.sequencer.flush().size == num_entries + 1


@pytest.mark.parametrize("store", STORES)
def test_keys_that_are_missing_are_not_made_anew_beside_a_ledger(make, store):
    paths = make("hall", store)
    num_entries = begun(paths)
    shutil.move(paths.keys, paths.root / "mine")
    with pytest.raises(UserError, match="keys of this hall are missing") as caught, open_hall(paths):
        pytest.fail("it opened")
    assert "copy that hall's keys/" in caught.value.hint
    assert list(paths.keys.iterdir()) == []
    paths.keys.rmdir()
    shutil.move(paths.root / "mine", paths.keys)
    still_works(paths, num_entries)


@pytest.mark.parametrize("store", STORES)
def test_a_database_that_was_begun_with_other_keys_is_refused_before_anything_is_written(make, store):
    paths, stranger = make("hall", store), make("stranger", "sqlite")
    num_entries = begun(paths)
    begun(stranger)
    shutil.move(paths.keys, paths.root / "mine")
    shutil.copytree(stranger.keys, paths.keys)
    with pytest.raises(UserError, match="belongs to a hall with other keys"), open_hall(paths):
        pytest.fail("it opened")
    shutil.rmtree(paths.keys)
    shutil.move(paths.root / "mine", paths.keys)
    still_works(paths, num_entries)


@pytest.mark.parametrize("store", STORES)
def test_so_is_one_whose_first_entries_no_checkpoint_covers_yet(make, store):
    """As after a kill in the first half second."""
    paths, stranger = make("hall", store), make("stranger", "sqlite")
    begun(stranger)
    with closing(open_catalogue(read_settings(paths), paths, SystemClock(), open_keys(paths))) as catalogue:
        ensure_owner(catalogue, open_keys(paths), SystemClock())
    shutil.move(paths.keys, paths.root / "mine")
    shutil.copytree(stranger.keys, paths.keys)
    with pytest.raises(UserError, match="belongs to a hall with other keys"), open_hall(paths):
        pytest.fail("it opened")
    shutil.rmtree(paths.keys)
    shutil.move(paths.root / "mine", paths.keys)
    still_works(paths, 1)


@pytest.mark.parametrize("store", STORES)
def test_a_migration_that_was_cut_short_is_finished_first(make, store):
    paths = make("hall", store)
    begun(paths)
    marker_of(paths.db).write_bytes(msgspec.json.encode(Marker(source="0001", target="0002", snapshot="x")))
    with pytest.raises(SchemaError, match="was cut short"), open_hall(paths):
        pytest.fail("it opened")
    marker_of(paths.db).unlink()
    begun(paths)
