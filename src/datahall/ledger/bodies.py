"""The exact bytes of records and entries that digests, leaves and comparisons are made of."""

from __future__ import annotations

import msgspec

from datahall.core.canonical import canonical_json, digest_bytes
from datahall.core.errors import IntegrityError
from datahall.core.records import Entry, R, Record


def record_body(record: Record) -> bytes:
    """Return the canonical JSON of `record` as it reads back from the catalogue.

    The value passes through its type's own validation first: a whole number in a float field becomes a float
    (30 and 30.0 must not have two digests), and a field of the wrong type is refused before it is stored.

    Raises msgspec.ValidationError for a field of the wrong type and ValueError for NaN and infinities.
    """
    return canonical_json(read_record(type(record), canonical_json(record)))


def record_digest(record: Record) -> str:
    """Return the SHA-256 of `record_body`, the digest that an entry's `touched` names."""
    return digest_bytes(record_body(record))


def read_record(kind: type[R], body: bytes) -> R:
    """Return the record of class `kind` that `body` holds."""
    return msgspec.json.decode(body, type=kind)


def entry_body(entry: Entry) -> bytes:
    """Return the canonical JSON of `entry`: the bytes of its leaf in the tree."""
    return canonical_json(entry)


def read_entry(body: bytes) -> Entry:
    """Return the entry that `body` holds. Raises IntegrityError for bytes that are none: somebody changed them."""
    try:
        return msgspec.json.decode(body, type=Entry)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(
            f"an entry of the ledger cannot be read: {error}", hint="see everything with: datahall verify"
        ) from error
