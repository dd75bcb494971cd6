"""A hall whose database was put back to an old copy is refused at its next checkpoint, whatever the witness."""

from __future__ import annotations

import shutil
from functools import partial

import pytest

from datahall.app.witnesses import open_witness, open_witnesses
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.backends.witness.file import FileWitness
from datahall.backends.witness.git import GitWitness
from datahall.backends.witness.url import UrlWitness
from datahall.core.errors import IntegrityError, UserError
from datahall.ledger.sequencer import Sequencer
from datahall.ledger.tree import consistency_proof
from datahall.security.signing import Ed25519Signer
from datahall.testing.catalogue import app, declare
from datahall.testing.clock import AutoClock
from tests.backends.note_server import serving

ORIGIN = "datahall/test"


@pytest.fixture(params=["file", "git", "url", "all"])
def texts(request, tmp_path):
    """What an owner would write: one witness of a kind, or one of each."""
    with serving() as server:
        every = {"file": f"file:{tmp_path}/notes", "git": f"git:{tmp_path}/repository", "url": server.url}
        yield list(every.values()) if request.param == "all" else [every[request.param]]


class Hall:
    """A database with its sequencer, opened anew for each act as after a restart."""

    def __init__(self, path, texts):
        self.path, self.texts, self.signer = path, texts, Ed25519Signer.generate()

    def declare(self, *names):
        clock = AutoClock()
        catalogue = SqliteCatalogue(self.path, clock)
        try:
            prove = partial(consistency_proof, read=catalogue.nodes)
            witness = open_witnesses(self.texts, prove, clock)
            sequencer = Sequencer(catalogue, self.signer, ORIGIN, clock, witness=witness)
            for name in names:
                declare(catalogue, app(name))
            sequencer.flush()
            return sequencer.problem
        finally:
            catalogue.close()


def test_an_old_copy_put_back_is_noticed_at_the_next_checkpoint(texts, tmp_path):
    hall = Hall(tmp_path / "hall.db", texts)
    assert hall.declare("a", "b") is None
    shutil.copy(hall.path, tmp_path / "old.db")
    assert hall.declare("c", "d") is None
    shutil.copy(hall.path, tmp_path / "new.db")
    shutil.copy(tmp_path / "old.db", hall.path)
    with pytest.raises(IntegrityError, match="cut off or rolled back"):
        hall.declare("e")
    shutil.copy(tmp_path / "old.db", hall.path)
    with pytest.raises(IntegrityError, match="rewritten"):
        hall.declare("e", "f", "g", "h")  # grown past what was witnessed, another way
    shutil.copy(tmp_path / "new.db", hall.path)
    assert hall.declare("e") is None, "the control: the newest copy goes on"


def test_without_a_witness_the_old_copy_goes_on(tmp_path):
    hall = Hall(tmp_path / "hall.db", [])
    hall.declare("a", "b")
    shutil.copy(hall.path, tmp_path / "old.db")
    hall.declare("c")
    shutil.copy(tmp_path / "old.db", hall.path)
    assert hall.declare("e") is None


def test_a_text_names_its_kind(tmp_path):
    assert isinstance(open_witness(f"file:{tmp_path}", list), FileWitness)
    assert isinstance(open_witness(f"git:{tmp_path}", list), GitWitness)
    assert isinstance(open_witness("https://host/heads", list), UrlWitness)
    assert open_witness("file:~/heads", list).folder.is_absolute()


@pytest.mark.parametrize("text", ["", "file:", "git:", "svn:/x", "/x", "file:x/y", "http://example.org/x", "https://"])
def test_what_names_no_witness_is_refused(text):
    with pytest.raises(UserError):
        open_witness(text, list)


def test_a_problem_names_a_witness_without_its_password():
    with serving() as server:
        url = server.url.replace("127.0.0.1", "somebody:hidden@127.0.0.1")
    witnesses = open_witnesses([url], list, AutoClock())
    with pytest.raises(Exception, match=r"127\.0\.0\.1") as away:
        witnesses.newest(ORIGIN)
    assert "hidden" not in str(away.value)
