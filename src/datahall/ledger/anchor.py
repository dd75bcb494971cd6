"""Whether a record is what the signed ledger says: asked before anything that rests on it gets traffic."""

from __future__ import annotations

from datahall.core.errors import IntegrityError, UnavailableError
from datahall.core.ports import Catalogue, LedgerStore
from datahall.core.records import Record
from datahall.ledger.bodies import entry_body, record_digest
from datahall.ledger.checkpoint import verify_note
from datahall.ledger.proofs import check_inclusion, prove_inclusion


def anchored(
    catalogue: Catalogue, store: LedgerStore, record: Record, public_key: bytes, *, origin: str | None = None
) -> bool:
    """Return whether `record` lies under a signed checkpoint; False where its entry is not in the tree yet.

    The newest entry that touched the record must give its digest, and that entry's bytes must be included
    under the newest checkpoint, signed by `public_key` (raw Ed25519, 32 bytes).

    Raises IntegrityError where any of this contradicts: the record, its entry or the tree was changed.
    """
    history = catalogue.touching(record.KIND, record.id)
    digests = [mark.digest for mark in (history[-1].touched if history else ()) if _is(mark.kind, mark.id, record)]
    if digests != [record_digest(record)]:
        raise IntegrityError(
            f"{record.KIND} '{record.id}' is not what the ledger says about it",
            hint="see everything with: datahall verify",
        )
    newest = store.checkpoint()
    if newest is None or verify_note(newest.note, public_key, origin=origin).size <= history[-1].seq:
        return False
    proof = prove_inclusion(store, history[-1].seq)
    if proof.entry != entry_body(history[-1]):
        raise IntegrityError(f"entry {proof.seq} reads differently in the catalogue and in the tree")
    check_inclusion(proof, public_key)
    return True


def require_anchored(
    catalogue: Catalogue, store: LedgerStore, record: Record, public_key: bytes, *, origin: str | None = None
) -> None:
    """Return only if `record` is anchored.

    Raises IntegrityError as `anchored` does, and UnavailableError where the tree has not reached its entry.
    """
    if not anchored(catalogue, store, record, public_key, origin=origin):
        raise UnavailableError(
            f"{record.KIND} '{record.id}' is not in the signed ledger yet", hint="try again in a second"
        )


def _is(kind: str, record_id: str, record: Record) -> bool:
    return (kind, record_id) == (record.KIND, record.id)
