"""Entries reach the tree, what is signed extends what was signed, and a contradiction is told."""

from __future__ import annotations

import sqlite3
import threading
from functools import partial

import pytest

from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.backends.witness.file import FileWitness
from datahall.core.errors import ConflictError, IntegrityError, UnavailableError
from datahall.ledger import tree
from datahall.ledger.bodies import entry_body
from datahall.ledger.checkpoint import sign_checkpoint, verify_note
from datahall.ledger.sequencer import Sequencer, integrate
from datahall.ledger.tree import consistency_proof
from datahall.testing.catalogue import app, declare

ORIGIN = "datahall.test/hall"


class ListWitness:
    """Remembers what is published; refuses when told to."""

    def __init__(self):
        self.notes, self.refuses = [], False

    def newest(self, origin):
        return self.notes[-1] if self.notes else None

    def publish(self, origin, note):
        if self.refuses:
            raise IntegrityError("rolled back")
        self.notes.append(note)


def edit(store, statement):
    connection = sqlite3.connect(store.path)
    with connection:
        connection.execute(statement)
    connection.close()


def test_the_root_is_that_of_the_entries_canonical_bytes(store, sequencer, signer, history):
    leaves = [tree.leaf_hash(entry_body(entry)) for entry in store.entries()]
    for checkpoint in history:
        assert checkpoint.root == tree.append(0, leaves[: checkpoint.size], store.nodes)[1]
        assert verify_note(checkpoint.note, signer.public_key, origin=ORIGIN) == checkpoint
    assert [checkpoint.size for checkpoint in history] == [4, 7]
    assert [seq for seq, _ in store.pending(9)] == [7, 8]


def test_an_empty_ledger_has_no_checkpoint(store, sequencer, clock):
    assert sequencer.flush() is None
    assert sequencer.flushed_at_ns == clock.now_ns()


def test_nothing_new_keeps_the_checkpoint(store, sequencer):
    declare(store, app())
    first = sequencer.flush()
    assert sequencer.flush() == first == store.checkpoint()


def test_integrating_in_small_batches_gives_the_same_tree(store, signer, sequencer):
    for name in "abcde":
        declare(store, app(name))
    sizes = []
    while checkpoint := integrate(store, signer, ORIGIN, limit=2):
        sizes.append(checkpoint.size)
    assert sizes == [2, 4, 5]
    leaves = [tree.leaf_hash(entry_body(entry)) for entry in store.entries()]
    assert store.checkpoint().root == tree.append(0, leaves, store.nodes)[1]
    assert integrate(store, signer, ORIGIN) is None


def test_flush_takes_more_than_one_batch(store, sequencer, monkeypatch):
    monkeypatch.setattr("datahall.ledger.sequencer._BATCH", 2)
    monkeypatch.setattr(integrate, "__kwdefaults__", {"limit": 2})
    for name in "abcde":
        declare(store, app(name))
    assert sequencer.flush().size == 5


def test_flush_ends_although_others_keep_writing(store, signer, clock):
    class Busy:
        """A store into which somebody writes whenever it is integrated."""

        def __getattr__(self, name):
            return getattr(store, name)

        def integrate(self, nodes, checkpoint, *, fence=None):
            store.integrate(nodes, checkpoint)
            declare(store, app(f"app-{checkpoint.size}"))

    declare(store, app())
    assert Sequencer(Busy(), signer, ORIGIN, clock).flush().size == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE nodes SET hash = zeroblob(32) WHERE level = 2",
        "DELETE FROM nodes WHERE level = 2",
        "UPDATE checkpoints SET note = replace(note, '4', '5')",
        "UPDATE checkpoints SET size = 3",
        "DELETE FROM entries WHERE seq = 5",
        "DELETE FROM entries WHERE seq = 4",
    ],
)
def test_nothing_is_signed_over_a_damaged_tree(store, sequencer, statement):
    for name in "abcd":
        declare(store, app(name))
    before = sequencer.flush()
    for name in "efg":
        declare(store, app(name))
    edit(store, statement)
    with pytest.raises(IntegrityError):
        sequencer.flush()
    assert isinstance(sequencer.problem, IntegrityError)
    assert store.checkpoint().root == before.root


def test_another_key_or_origin_does_not_go_on_with_this_tree(store, sequencer, other_signer, signer, clock):
    declare(store, app("a"))
    sequencer.flush()
    declare(store, app("b"))
    for stranger in (Sequencer(store, other_signer, ORIGIN, clock), Sequencer(store, signer, "elsewhere", clock)):
        with pytest.raises(IntegrityError):
            stranger.flush()
    assert sequencer.flush().size == 2


def test_of_two_sequencers_one_wins_and_the_tree_stays_whole(store, signer, sequencer):
    declare(store, app("a"))
    pending = store.pending(1)
    nodes, root = tree.append(0, [tree.leaf_hash(pending[0][1])], store.nodes)
    late = sign_checkpoint(ORIGIN, 1, root, signer)
    sequencer.flush()
    with pytest.raises(ConflictError):
        store.integrate(nodes, late)
    declare(store, app("b"))
    assert sequencer.flush().size == 2


def test_each_checkpoint_is_published_once(store, signer, clock):
    witness = ListWitness()
    sequencer = Sequencer(store, signer, ORIGIN, clock, witness=witness)
    sequencer.flush()
    assert witness.notes == []
    for name in "ab":
        declare(store, app(name))
        note = sequencer.flush().note
        sequencer.flush()
        assert witness.notes[-1] == note
    assert len(witness.notes) == 2


