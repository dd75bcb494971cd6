"""The truth about everything in the hall."""

from __future__ import annotations

from typing import Protocol

from datahall.core.records import Act, Checkpoint, Entry, Lease, R


class Catalogue(Protocol):
    """Records that change only together with a ledger entry.

    Safe to call from several threads; reads never wait for a writer. `act` returns only once its
    transaction is durable. There is no other way to write.
    """

    def get(self, kind: type[R], record_id: str) -> R:
        """Return one record. Raises NotFoundError; IntegrityError where its row does not match its ledger entry."""

    def find(self, kind: type[R], **equals: str | int) -> list[R]:
        """Return the records whose indexed fields equal `equals`, ordered by the entry that last wrote them."""

    def act(self, act: Act) -> Entry:
        """Write all changes of `act` and its entry, or nothing.

        Raises ConflictError where a record is not what its change's `old` says or one that excludes it is there
        (`Record.excluded_by`), FencedError where `fence` has passed on, RepeatedError where `call` was done before, StorageFullError where the disk does
        not take it.
        """

    def reply(self, call_id: str, request: str) -> bytes | None:
        """Return the sealed answer to a call that was done before, None for a new one.

        Raises ConflictError where the same key was used for another request.
        """

    def entries(self, start: int = 0, stop: int | None = None) -> list[Entry]:
        """Return the entries with start <= seq < stop; sequence numbers begin at 0 and have no gap."""

    def touching(self, kind: str, record_id: str) -> list[Entry]:
        """Return the entries that changed one record, oldest first."""


class LedgerStore(Protocol):
    """Where the sequencer keeps the Merkle tree over the entries' canonical bytes."""

    def pending(self, limit: int) -> list[tuple[int, bytes]]:
        """Return `(seq, canonical bytes)` of at most `limit` entries that are not in the tree, in order."""

    def leaf_bytes(self, start: int, stop: int) -> list[bytes]:
        """Return the canonical bytes of the integrated entries with start <= seq < stop."""

    def nodes(self, places: list[tuple[int, int]]) -> list[bytes]:
        """Return the hashes of complete subtrees at `(level, index)`. Raises IntegrityError if one is missing."""

    def integrate(
        self, nodes: dict[tuple[int, int], bytes], checkpoint: Checkpoint, *, fence: Lease | None = None
    ) -> None:
        """Write new complete subtrees and the checkpoint that covers them, in one transaction.

        Raises ConflictError where another sequencer was first, FencedError where `fence` has passed on.
        """

    def checkpoint(self) -> Checkpoint | None:
        """Return the newest checkpoint, None before the first."""
