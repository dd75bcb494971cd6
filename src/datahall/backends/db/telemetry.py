"""What a hall notes about itself: decisions and measured figures, in a database of their own that may be lost."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from datahall.core.durable import rename, step

MAX_DECISIONS, MAX_SAMPLES = 100_000, 1_000_000
"""At most so many of each are kept, the newest; some 64 MiB together."""

_VERSION = 1
_TABLES = (
    "CREATE TABLE decisions (id INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT",
    """CREATE TABLE samples (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, labels TEXT NOT NULL, value REAL NOT NULL, at_ns INTEGER NOT NULL
    ) STRICT""",
    "CREATE INDEX ix_samples_name ON samples (name, at_ns)",
    f"PRAGMA user_version = {_VERSION}",
)
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}  # ERROR: a table that is not ours


class Sample(NamedTuple):
    """One measured figure: `value` of `name` for these labels, at nanoseconds since 1970."""

    name: str
    labels: dict[str, str]
    value: float
    at_ns: int


class Telemetry:
    """The database at `path`, made where there is none. Threads: any.

    Nothing that happens to it stops its caller: what cannot be written is dropped, a file that is damaged is set aside
    as `telemetry.db.damaged` and begun anew, and `problems` says so. After a power loss the newest rows may be missing
    (WAL, synchronous NORMAL): nothing that matters is kept here alone.
    """

    def __init__(self, path: Path, *, max_decisions: int = MAX_DECISIONS, max_samples: int = MAX_SAMPLES) -> None:
        self._path = path
        self._max_decisions, self._max_samples = max_decisions, max_samples
        self._turn = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._file: os.stat_result | None = None
        self._lost = ""
        self._refused = ""

    def problems(self) -> tuple[str, ...]:
        """Return what went wrong: for good since this was opened, and with the newest write."""
        return tuple(f"telemetry: {said}" for said in (self._lost, self._refused) if said)

    def add_decision(self, body: bytes) -> None:
        """Keep a decision, and forget the oldest beyond the bound."""
        rows = [(body,)]
        self._write("INSERT INTO decisions (body) VALUES (?)", rows, "decisions", self._max_decisions)

    def add_samples(self, samples: Sequence[Sample]) -> None:
        """Keep measured figures, and forget the oldest beyond the bound."""
        rows = [(one.name, _text(one.labels), one.value, one.at_ns) for one in samples]
        insert = "INSERT INTO samples (name, labels, value, at_ns) VALUES (?, ?, ?, ?)"
        self._write(insert, rows, "samples", self._max_samples)

    def close(self) -> None:
        """Close the file."""
        with self._turn:
            self._disconnect()

    def _write(self, insert: str, rows: Sequence[tuple[object, ...]], table: str, bound: int) -> None:
        prune = f"DELETE FROM {table} WHERE id <= (SELECT max(id) FROM {table}) - {bound}"  # noqa: S608  (a table of ours)

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(insert, rows)
            connection.execute(prune)

        with self._turn:
            if not self._attempt(work):
                self._attempt(work)

    def _attempt(self, work: Callable[[sqlite3.Connection], None]) -> bool:
        """Return False where the file was set aside, so that another attempt finds a new one."""
        try:
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            work(connection)
            step("telemetry.write/commit", partial(connection.execute, "COMMIT"))
        except (sqlite3.Error, OSError) as error:
            self._disconnect()
            return not self._set_aside(error)
        self._refused = ""
        return True

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and not self._is_there():
            self._disconnect()
            self._lost = "its file was gone; a new one was begun"
        if self._connection is None:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._file = self._path.stat()
            self._settle(self._connection)
        return self._connection

    def _settle(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA busy_timeout = 1000")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (num_tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if num_tables and version != _VERSION:
            raise _StrangeFile("it is of another version")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if not num_tables:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _TABLES:
                connection.execute(statement)
            step("telemetry.create/commit", partial(connection.execute, "COMMIT"))

    def _is_there(self) -> bool:
        with suppress(OSError):
            return self._file is not None and os.path.samestat(self._file, self._path.stat())
        return False

    def _set_aside(self, error: sqlite3.Error | OSError) -> bool:
        """Rename a file that cannot be used any more; return whether that is what is wrong, and was done."""
        code = getattr(error, "sqlite_errorcode", None)
        if not isinstance(error, _StrangeFile) and (code is None or code & 0xFF not in _DAMAGED):
            self._refused = f"what is measured is not kept: {error}"
            return False
        aside = self._path.with_name(f"{self._path.name}.damaged")
        try:
            rename(self._path, aside, at="telemetry.aside")
            for suffix in ("-wal", "-shm"):
                with suppress(FileNotFoundError):
                    rename(
                        self._path.with_name(self._path.name + suffix),
                        aside.with_name(aside.name + suffix),
                        at="telemetry.log",
                    )
        except OSError as failure:
            self._refused = f"its file is damaged and cannot be set aside: {failure.strerror}"
            return False
        self._lost = f"its file could not be used ({error}); it is kept as {aside.name}, and a new one was begun"
        return True

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


class _StrangeFile(sqlite3.DatabaseError):
    """A database, but none of ours."""


def kept_decisions(path: Path) -> Iterator[bytes]:
    """Yield the decisions in the file at `path`, oldest first; somebody may be writing. Raises sqlite3.Error."""
    with closing(_read_only(path)) as connection:
        for (body,) in connection.execute("SELECT body FROM decisions ORDER BY id"):
            yield body


def kept_samples(path: Path, name: str, *, since_ns: int = 0) -> list[Sample]:
    """Return the figures of one name from `since_ns` on, oldest first. Raises sqlite3.Error."""
    query = "SELECT name, labels, value, at_ns FROM samples WHERE name = ? AND at_ns >= ? ORDER BY at_ns, id"
    with closing(_read_only(path)) as connection:
        return [
            Sample(name, msgspec.json.decode(labels), value, at_ns)
            for name, labels, value, at_ns in connection.execute(query, (name, since_ns))
        ]


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def _text(labels: dict[str, str]) -> str:
    return msgspec.json.encode(labels, order="sorted").decode()
