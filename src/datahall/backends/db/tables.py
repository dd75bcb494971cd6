"""The tables of a hall's database, alike in SQLite and Postgres; those of records follow from their `KIND` and `INDEX`."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Computed,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    Table,
    Text,
)
from sqlalchemy.ext.compiler import compiles

from datahall.core.records import CATALOGUE_RECORDS, Record

REVISION = "0002"
"""The newest schema, as the migrations in `migrations/versions` call it."""

METADATA = MetaData()

Int = Integer().with_variant(BigInteger(), "postgresql")
"""64 bits: what SQLite's STRICT tables call INTEGER."""

Str = Text().with_variant(Text(collation="C"), "postgresql")
"""Text that is ordered by its bytes, whatever the language of the server."""

entry_seq = Sequence("entry_seq", start=0, minvalue=0, cache=1)
"""Numbers of entries in Postgres; never part of `METADATA`, since SQLite counts the rows instead."""

schema = Table("alembic_version", METADATA, Column("version_num", Str, primary_key=True), sqlite_strict=True)
"""One row, the revision of this database: Alembic's own table, which a start reads without loading Alembic."""

entries = Table(
    "entries",
    METADATA,
    Column("seq", Int, primary_key=True, autoincrement=False),
    Column("kind", Str, nullable=False),
    Column("app", Str),
    Column("body", LargeBinary, nullable=False),
    sqlite_strict=True,
)
"""One row an act; `body` is the leaf of the Merkle tree."""

vouchers = Table(
    "vouchers",
    METADATA,
    Column("seq", Int, primary_key=True, autoincrement=False),
    Column("mac", LargeBinary, nullable=False),
    sqlite_strict=True,
)
"""Shows of each entry that is not in the tree yet that the hall itself wrote it; the signed tree shows it from then on."""

touched = Table(
    "touched",
    METADATA,
    Column("kind", Str, primary_key=True),
    Column("id", Str, primary_key=True),
    Column("seq", Int, primary_key=True, autoincrement=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
"""Which entries changed a record: an index into `entries`, and no more than that."""

nodes = Table(
    "nodes",
    METADATA,
    Column("level", Int, primary_key=True, autoincrement=False),
    Column("idx", Int, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
"""Hashes of complete subtrees: level 0 holds the leaves, `(level, idx)` covers leaves idx * 2**level onwards."""

checkpoints = Table(
    "checkpoints",
    METADATA,
    Column("size", Int, primary_key=True, autoincrement=False),
    Column("origin", Str, nullable=False),
    Column("root", LargeBinary, nullable=False),
    Column("note", Str, nullable=False),
    sqlite_strict=True,
)
"""Every signed tree head, newest the largest."""

leases = Table(
    "leases",
    METADATA,
    Column("name", Str, primary_key=True),
    Column("holder", Str, nullable=False),
    Column("token", Int, nullable=False),
    Column("beats", Int, nullable=False),
    Column("ttl_ms", Int, nullable=False),
    sqlite_strict=True,
)
"""Who does what; an empty holder has given it back, and `beats` grows while the holder lives."""

calls = Table(
    "calls",
    METADATA,
    Column("id", Str, primary_key=True),
    Column("seq", Int, nullable=False, index=True),
    Column("request", Str, nullable=False),
    Column("reply", LargeBinary, nullable=False),
    sqlite_strict=True,
)
"""Mutating calls that carried an idempotency key: the digest of what was asked, and the sealed answer."""


class BodyField(ColumnElement[str]):
    """One field of a record's body, read by the database itself."""

    inherit_cache = False

    def __init__(self, field: str, *, integer: bool) -> None:
        self.field, self.integer = field, integer


@compiles(BodyField)
def _in_sqlite(element: BodyField, _compiler: object, **_options: object) -> str:
    return f"json_extract(body, '$.{element.field}')"


@compiles(BodyField, "postgresql")
def _in_postgres(element: BodyField, _compiler: object, **_options: object) -> str:
    # Postgres has no text with a NUL, and refuses to read JSON that holds one anywhere.
    text = rf"replace(body, '\u0000', '\ufffd')::json ->> '{element.field}'"
    return f"({text})::bigint" if element.integer else text


@compiles(Computed, "postgresql")
def _stored_in_postgres(element: Computed, compiler: Any, **_options: object) -> str:
    body = compiler.sql_compiler.process(element.sqltext, include_table=False, literal_binds=True)
    return f"GENERATED ALWAYS AS ({body}) STORED"  # the only kind before Postgres 18


def _record_table(kind: type[Record]) -> Table:
    types = {field.name: field.type for field in msgspec.structs.fields(kind)}
    # The database itself computes each indexed column from the body, so the two can never disagree.
    indexed = [
        Column(name, Int if types[name] is int else Str, Computed(BodyField(name, integer=types[name] is int)))
        for name in kind.INDEX
    ]
    table = Table(
        f"record_{kind.KIND}",
        METADATA,
        Column("id", Str, primary_key=True),
        Column("seq", Int, nullable=False),
        Column("body", Str, nullable=False),
        *indexed,
        sqlite_strict=True,
    )
    for name in kind.INDEX:
        Index(f"ix_{kind.KIND}_{name}", table.c[name], table.c.seq)
    return table


RECORD_TABLES: dict[str, Table] = {kind.KIND: _record_table(kind) for kind in CATALOGUE_RECORDS}
"""KIND to table: the record's canonical JSON, and the sequence number of the entry that last wrote it."""
