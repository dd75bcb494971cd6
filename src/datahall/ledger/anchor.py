"""Whether a record is what the signed ledger says: asked before anything that rests on it gets traffic."""

from __future__ import annotations

import threading

from datahall.core.errors import IntegrityError, UnavailableError
from datahall.core.ports import Catalogue, LedgerStore
from datahall.core.records import Record
from datahall.ledger import tree
from datahall.ledger.bodies import read_entry, record_digest
from datahall.ledger.checkpoint import verify_note

_BATCH = 5_000  # entries read at once


class Anchors:
    """What the signed ledger says about every record, read from the entries themselves and kept up to date.

    Nothing stored is taken on trust but the signature: every entry is hashed, the root over all of them must be
    the one that `public_key` (raw Ed25519, 32 bytes) signed, and only then does what they say count. Stored tree nodes and the
    index of who touched what are not looked at, so writing to them gains nothing.

    The first question reads the whole ledger (about 10 us an entry), each later one what was integrated since.
    Memory: about 250 bytes a record. Threads: any may ask.
    """

    def __init__(
        self, catalogue: Catalogue, store: LedgerStore, public_key: bytes, *, origin: str | None = None
    ) -> None:
        self._catalogue, self._store = catalogue, store
        self._public_key, self._origin = public_key, origin
        self._turn = threading.Lock()
        self._size = 0
        self._frontier: list[bytes] = []
        self._digests: dict[tuple[str, str], str | None] = {}

    def holds(self, record: Record) -> bool:
        """Return whether `record` is what the newest integrated entry about it says.

        False where it was written by an entry that is not integrated yet. Raises IntegrityError where the record,
        its entry or the tree was changed, and where the ledger was cut off or rewritten since the last question.
        """
        with self._turn:
            self._catch_up()
            said, size = self._digests.get((record.KIND, record.id)), self._size
        digest = record_digest(record)
        later = [entry for entry in self._catalogue.touching(record.KIND, record.id) if entry.seq >= size]
        if later:
            marks = {(mark.kind, mark.id): mark.digest for mark in later[-1].touched}
            if marks.get((record.KIND, record.id)) == digest:
                return False
        elif said == digest:
            return True
        raise IntegrityError(
            f"{record.KIND} '{record.id}' is not what the ledger says about it",
            hint="see everything with: datahall verify",
        )

    def require(self, record: Record) -> None:
        """Return only if `record` is anchored.

        Raises IntegrityError as `holds` does, and UnavailableError where its entry is not integrated yet.
        """
        if not self.holds(record):
            raise UnavailableError(
                f"{record.KIND} '{record.id}' is not in the signed ledger yet", hint="try again in a second"
            )

    def ids(self, kind: str) -> frozenset[str]:
        """Return the ids of all records of one kind that the signed ledger says are there.

        Raises IntegrityError where the ledger was cut off or rewritten since the last question.
        """
        with self._turn:
            self._catch_up()
            return frozenset(name for (of, name), digest in self._digests.items() if of == kind and digest is not None)

    def _catch_up(self) -> None:
        """Read what was integrated since the last time, and accept it only under a signed root."""
        newest = self._store.checkpoint()
        if newest is None:
            size, root = 0, tree.EMPTY_ROOT
        else:
            signed = verify_note(newest.note, self._public_key, origin=self._origin)
            size, root = signed.size, signed.root
        if size < self._size:
            raise IntegrityError(f"the ledger has {size} signed entries, it had {self._size}: it was rolled back")
        frontier, digests = list(self._frontier), {}
        for start in range(self._size, size, _BATCH):
            for index, body in enumerate(self._store.leaf_bytes(start, min(start + _BATCH, size)), start=start):
                tree.push(frontier, index, tree.leaf_hash(body))
                digests.update({(mark.kind, mark.id): mark.digest for mark in read_entry(body).touched})
        if tree.fold(frontier) != root:
            raise IntegrityError(f"the {size} entries are not those that were signed: the ledger was rewritten")
        self._size, self._frontier = size, frontier
        self._digests.update(digests)


def anchored(
    catalogue: Catalogue, store: LedgerStore, record: Record, public_key: bytes, *, origin: str | None = None
) -> bool:
    """Return what `Anchors.holds` says, for one question alone: it reads the whole ledger each time."""
    return Anchors(catalogue, store, public_key, origin=origin).holds(record)


def require_anchored(
    catalogue: Catalogue, store: LedgerStore, record: Record, public_key: bytes, *, origin: str | None = None
) -> None:
    """Do what `Anchors.require` does, for one question alone."""
    Anchors(catalogue, store, public_key, origin=origin).require(record)
