"""A segment of the answer log as it lies in the blob store, where single answers can be erased from it."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from datahall.core.errors import IntegrityError
from datahall.core.records import Answer
from datahall.ledger.tree import leaf_hash
from datahall.serve.segment_files import decode

MEDIA_TYPE = "application/vnd.datahall.answers"


class StoredSegment(msgspec.Struct, frozen=True, kw_only=True):
    """One gateway's answers from `first_sequence` on, in order.

    In the place of an erased answer stands its leaf alone, so the root over all leaves stays what the ledger holds. A
    leaf is RFC 6962's hash of the record's exact bytes, in which is a random salt of 128 bits: it tells nothing about its
    record to anyone who does not have it.
    """

    gateway: str
    first_sequence: int
    records: tuple[bytes | None, ...]
    leaves: dict[int, bytes] = {}
    """Place in `records` to the 32-byte leaf of the answer that was erased there."""

    def leaf_list(self) -> list[bytes]:
        """Return one 32-byte leaf for each answer, in order."""
        return [
            self.leaves[index] if record is None else leaf_hash(record) for index, record in enumerate(self.records)
        ]

    def answer(self, index: int) -> Answer | None:
        """Return the answer at one place, None where it was erased. Raises IndexError."""
        record = self.records[index]
        return None if record is None else decode([record], f"{self.gateway}-{self.first_sequence + index}")[0]

    def without(self, sequences: Collection[int]) -> StoredSegment:
        """Return the segment with these answers erased; those that it does not hold are passed over."""
        gone = {sequence - self.first_sequence for sequence in sequences}
        leaves = {index: leaf for index, leaf in enumerate(self.leaf_list()) if index in gone or index in self.leaves}
        records = tuple(None if index in leaves else record for index, record in enumerate(self.records))
        return msgspec.structs.replace(self, records=records, leaves=leaves)


def encode_segment(segment: StoredSegment) -> bytes:
    """Return the bytes to store."""
    return msgspec.msgpack.encode(segment)


def decode_segment(data: bytes, where: str) -> StoredSegment:
    """Return what was stored. Raises IntegrityError for what cannot be a segment."""
    try:
        segment = msgspec.msgpack.decode(data, type=StoredSegment)
    except msgspec.DecodeError as error:
        raise IntegrityError(f"this is no stored answer segment: {error}", where=where) from error
    erased = {index for index, record in enumerate(segment.records) if record is None}
    if erased != segment.leaves.keys():
        raise IntegrityError("an erased answer has no leaf", where=where)
    return segment
