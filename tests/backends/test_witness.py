"""A witness outside the hall refuses every shorter or forked head."""

from __future__ import annotations

import base64
import stat
from functools import partial

import pytest

from datahall.backends.witness.file import FileWitness, default_folder
from datahall.core.errors import IntegrityError
from datahall.ledger import tree

ORIGIN = "datahall.test/hall"


def note(size, root, origin=ORIGIN):
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n\n— {origin} AAAA\n"


class Ledger:
    """A tree of `size` leaves, the ones from `forked_at` on different."""

    def __init__(self, size, forked_at=10**9):
        self.nodes = {}
        leaves = [tree.leaf_hash(b"%d" % (n if n < forked_at else -n - 1)) for n in range(size)]
        self.nodes, _ = tree.append(0, leaves, self.read)
        self.size = size

    def read(self, places):
        return [self.nodes[place] for place in places]

    def note(self, size=None):
        size = self.size if size is None else size
        return note(size, tree.root(size, self.read))

    def prove(self, old, new):
        return tree.consistency_proof(old, new, self.read)


def test_a_growing_ledger_is_remembered(tmp_path):
    folder = tmp_path / "witness"
    for size in (1, 3, 3, 7, 20):
        ledger = Ledger(size)
        witness = FileWitness(folder, ledger.prove)
        witness.publish(ORIGIN, ledger.note())
        assert FileWitness(folder, ledger.prove).newest(ORIGIN) == ledger.note()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in folder.iterdir())


def test_nothing_is_known_of_a_hall_never_seen(tmp_path):
    assert FileWitness(tmp_path / "none", list).newest(ORIGIN) is None


@pytest.mark.parametrize("size", range(1, 9))
def test_every_truncation_is_refused_and_forgotten(tmp_path, size):
    long, short = Ledger(9), Ledger(size)
    FileWitness(tmp_path, long.prove).publish(ORIGIN, long.note())
    with pytest.raises(IntegrityError, match="cut off or rolled back"):
        FileWitness(tmp_path, short.prove).publish(ORIGIN, short.note())
    assert FileWitness(tmp_path, short.prove).newest(ORIGIN) == long.note()


@pytest.mark.parametrize("size", [9, 10, 12, 16, 30])
@pytest.mark.parametrize("forked_at", [0, 4, 8])
def test_every_fork_is_refused(tmp_path, size, forked_at):
    honest, forked = Ledger(9), Ledger(size, forked_at)
    FileWitness(tmp_path, honest.prove).publish(ORIGIN, honest.note())
    with pytest.raises(IntegrityError, match="rewritten"):
        FileWitness(tmp_path, forked.prove).publish(ORIGIN, forked.note())
    # The control: a ledger that differs only behind what was seen is one that grew.
    grown = Ledger(size, 9)
    FileWitness(tmp_path, grown.prove).publish(ORIGIN, grown.note())


def test_without_the_proof_a_fork_would_pass(tmp_path, monkeypatch):
    honest, forked = Ledger(9), Ledger(12, 4)
    FileWitness(tmp_path, honest.prove).publish(ORIGIN, honest.note())
    monkeypatch.setattr("datahall.backends.witness.file.verify_consistency", lambda *_: True)
    FileWitness(tmp_path, forked.prove).publish(ORIGIN, forked.note())


def test_halls_do_not_disturb_one_another(tmp_path):
    ledger = Ledger(5)
    witness = FileWitness(tmp_path, ledger.prove)
    witness.publish("a/b", note(5, bytes(32), "a/b"))
    witness.publish("a/c", note(1, bytes(32), "a/c"))
    assert witness.newest("a/b") == note(5, bytes(32), "a/b")
    with pytest.raises(IntegrityError, match="was published as one of"):
        witness.publish("a/b", note(6, bytes(32), "a/c"))


def test_what_is_no_note_is_refused(tmp_path):
    with pytest.raises(IntegrityError, match="not a checkpoint"):
        FileWitness(tmp_path, list).publish(ORIGIN, "nonsense")


def test_the_folder_is_the_user_s_own_place_for_state(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "datahall" / "witness"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".local" / "state" / "datahall" / "witness"


def test_a_proof_can_come_straight_from_a_store(tmp_path):
    ledger = Ledger(6)
    witness = FileWitness(tmp_path, partial(tree.consistency_proof, read=ledger.read))
    witness.publish(ORIGIN, ledger.note(4))
    witness.publish(ORIGIN, ledger.note())
    assert witness.newest(ORIGIN) == ledger.note()
