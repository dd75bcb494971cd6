"""Looks a hall over without changing it: what is not as it should be, and the command that mends it."""

from __future__ import annotations

import shlex
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path

import msgspec

from datahall.app.origin import origin_of
from datahall.app.settings import Settings, read_settings, without_password
from datahall.app.stores import database_url, open_truth, open_witness
from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.db.engines import said_plainly
from datahall.backends.db.lock import HallLock
from datahall.backends.db.schema import check_revision, is_empty, revision_of
from datahall.backends.db.unfinished import check_finished
from datahall.core.clock import SystemClock
from datahall.core.errors import DatahallError, HallBusyError, IntegrityError, UnavailableError, UserError
from datahall.core.hall import HallPaths
from datahall.core.ports import Clock
from datahall.ledger.checkpoint import read_note
from datahall.security.keys import KeyRing

MIN_FREE_BYTES = 1 << 30
"""Below this a run of an ordinary table may not find the room that it needs."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one look showed; `run` is what mends it, empty where nothing has to be mended."""

    check: str
    ok: bool
    said: str
    run: str = ""


def examine(paths: HallPaths, clock: Clock | None = None) -> list[Finding]:
    """Return what each look shows, in a fixed order; the hall may be up. Raises UserError for settings that cannot be."""
    settings = read_settings(paths)
    looks: dict[str, Callable[[], str]] = {
        "schema": lambda: _schema(settings, paths.db),
        "migration": lambda: _migration(paths.db),
        "lock": lambda: _lock(paths),
        "keys": lambda: _keys(paths),
        "database": lambda: _database(settings, paths.db),
        "free space": lambda: _free_space(paths.root),
        "witness": lambda: _witness(settings, paths, clock or SystemClock()),
        "blobs": lambda: _blobs(settings, paths),
    }
    return [_look(check, look) for check, look in looks.items()]


def _look(check: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(check=check, ok=True, said=look())
    except DatahallError as error:
        said = f"{error.where}: {error.what}" if error.where else error.what
        return Finding(check=check, ok=False, said=said, run=error.hint)


def _schema(settings: Settings, path: Path) -> str:
    if settings.database is not None:
        # Only here: whoever has no Postgres has no driver either.
        revision = str(import_module("datahall.backends.db.schema_postgres").revision_at(database_url(settings)))
    else:
        with _opened(path) as connection:
            is_empty(connection, str(path))
            revision = revision_of(connection)
    check_revision(revision, without_password(settings.database or str(path)))
    return f"revision {revision}, as this version needs it"


def _migration(path: Path) -> str:
    check_finished(path)
    return "none was cut short"


def _lock(paths: HallPaths) -> str:
    lock = HallLock(paths.lock)
    try:
        lock.acquire()
    except HallBusyError:
        return f"process {lock.holder()} holds the hall"
    lock.release()
    return "nobody holds the hall"


def _keys(paths: HallPaths) -> str:
    KeyRing.open(paths.keys)
    mode = stat.S_IMODE(paths.keys.stat().st_mode)
    if mode & 0o077:
        raise UserError(
            f"others can look into the folder of the keys (mode {mode:04o})",
            where=str(paths.keys),
            hint=f"chmod 700 {shlex.quote(str(paths.keys))}",
        )
    return f"{sum(1 for _ in paths.keys.glob('*.key'))} files, the owner's alone"


def _database(settings: Settings, path: Path) -> str:
    if settings.database is not None:
        import_module("datahall.backends.db.schema_postgres").revision_at(database_url(settings))
        return "the server answers; its pages are its own to check"
    with _opened(path) as connection:
        found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(1)")]
    if found != ["ok"]:
        raise IntegrityError(
            f"the database is damaged: {found[0]}", where=str(path), hint="see what holds with: datahall verify"
        )
    return f"sound, {path.stat().st_size / (1 << 20):,.1f} MiB; the ledger itself is checked by datahall verify"


def _free_space(folder: Path) -> str:
    free = shutil.disk_usage(folder).free
    said = f"{free / (1 << 30):,.1f} GiB"
    if free < MIN_FREE_BYTES:
        raise UnavailableError(
            f"only {said} are left",
            where=str(folder),
            hint=f"see what takes it with: du -sh {shlex.quote(str(folder))}/*",
        )
    return said


def _witness(settings: Settings, paths: HallPaths, clock: Clock) -> str:
    origin = origin_of(KeyRing.open(paths.keys).signer)
    note = open_witness(settings, paths, lambda _old, _new: [], clock).newest(origin)
    if note is None:
        return "it answers, and knows nothing of this hall yet"
    return f"knows the first {read_note(note).size:,} entries"


def _blobs(settings: Settings, paths: HallPaths) -> str:
    if settings.blobs is not None:
        store = open_truth(settings, paths)
        assert not isinstance(store, LocalBlobStore), "the settings name a bucket"
        store.bucket.look()
        return f"{without_password(settings.blobs)} answers; what lies there is read by datahall verify --objects"
    folder = paths.blobs
    if not folder.is_dir():
        raise UnavailableError("the folder of the blobs is gone", where=str(folder), hint="restore it from a backup")
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        raise UserError(
            f"others can look into the folder of the blobs (mode {mode:04o})",
            where=str(folder),
            hint=f"chmod 700 {shlex.quote(str(folder))}",
        )
    return "there, the owner's alone"


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield the database, as it is and read only: a look must not mend, upgrade or create anything."""
    with said_plainly(path), closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        yield connection
