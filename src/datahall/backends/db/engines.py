"""Opening a hall's SQLite file: durability, permissions, and errors said in our own words."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event
from sqlalchemy.exc import DBAPIError

from datahall.backends.db.schema import prepare
from datahall.backends.db.unfinished import check_finished
from datahall.core.durable import step, sync_folder
from datahall.core.errors import DatahallError, IntegrityError, StorageFullError, UnavailableError

_BUSY_TIMEOUT_MS = 5_000
_READING = {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ}


def open_engines(path: Path, *, synchronous: str = "FULL") -> tuple[Writer, Engine]:
    """Return the writing connection and the reading engine (a connection a thread) of the hall at `path`.

    Creates the file with mode 0600 and its tables where there are none. Raises UserError for a file that is
    no hall, SchemaError for one whose schema this version cannot use, UnavailableError where it cannot be opened.
    """
    new = not path.exists()
    check_finished(path)
    with said_plainly(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = connect(path, synchronous)
        try:
            prepare(connection, str(path))
        except BaseException:  # a refused file must not keep a connection open
            connection.close()
            raise
    if new:
        sync_folder(path.parent, at="db.create")
    readers = _readers(path)
    with said_plainly(path), readers.connect():  # the pool keeps it open: see `Writer`
        return Writer(path, connection, synchronous), readers


class Writer:
    """The one connection that writes, opened anew after a write or a sync failed. Not for several threads at once.

    A sync that fails can leave a whole commit at the end of the write-ahead log. No connection sees it while one has been
    open all along, which is why the readers keep one, and the next commit takes its place; only a crash before that commit
    would show it.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, synchronous: str) -> None:
        self._path, self._synchronous = path, synchronous
        self._connection: sqlite3.Connection | None = connection

    def transact(self, run: Callable[[sqlite3.Cursor], None]) -> None:
        """Call `run` in one transaction; return once it is durable. Raises what `run` or the database raises."""
        if self._connection is None:
            self._connection = connect(self._path, self._synchronous)
        connection = self._connection
        cursor = connection.cursor()
        try:
            cursor.execute("BEGIN IMMEDIATE")
            run(cursor)
            step("db.act/commit", partial(cursor.execute, "COMMIT"))
        except BaseException as error:  # whatever stopped it, none of it may stay
            self._take_back(connection, error)
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _take_back(self, connection: sqlite3.Connection, error: BaseException) -> None:
        try:
            if connection.in_transaction:
                connection.rollback()
        except sqlite3.Error:
            self.close()
        if _is_broken(error):
            self.close()


def is_refused_by_disk(error: BaseException | None) -> bool:
    """Return whether SQLite could not write: no room, or a disk that failed to take or to keep something.

    Source of the codes: https://sqlite.org/rescode.html.
    """
    code = getattr(error, "sqlite_errorcode", 0)
    return code == sqlite3.SQLITE_FULL or (_is_broken(error) and code not in _READING)


def _is_broken(error: BaseException | None) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR


@contextmanager
def said_plainly(path: Path) -> Iterator[None]:
    """Turn the database's own errors into ours, with what to do about them."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        raise _in_our_words(error.orig if isinstance(error, DBAPIError) else error, path) from error
    except OSError as error:
        raise UnavailableError(
            f"the hall's database cannot be opened: {error.strerror}",
            where=str(path),
            hint="check the folder and its permissions, or choose another hall with --hall DIR",
        ) from error


def _in_our_words(error: BaseException | None, path: Path) -> DatahallError:
    if is_refused_by_disk(error):
        return StorageFullError(
            f"the disk does not take what the hall writes: {error}",
            where=str(path),
            hint="check free disk space and the disk itself, then try again: no restart is needed",
        )
    if isinstance(error, sqlite3.OperationalError):
        return UnavailableError(
            f"the hall's database cannot be used: {error}",
            where=str(path),
            hint="check free disk space and that no other process writes this file, then try again",
        )
    return IntegrityError(
        f"the hall's database is damaged or not a database: {error}",
        where=str(path),
        hint="restore it from a backup, or choose another hall with --hall DIR",
    )


def connect(path: Path, synchronous: str = "FULL", *, read_only: bool = False) -> sqlite3.Connection:
    """Open the file as every connection of ours does: write-ahead log, and nothing acknowledged before it is synced."""
    # isolation_level None: the driver starts no transaction by itself.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    # WAL with NORMAL loses acknowledged transactions at power loss; with FULL it loses none.
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    return connection


def _readers(path: Path) -> Engine:
    engine = create_engine(
        "sqlite+pysqlite://",
        creator=partial(connect, path, read_only=True),
        poolclass=QueuePool,
        pool_size=4,
        max_overflow=-1,
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine
