"""Whether a database's schema is this version's, and making a new one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from functools import cache, partial

from sqlalchemy import Dialect
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateSequence, CreateTable

from datahall.backends.db.tables import METADATA, REVISION, entry_seq
from datahall.core.durable import step
from datahall.core.errors import SchemaError, UserError

APPLICATION_ID = 0x44415448  # "DATH", so that a stranger's database is never taken for a hall
FIRST_REVISION = "0001"
"""What halls had before their revision was written down."""

MIGRATE = "datahall doctor --migrate"


def prepare(connection: sqlite3.Connection, where: str) -> None:
    """Make the tables of a new file, or check those of an old one.

    Raises UserError for a file that is no hall, SchemaError for one whose schema is not this version's.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        if is_empty(connection, where):
            for statement in definitions():
                connection.execute(statement)
            connection.execute("INSERT INTO alembic_version VALUES (?)", (REVISION,))
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            # The first release knows this number only, and refuses one that is higher than its own.
            connection.execute(f"PRAGMA user_version = {int(REVISION)}")
        else:
            check_revision(revision_of(connection), where)
        step("db.prepare/commit", partial(connection.execute, "COMMIT"))
    except BaseException:  # a refused file must stay exactly as it was
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def is_empty(connection: sqlite3.Connection, where: str) -> bool:
    """Return whether the file holds nothing yet. Raises UserError where it holds something that is no hall."""
    (num_tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if num_tables and application != APPLICATION_ID:
        raise UserError("this database is no hall", where=where, hint="choose another with --hall DIR")
    return not num_tables


def revision_of(connection: sqlite3.Connection) -> str:
    """Return the revision of a hall's file."""
    named = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if named else None
    return str(row[0]) if row else FIRST_REVISION


def check_revision(revision: str, where: str) -> None:
    """Raise SchemaError, with the command to run, unless `revision` is the one that this version knows."""
    if revision > REVISION:  # four digits each, so they compare as numbers do
        raise SchemaError(
            f"this hall was written by a newer Datahall (schema {revision}, this one knows {REVISION})",
            where=where,
            hint="upgrade with: pip install --upgrade datahall",
        )
    if revision < REVISION:
        raise SchemaError(
            f"this hall was written by an older Datahall (schema {revision}, this one needs {REVISION})",
            where=where,
            hint=f"migrate it, after a snapshot that is made first, with: {MIGRATE}",
        )


@cache
def definitions(dialect: Dialect | None = None) -> tuple[str, ...]:
    """Return the statements that make every table and index, in Postgres also the sequence of entries' numbers."""
    return tuple(_definitions(dialect or sqlite.dialect()))


def _definitions(dialect: Dialect) -> Iterator[str]:
    if dialect.supports_sequences:
        yield str(CreateSequence(entry_seq).compile(dialect=dialect))
    for table in METADATA.sorted_tables:
        yield str(CreateTable(table).compile(dialect=dialect))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            yield str(CreateIndex(index).compile(dialect=dialect))
