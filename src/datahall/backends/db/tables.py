"""The tables of a hall's database, generated from the records' own `KIND` and `INDEX`."""

from __future__ import annotations

import msgspec
from sqlalchemy import Column, Computed, Index, Integer, LargeBinary, MetaData, Table, Text

from datahall.core.records import CATALOGUE_RECORDS, Record

SCHEMA_VERSION = 1
METADATA = MetaData()

entries = Table(
    "entries",
    METADATA,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("app", Text),
    Column("body", LargeBinary, nullable=False),
    sqlite_strict=True,
)
"""One row an act; `body` is the leaf of the Merkle tree."""

vouchers = Table(
    "vouchers",
    METADATA,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("mac", LargeBinary, nullable=False),
    sqlite_strict=True,
)
"""Shows of each entry that is not in the tree yet that the hall itself wrote it; the signed tree shows it from then on."""

touched = Table(
    "touched",
    METADATA,
    Column("kind", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
"""Which entries changed a record: an index into `entries`, and no more than that."""

nodes = Table(
    "nodes",
    METADATA,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("idx", Integer, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
"""Hashes of complete subtrees: level 0 holds the leaves, `(level, idx)` covers leaves idx * 2**level onwards."""

checkpoints = Table(
    "checkpoints",
    METADATA,
    Column("size", Integer, primary_key=True, autoincrement=False),
    Column("origin", Text, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("note", Text, nullable=False),
    sqlite_strict=True,
)
"""Every signed tree head, newest the largest."""


def _record_table(kind: type[Record]) -> Table:
    types = {field.name: field.type for field in msgspec.structs.fields(kind)}
    # The database itself computes each indexed column from the body, so the two can never disagree.
    indexed = [
        Column(name, Integer if types[name] is int else Text, Computed(f"json_extract(body, '$.{name}')", False))
        for name in kind.INDEX
    ]
    table = Table(
        f"record_{kind.KIND}",
        METADATA,
        Column("id", Text, primary_key=True),
        Column("seq", Integer, nullable=False),
        Column("body", Text, nullable=False),
        *indexed,
        sqlite_strict=True,
    )
    for name in kind.INDEX:
        Index(f"ix_{kind.KIND}_{name}", table.c[name], table.c.seq)
    return table


RECORD_TABLES: dict[str, Table] = {kind.KIND: _record_table(kind) for kind in CATALOGUE_RECORDS}
"""KIND to table: the record's canonical JSON, and the sequence number of the entry that last wrote it."""