def test_a_witness_that_refuses_is_heard_and_kept_as_problem(store, signer, clock):
    witness = ListWitness()
    sequencer = Sequencer(store, signer, ORIGIN, clock, witness=witness)
    declare(store, app())
    witness.refuses = True
    with pytest.raises(IntegrityError, match="rolled back"):
        sequencer.flush()
    assert "rolled back" in str(sequencer.problem)
    witness.refuses = False
    assert sequencer.flush().note == witness.notes[-1]
    assert sequencer.problem is None


def test_the_thread_integrates_by_itself_and_stop_takes_the_rest(store, signer, clock):
    published = threading.Event()

    class Telling(ListWitness):
        def publish(self, origin, note):
            super().publish(origin, note)
            published.set()

    sequencer = Sequencer(store, signer, ORIGIN, clock, witness=Telling(), interval_s=0.001)
    sequencer.start()
    sequencer.start()
    try:
        declare(store, app("a"))
        assert published.wait(10)
        declare(store, app("b"))
    finally:
        sequencer.stop()
    assert store.checkpoint().size == 2
    assert not any(thread.name == "sequencer" for thread in threading.enumerate())
    sequencer.stop()


def test_the_thread_outlives_a_failed_round(store, signer, clock):
    failed = threading.Event()

    class Failing(ListWitness):
        def publish(self, origin, note):
            if not failed.is_set():
                failed.set()
                raise IntegrityError("not now")
            super().publish(origin, note)

    witness = Failing()
    sequencer = Sequencer(store, signer, ORIGIN, clock, witness=witness, interval_s=0.001)
    declare(store, app())
    sequencer.start()
    assert failed.wait(10)
    sequencer.stop()
    assert len(witness.notes) == 1
    assert sequencer.problem is None


def test_a_stopped_sequencer_can_be_started_again_and_never_holds_the_process(store, signer, clock):
    published = threading.Event()

    class Telling(ListWitness):
        def publish(self, origin, note):
            super().publish(origin, note)
            published.set()

    sequencer = Sequencer(store, signer, ORIGIN, clock, witness=Telling(), interval_s=0.001)
    sequencer.start()
    sequencer.stop()
    sequencer.start()
    try:
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "sequencer"]
        assert thread.daemon
        declare(store, app())
        assert published.wait(10)
    finally:
        sequencer.stop()


def test_a_sequencer_that_died_is_followed_while_somebody_waits_for_it(store, signer, clock):
    gone = SqliteCatalogue(store.path, clock)
    assert gone.leases.acquire("sequencer") is not None
    declare(store, app())
    assert Sequencer(store, signer, ORIGIN, clock, coordinator=store.leases).flush().size == 1
    gone.close()


def test_a_sequencer_that_lives_is_waited_for(store, signer, clock):
    """The control of the test above: whoever holds the lease beats, and the other signs nothing."""
    other = SqliteCatalogue(store.path, clock)
    lease = other.leases.acquire("sequencer")
    declare(store, app())

    class Beating:
        monotonic_ns, now_ns = clock.monotonic_ns, clock.now_ns

        def sleep(self, seconds):
            clock.sleep(seconds)
            other.leases.beat()

    with pytest.raises(UnavailableError, match="does not integrate"):
        Sequencer(store, signer, ORIGIN, Beating(), coordinator=store.leases).flush()
    assert store.checkpoint() is None
    assert other.leases.leases() == [lease]
    other.close()


def test_a_sequencer_that_is_stopped_gives_its_lease_back(store, signer, clock):
    sequencer = Sequencer(store, signer, ORIGIN, clock, coordinator=store.leases)
    sequencer.start()
    declare(store, app())
    sequencer.flush()
    assert [lease.name for lease in store.leases.leases()] == ["sequencer"]
    sequencer.stop()
    assert store.leases.leases() == []


def test_a_head_that_another_process_has_outgrown_meanwhile_is_no_contradiction(store, signer, clock, tmp_path):
    """As where the lease passes on while a far witness is being told."""
    near = FileWitness(tmp_path, partial(consistency_proof, read=store.nodes))
    other = Sequencer(store, signer, ORIGIN, clock, witness=near)

    class Far(ListWitness):
        def publish(self, origin, note):
            if not self.notes:
                self.notes.append(note)
                declare(store, app("b"))
                other.flush()
            near.publish(origin, note)

    declare(store, app("a"))
    slow = Sequencer(store, signer, ORIGIN, clock, witness=Far())
    slow.flush()
    assert slow.problem is None
    assert near.newest(ORIGIN) == store.checkpoint().note


def test_who_does_not_hold_the_lease_tells_the_witness_nothing(store, signer, clock):
    other, witness = SqliteCatalogue(store.path, clock), ListWitness()
    declare(store, app())
    Sequencer(other, signer, ORIGIN, clock, coordinator=other.leases).flush()
    sequencer = Sequencer(store, signer, ORIGIN, clock, coordinator=store.leases, witness=witness)
    assert sequencer.flush().size == 1
    assert witness.notes == []
    other.close()  # the control: once the lease is free
    assert sequencer.flush().note == witness.notes[-1]


def test_the_thread_outlives_whatever_goes_wrong_and_keeps_it_as_problem(store, signer, clock):
    failed = threading.Event()

    class Broken(ListWitness):
        def publish(self, origin, note):
            failed.set()
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    sequencer = Sequencer(store, signer, ORIGIN, clock, witness=Broken(), interval_s=0.001)
    declare(store, app())
    sequencer.start()
    for _ in range(2):
        failed.clear()
        assert failed.wait(10)
    with pytest.raises(UnicodeDecodeError):
        sequencer.stop()
    assert isinstance(sequencer.problem, UnicodeDecodeError)
