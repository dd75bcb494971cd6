"""What a lifecycle refuses before it writes anything."""

from functools import partial
from types import SimpleNamespace

import pytest

from datahall.app.control import Control
from datahall.app.jobs import Cancel
from datahall.app.kinds import KINDS
from datahall.app.lifecycle.stage import StageResult
from datahall.app.lifecycle.walk import Walk
from datahall.app.planning import read_app
from datahall.app.vault import Vault
from datahall.backends.blobs.memory import MemoryBlobStore
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.errors import ConflictError
from datahall.core.records import App, Step
from datahall.security.keys import KeyRing
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


class Stored:
    """A stage whose result waits for its act; `tell` is called in between."""

    def __init__(self, vault, tell):
        self.vault, self.tell = vault, tell

    def run(self, call):
        digest, changes = self.vault.store("blue", b"columns", "text/plain")
        self.tell()
        return StageResult(changes=changes, outputs={"columns": digest})


def test_a_step_whose_objects_were_condemned_has_failed_and_can_be_run_again(declare, tmp_path):
    catalogue = declare(TEXT)
    keys = KeyRing.open(tmp_path / "keys", create=True)
    vault = Vault(catalogue, MemoryBlobStore(), keys)
    hall = SimpleNamespace(catalogue=catalogue, keys=keys, vault=vault)
    meanwhile = [lambda: Control(hall).rotate_keys(retire=True)]
    walk = Walk(catalogue, {"data": Stored(vault, lambda: [meanwhile.pop()() for _ in meanwhile[:]])}, AutoClock())
    step = SimpleNamespace(key="s1", stage="data", name="data", label="data", parts={})
    intent = SimpleNamespace(loaded=read_app(tmp_path / "app.yaml", KINDS), champion=None)
    go = partial(
        walk._step, catalogue.get(App, "loans"), intent, SimpleNamespace(step=step, why="new"), {}, print, Cancel()
    )
    with pytest.raises(ConflictError, match="what 'data' made was not kept") as said:
        go()
    assert (said.value.hint, catalogue.get(Step, "s1").state) == ("run it again", "failed")
    outputs = go()
    assert catalogue.get(Step, "s1").state == "done"
    assert vault.read("blue", outputs["columns"]) == b"columns"
