"""A record is believed only when its entry lies unchanged under a signed head."""

from __future__ import annotations

import sqlite3

import msgspec
import pytest

from datahall.core.errors import IntegrityError, NotFoundError, UnavailableError
from datahall.core.records import Act, App, Change, Policy
from datahall.ledger.anchor import Anchors, anchored, require_anchored
from datahall.ledger.bodies import entry_body, record_digest
from datahall.ledger.checkpoint import sign_checkpoint
from datahall.ledger.proofs import InclusionProof, check_extends, check_inclusion, lies_in_tree, prove_inclusion
from datahall.ledger.sequencer import Sequencer
from datahall.testing.catalogue import app, declare

ORIGIN = "datahall.test/hall"


def edit(store, statement, *values):
    connection = sqlite3.connect(store.path)
    with connection:
        connection.execute(statement, values)
    connection.close()


def test_every_integrated_entry_is_proven_and_travels_as_json(store, signer, history):
    for entry in store.entries(0, 7):
        proof = msgspec.json.decode(msgspec.json.encode(prove_inclusion(store, entry.seq)), type=InclusionProof)
        assert proof.entry == entry_body(entry)
        check_inclusion(proof, signer.public_key)


@pytest.mark.parametrize("seq", [-1, 7, 8, 100])
def test_what_is_not_in_the_tree_has_no_proof(store, history, seq):
    with pytest.raises(NotFoundError):
        prove_inclusion(store, seq)


def test_an_empty_tree_proves_nothing(store):
    with pytest.raises(NotFoundError):
        prove_inclusion(store, 0)


def test_an_altered_proof_is_refused(store, signer, other_signer, history):
    proof = prove_inclusion(store, 3)
    replace = msgspec.structs.replace
    for altered in (
        replace(proof, entry=proof.entry.replace(b"tester", b"forger")),
        replace(proof, seq=2),
        replace(proof, path=proof.path[:-1]),
        replace(proof, note=history[0].note),
    ):
        with pytest.raises(IntegrityError):
            check_inclusion(altered, signer.public_key)
    with pytest.raises(IntegrityError):
        check_inclusion(proof, other_signer.public_key)


def test_a_ledger_that_grew_extends_what_was_held(store, sequencer, signer, history):
    sequencer.flush()
    for held in (*history, store.checkpoint()):
        check_extends(store, held.note, signer.public_key)


def test_a_shorter_a_forked_and_a_foreign_ledger_are_told(store, signer, other_signer, history):
    longer = sign_checkpoint(ORIGIN, 8, bytes(32), signer).note
    with pytest.raises(IntegrityError, match="cut off"):
        check_extends(store, longer, signer.public_key)
    for size in (3, 7):
        with pytest.raises(IntegrityError, match="rewritten"):
            check_extends(store, sign_checkpoint(ORIGIN, size, bytes(32), signer).note, signer.public_key)
    with pytest.raises(IntegrityError, match="not signed"):
        check_extends(store, sign_checkpoint(ORIGIN, 4, history[0].root, other_signer).note, signer.public_key)
    with pytest.raises(IntegrityError, match="stands where"):
        check_extends(store, sign_checkpoint("elsewhere", 4, history[0].root, signer).note, signer.public_key)


def test_an_empty_ledger_does_not_extend_anything(store, signer):
    with pytest.raises(IntegrityError, match="cut off"):
        check_extends(store, sign_checkpoint(ORIGIN, 1, bytes(32), signer).note, signer.public_key)


def test_an_integrated_record_is_anchored(store, signer, history):
    record = store.get(App, "a")
    assert record.spec_digest == "1"
    assert anchored(store, store, record, signer.public_key, origin=ORIGIN)
    require_anchored(store, store, record, signer.public_key)


def test_a_record_waits_for_its_entry_to_be_integrated(store, sequencer, signer, history):
    for name in "fc":  # written, and changed, after the newest checkpoint
        record = store.get(App, name)
        assert not anchored(store, store, record, signer.public_key)
        with pytest.raises(UnavailableError):
            require_anchored(store, store, record, signer.public_key)
    sequencer.flush()
    assert anchored(store, store, store.get(App, "c"), signer.public_key)


def test_before_the_first_checkpoint_nothing_is_anchored(store, signer):
    declare(store, app())
    assert anchored(store, store, app(), signer.public_key) is False


def test_records_that_the_ledger_does_not_know_are_refused(store, signer, history):
    was = app("a")  # replaced since
    deleted = app("b")
    edited = app("d", digest="edited")
    for record in (was, deleted, edited, app("nobody")):
        with pytest.raises(IntegrityError, match="not what the ledger says"):
            anchored(store, store, record, signer.public_key)


def test_another_hall_s_key_or_origin_is_refused(store, signer, other_signer, history):
    with pytest.raises(IntegrityError):
        anchored(store, store, app("d"), other_signer.public_key)
    with pytest.raises(IntegrityError):
        anchored(store, store, app("d"), signer.public_key, origin="elsewhere")


def test_a_record_written_with_a_forged_entry_is_refused(store, signer, history):
    """Row and entry rewritten so that they agree: only the tree tells."""
    forged = app("d", digest="forged")
    entry = store.touching("app", "d")[-1]
    mark = msgspec.structs.replace(entry.touched[0], digest=record_digest(forged))
    body = entry_body(msgspec.structs.replace(entry, touched=(mark,)))
    edit(store, "UPDATE entries SET body = ? WHERE seq = ?", body, entry.seq)
    edit(store, "UPDATE record_app SET body = ? WHERE id = 'd'", msgspec.json.encode(forged, order="sorted").decode())
    assert store.get(App, "d") == forged  # the control: nothing but the tree knows
    with pytest.raises(IntegrityError):
        anchored(store, store, forged, signer.public_key)


def test_leaves_that_are_not_those_signed_are_told(store, signer, history):
    class TwoFaced:
        """A store whose leaves are not what its catalogue shows."""

        def __getattr__(self, name):
            return getattr(store, name)

        def leaf_bytes(self, start, stop):
            return [body + b" " for body in store.leaf_bytes(start, stop)]

    with pytest.raises(IntegrityError, match="not those that were signed"):
        anchored(store, TwoFaced(), app("d"), signer.public_key)


def test_a_whole_number_in_a_float_field_is_anchored_alike(store, signer, sequencer, clock):
    policy = Policy(id="pol_1", app="a", claims=(), evidence_days=30)
    store.act(Act(kind="app.declared", actor="tester", changes=(Change(new=policy),)))
    Sequencer(store, signer, ORIGIN, clock).flush()
    assert anchored(store, store, policy, signer.public_key)
    assert anchored(store, store, store.get(Policy, "pol_1"), signer.public_key)


def roll_back(store, name, seq, was):
    """Put an older, once true row back, and take the later lines out of its history."""
    edit(store, "DELETE FROM touched WHERE kind = 'app' AND id = ? AND seq > ?", name, seq)
    body = msgspec.json.encode(was, order="sorted").decode()
    edit(store, "UPDATE record_app SET seq = ?, body = ? WHERE id = ?", seq, body, name)


def test_a_record_put_back_to_what_it_once_was_is_refused(store, signer, history):
    roll_back(store, "a", 0, app("a"))
    assert store.get(App, "a") == app("a")  # the control: row, history and entry agree
    with pytest.raises(IntegrityError, match="not what the ledger says"):
        anchored(store, store, app("a"), signer.public_key)


def test_a_rewritten_later_entry_does_not_help_the_forger(store, signer, history):
    entry = store.touching("app", "a")[-1]
    roll_back(store, "a", 0, app("a"))
    forged = entry_body(msgspec.structs.replace(entry, touched=()))
    edit(store, "UPDATE entries SET body = ? WHERE seq = ?", forged, entry.seq)
    with pytest.raises(IntegrityError, match="not those that were signed"):
        anchored(store, store, app("a"), signer.public_key)


def test_anchors_keep_up_with_the_ledger_reading_each_entry_once(store, sequencer, signer, history):
    class Counting:
        """Counts the leaves that are read."""

        num_read = 0

        def __getattr__(self, name):
            return getattr(store, name)

        def leaf_bytes(self, start, stop):
            self.num_read += stop - start
            return store.leaf_bytes(start, stop)

    counting = Counting()
    anchors = Anchors(store, counting, signer.public_key)
    assert anchors.holds(store.get(App, "a"))
    assert not anchors.holds(store.get(App, "f"))
    assert counting.num_read == 7
    sequencer.flush()
    assert anchors.holds(store.get(App, "f"))
    anchors.require(store.get(App, "c"))
    assert counting.num_read == 9
    with pytest.raises(IntegrityError):
        anchors.holds(app("c"))


def test_a_long_ledger_is_read_in_parts(store, signer, history, monkeypatch):
    monkeypatch.setattr("datahall.ledger.anchor._BATCH", 3)
    assert anchored(store, store, app("d"), signer.public_key)
    assert anchored(store, store, store.get(App, "e"), signer.public_key)


def test_a_ledger_rolled_back_between_two_questions_is_told(store, signer, history):
    anchors = Anchors(store, store, signer.public_key)
    assert anchors.holds(app("d"))
    edit(store, "DELETE FROM checkpoints WHERE size = 7")
    with pytest.raises(IntegrityError, match="rolled back"):
        anchors.holds(app("d"))
    edit(store, "DELETE FROM checkpoints")
    with pytest.raises(IntegrityError, match="rolled back"):
        anchors.holds(app("d"))


def test_what_a_refused_ledger_said_is_not_remembered(store, sequencer, signer, history):
    anchors = Anchors(store, store, signer.public_key)
    assert anchors.holds(app("d"))
    sequencer.flush()
    (body,) = store.leaf_bytes(7, 8)
    edit(store, "UPDATE entries SET body = ? WHERE seq = 7", body.replace(b"tester", b"forger"))
    with pytest.raises(IntegrityError, match="rewritten"):
        anchors.holds(store.get(App, "d"))
    edit(store, "UPDATE entries SET body = ? WHERE seq = 7", body)
    assert anchors.holds(app("d"))


def test_an_entry_lies_in_the_tree_once_it_is_integrated_and_only_as_it_is(store, signer, clock):
    entry = declare(store, app("later"))
    public = signer.public_key
    assert lies_in_tree(store, entry, public_key=public) is False
    Sequencer(store, signer, ORIGIN, clock).flush()
    assert lies_in_tree(store, entry, public_key=public) is True
    with pytest.raises(IntegrityError):
        lies_in_tree(store, msgspec.structs.replace(entry, actor="somebody else"), public_key=public)
