"""What a lifecycle refuses before it writes anything."""

from types import SimpleNamespace

import pytest

from datahall.app.kinds import KINDS
from datahall.app.lifecycle.walk import Walk
from datahall.app.planning import read_app
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.errors import ConflictError
from datahall.core.records import App
from datahall.testing.clock import AutoClock

TEXT = "datahall: 1\nname: loans\nteam: blue\ntask: classification\ndata: {sources: [loans.csv], target: paid}\n"


@pytest.fixture
def declare(tmp_path):
    """Declare an application as a lifecycle begins; return the catalogue."""
    (tmp_path / "loans.csv").write_text("income,paid\n" + "1.5,no\n2.5,yes\n" * 50)
    clock = AutoClock(1_700_000_000_000_000_000)
    catalogue = SqliteCatalogue(tmp_path / "hall.db", clock, entry_key=b"k" * 32)
    walk = Walk(catalogue, {}, clock)

    def once(text):
        (tmp_path / "app.yaml").write_text(text)
        walk._declare(SimpleNamespace(loaded=read_app(tmp_path / "app.yaml", KINDS)))
        return catalogue

    yield once
    catalogue.close()


def test_a_name_belongs_to_the_team_that_declared_it_first(declare):
    catalogue = declare(TEXT)
    before = catalogue.get(App, "loans"), list(catalogue.entries())
    with pytest.raises(ConflictError, match="declared it first") as said:
        declare(TEXT.replace("blue", "red") + "evaluate: {evidence_days: 7}\n")
    assert "another name" in said.value.hint
    assert (catalogue.get(App, "loans"), list(catalogue.entries())) == before
    declare(TEXT + "# control: the same team may change its file\n")
    assert len(list(catalogue.entries())) == len(before[1]) + 1
