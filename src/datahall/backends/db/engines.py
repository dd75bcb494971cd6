"""Opening a hall's SQLite file: durability, permissions, schema version, and errors said in our own words."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, ExceptionContext, QueuePool, create_engine, event
from sqlalchemy.exc import DatabaseError, OperationalError

from datahall.backends.db.tables import METADATA, SCHEMA_VERSION
from datahall.core.durable import sync_folder
from datahall.core.errors import IntegrityError, StorageFullError, UnavailableError, UserError

APPLICATION_ID = 0x44415448  # "DATH", so that a stranger's database is never taken for a hall
_BUSY_TIMEOUT_MS = 5_000
_READING = {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ}


def open_engines(path: Path) -> tuple[Engine, Engine]:
    """Return the writing engine (one connection) and the reading one (a connection a thread) of the hall at `path`.

    Creates the file with mode 0600 and its tables where there are none. Raises UserError for a file that is
    no hall or comes from a newer Datahall, UnavailableError where it cannot be opened.
    """
    new = not path.exists()
    with said_plainly(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        writer = _engine(path, "BEGIN IMMEDIATE", pool_size=1, max_overflow=0)
        try:
            _prepare(writer, path)
        except BaseException:  # a refused file must not keep a connection open
            writer.dispose()
            raise
    if new:
        sync_folder(path.parent, at="db.create")
    readers = _engine(path, "BEGIN", pool_size=4, max_overflow=-1, read_only=True)
    with said_plainly(path), readers.connect():  # the pool keeps it open: see `_distrust`
        return writer, readers


@contextmanager
def said_plainly(path: Path) -> Iterator[None]:
    """Turn the database's own errors into ours, with what to do about them."""
    try:
        yield
    except OperationalError as error:
        if _is_refused_by_disk(error.orig):
            raise StorageFullError(
                f"the disk does not take what the hall writes: {error.orig}",
                where=str(path),
                hint="check free disk space and the disk itself, then try again: no restart is needed",
            ) from error
        raise UnavailableError(
            f"the hall's database cannot be used: {error.orig}",
            where=str(path),
            hint="check free disk space and that no other process writes this file, then try again",
        ) from error
    except DatabaseError as error:
        raise IntegrityError(
            f"the hall's database is damaged or not a database: {error.orig}",
            where=str(path),
            hint="restore it from a backup, or choose another hall with --hall DIR",
        ) from error
    except OSError as error:
        raise UnavailableError(
            f"the hall's database cannot be opened: {error.strerror}",
            where=str(path),
            hint="check the folder and its permissions, or choose another hall with --hall DIR",
        ) from error


def _is_refused_by_disk(error: BaseException | None) -> bool:
    """Whether SQLite could not write: no room, or a disk that failed to take or to keep something."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code == sqlite3.SQLITE_FULL or (_is_broken(error) and code not in _READING)


def _is_broken(error: BaseException | None) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR


def _engine(path: Path, begin: str, *, pool_size: int, max_overflow: int, read_only: bool = False) -> Engine:
    def connect() -> sqlite3.Connection:
        # isolation_level None: the driver starts no transaction by itself, `begin` below does.
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        # WAL with NORMAL loses acknowledged transactions at power loss; with FULL it loses none.
        connection.execute("PRAGMA synchronous = FULL")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        return connection

    engine = create_engine(
        "sqlite+pysqlite://", creator=connect, poolclass=QueuePool, pool_size=pool_size, max_overflow=max_overflow
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    if not read_only:
        event.listen(engine, "handle_error", _distrust)
    return engine


def _distrust(context: ExceptionContext) -> None:
    """Let no writing connection go on that saw a write or a sync fail: what it believes of the disk may be wrong.

    A sync that fails can leave a whole commit at the WAL's end. No connection sees it while one has been open all along,
    which is why the readers keep one, and the next commit takes its place. Only a crash before that commit would show it.
    """
    if _is_broken(context.original_exception):
        context.is_disconnect = True


def _prepare(writer: Engine, path: Path) -> None:
    with writer.begin() as connection:
        version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        application = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
        num_tables = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()
        if num_tables and application != APPLICATION_ID:
            raise UserError("this database is no hall", where=str(path), hint="choose another with --hall DIR")
        if version > SCHEMA_VERSION:
            raise UserError(
                f"this hall was written by a newer Datahall (schema {version}, this one knows {SCHEMA_VERSION})",
                where=str(path),
                hint="upgrade with: pip install --upgrade datahall",
            )
        METADATA.create_all(connection)
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
