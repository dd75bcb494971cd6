"""Proofs from a ledger's store: that an entry is in the tree, and that a tree extends an older one."""

from __future__ import annotations

import msgspec

from datahall.core.errors import IntegrityError, NotFoundError
from datahall.core.ports import LedgerStore
from datahall.core.records import Entry
from datahall.ledger.bodies import entry_body
from datahall.ledger.checkpoint import verify_note
from datahall.ledger.tree import consistency_proof, inclusion_proof, leaf_hash, verify_consistency, verify_inclusion


class InclusionProof(msgspec.Struct, frozen=True, kw_only=True):
    """All that somebody with the hall's public key needs to believe one entry: it can be sent as JSON."""

    seq: int
    entry: bytes
    """The canonical bytes of the entry."""
    path: tuple[bytes, ...]
    note: str
    """The checkpoint under which the entry lies."""


def prove_inclusion(store: LedgerStore, seq: int) -> InclusionProof:
    """Return the proof of entry `seq` under the newest checkpoint.

    Raises NotFoundError where the tree has not reached it, IntegrityError where the tree is damaged.
    """
    checkpoint = store.checkpoint()
    if checkpoint is None or not 0 <= seq < checkpoint.size:
        size = checkpoint.size if checkpoint else 0
        raise NotFoundError(f"entry {seq} is not in the tree, which has {size}", hint="try again in a second")
    (entry,) = store.leaf_bytes(seq, seq + 1)
    path = inclusion_proof(seq, checkpoint.size, store.nodes)
    return InclusionProof(seq=seq, entry=entry, path=tuple(path), note=checkpoint.note)


def check_inclusion(proof: InclusionProof, public_key: bytes) -> None:
    """Check `proof` against the hall's raw public key; needs no hall. Raises IntegrityError if it does not hold."""
    checkpoint = verify_note(proof.note, public_key)
    leaf = leaf_hash(proof.entry)
    if not verify_inclusion(leaf, proof.seq, checkpoint.size, proof.path, checkpoint.root):
        raise IntegrityError(f"entry {proof.seq} is not what lies under the checkpoint of {checkpoint.size} entries")


def lies_in_tree(store: LedgerStore, entry: Entry, *, public_key: bytes) -> bool:
    """Return whether an entry lies, exactly so, under the newest signed checkpoint; False before the tree reaches it.

    Raises IntegrityError where the tree says something else.
    """
    try:
        proof = prove_inclusion(store, entry.seq)
    except NotFoundError:
        return False
    check_inclusion(msgspec.structs.replace(proof, entry=entry_body(entry)), public_key)
    return True


def check_extends(store: LedgerStore, held_note: str, public_key: bytes) -> None:
    """Check that the newest checkpoint extends the one in `held_note`, so that nothing before it was rewritten.

    Raises IntegrityError for a shorter or forked tree.
    """
    held = verify_note(held_note, public_key)
    newest = store.checkpoint()
    if newest is None or newest.size < held.size:
        size = newest.size if newest else 0
        raise IntegrityError(f"the ledger has {size} entries, but {held.size} were seen before: some were cut off")
    newest = verify_note(newest.note, public_key, origin=held.origin)
    proof = consistency_proof(held.size, newest.size, store.nodes)
    if not verify_consistency(held.size, held.root, newest.size, newest.root, proof):
        raise IntegrityError(f"the ledger does not extend the {held.size} entries seen before: it was rewritten")
