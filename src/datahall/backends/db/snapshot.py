"""One moment of a hall's SQLite file as a file of its own, while others write."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from datahall.backends.db.engines import connect, said_plainly

_PAGES_A_STEP = 2_048  # 8 MiB: how often whoever waits is told

Told = Callable[[int, int], None]
"""Is told how many pages are copied, of how many; may raise to stop it."""


def snapshot(path: Path, target: Path, told: Told = lambda _done, _total: None) -> None:
    """Copy the database at `path`, as it is at one moment during the call, to the new file `target`, mode 0600.

    SQLite's online backup (https://sqlite.org/backup.html) from a connection that reads: its transaction keeps the
    moment, so writers neither wait nor make it begin again. Raises StorageFullError, UnavailableError, or
    IntegrityError for a damaged file; then there may be a part of `target`.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with said_plainly(path), closing(connect(path, read_only=True)) as source, closing(_plain(target)) as copy:
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # now, not at BEGIN, the moment is chosen

        def progress(_status: int, remaining: int, total: int) -> None:
            told(total - remaining, total)

        source.backup(copy, pages=_PAGES_A_STEP, progress=progress)
        source.execute("COMMIT")


def _plain(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")  # a copy to be read once; whoever keeps it syncs it
    return connection
