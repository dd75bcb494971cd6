"""Writes a hall that lives in Postgres into a SQLite file, so that whatever reads a hall's file reads it too.

The stand-alone verifier, a backup and the snapshot before a migration all take such a file.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, Table, select

from datahall.backends.db.engines import said_plainly
from datahall.backends.db.schema import prepare
from datahall.backends.db.tables import METADATA
from datahall.core.durable import rename, sync_file, sync_folder

_NUM_AT_ONCE = 1000


class Whole(Protocol):
    """A catalogue that can be read as of one moment."""

    def reading_whole(self) -> AbstractContextManager[Connection]:
        """Yield a connection that sees every entry up to the newest."""


def export_sqlite(catalogue: Whole, path: Path) -> None:
    """Write everything in `catalogue`, as of one moment, to the SQLite file at `path`, durable and with mode 0600.

    A thousand rows are in memory at once. A file that is there is replaced once the new one is whole.
    Raises UnavailableError and StorageFullError of either database.
    """
    temporary = path.with_name(f".{path.name}.export")
    with said_plainly(path):
        with suppress(FileNotFoundError):
            temporary.unlink()  # of an export that was cut short
        os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            with closing(sqlite3.connect(temporary, isolation_level=None)) as file:
                file.execute("PRAGMA journal_mode = OFF")  # it has its name only once it is whole
                file.execute("PRAGMA synchronous = OFF")
                prepare(file, str(path))
                with catalogue.reading_whole() as connection:
                    _copy_all(connection, file)
            with temporary.open("rb") as written:
                sync_file(written.fileno(), at="db.export")
            rename(temporary, path, at="db.export")
        except BaseException:  # the half-written copy must not outlive even a Ctrl-C
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent, at="db.export")


def _copy_all(connection: Connection, file: sqlite3.Connection) -> None:
    file.execute("BEGIN")
    file.execute("DELETE FROM alembic_version")
    for table in METADATA.sorted_tables:
        _copy(table, connection, file)
    file.execute("COMMIT")


def _copy(table: Table, connection: Connection, file: sqlite3.Connection) -> None:
    columns = [column for column in table.columns if column.computed is None]
    names = ", ".join(column.name for column in columns)
    marks = ", ".join("?" * len(columns))
    insert = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"  # noqa: S608  (names of tables.py)
    rows = connection.execution_options(yield_per=_NUM_AT_ONCE).execute(select(*columns))
    for some in rows.partitions():
        file.executemany(insert, [tuple(row) for row in some])
