"""Takes a hall's database from one schema to another: a snapshot, a marker, one transaction."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, inspect

from datahall.backends.db.engines import connect, said_plainly
from datahall.backends.db.schema import FIRST_REVISION, is_empty, revision_of
from datahall.backends.db.tables import REVISION, schema
from datahall.backends.db.unfinished import Marker, marker_of, read_marker
from datahall.core.durable import remove, rename, step, sync_file, sync_folder, write_atomic
from datahall.core.errors import UserError

REVISIONS = ("0001", "0002")
"""Every schema that there was, oldest first."""


def migrate_sqlite(path: Path, target: str = REVISION, *, entry_key: bytes = b"") -> Path | None:
    """Take the hall's file at `path` to the schema `target`; return the snapshot made first, None if nothing was to do.

    Killed at any moment, it leaves the old schema or the new one, and until it is called again a start is refused
    (`unfinished.py`). `entry_key` is the hall's, as in SqliteCatalogue. Hold the hall's lock.
    Raises UserError for a schema that does not exist, SchemaError for a way back that would lose something,
    StorageFullError where the disk has no room; the hall is then as before.
    """
    _check_target(target)
    with said_plainly(path):
        with closing(connect(path)) as connection:
            is_empty(connection, str(path))
            revision = revision_of(connection)
        if not (plan := _plan(path, revision, target)):
            return None
        if plan.snapshot is None:
            plan = msgspec.structs.replace(plan, snapshot=_snapshot(path, target, partial(_copy, path)))
        return _marked(path, plan, lambda: _run(_sqlite_engine(path), plan.target, entry_key))


def migrate_postgres(
    server: Any, folder: Path, target: str = REVISION, *, entry_key: bytes = b"", snapshot: Callable[[Path], None]
) -> Path | None:
    """As `migrate_sqlite`, for the database of `server`; snapshot and marker lie in the hall's folder.

    `snapshot(path)` writes the SQLite file to keep. Stop every process of the hall first: they do not share a lock.
    """
    _check_target(target)
    place = folder / "hall.db"
    with server.said_plainly(), said_plainly(place):
        engine = server.writing_engine()
        with engine.connect() as connection:
            revision = str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one())
        if not (plan := _plan(place, revision, target)):
            return None
        if plan.snapshot is None:
            plan = msgspec.structs.replace(plan, snapshot=_snapshot(place, target, snapshot))
        return _marked(place, plan, lambda: _run(engine, plan.target, entry_key))


def _check_target(target: str) -> None:
    if target not in REVISIONS:
        raise UserError(f"there is no schema {target}", hint=f"choose one of: {', '.join(REVISIONS)}")


def _plan(path: Path, revision: str, target: str) -> Marker | None:
    """Return what is to be done, None where nothing is; a migration that was cut short keeps its snapshot."""
    unfinished = read_marker(path)
    if revision == target:
        if unfinished:
            _finish(path)
        return None
    if revision not in REVISIONS:
        raise UserError(
            f"this version knows no way from schema {revision}", hint="upgrade with: pip install -U datahall"
        )
    return Marker(source=revision, target=target, snapshot=unfinished.snapshot if unfinished else None)


def _marked(path: Path, plan: Marker, run: Callable[[], None]) -> Path:
    """Run with the marker in its place; it goes once all is done, or once it is sure that nothing was."""
    assert plan.snapshot is not None
    write_atomic(marker_of(path), msgspec.json.encode(plan), at="migrate.marker")
    try:
        run()
    except Exception:  # refused or failed, and so taken back whole: the hall is as before
        _finish(path)
        raise
    _finish(path)
    return path.with_name(plan.snapshot)


def _finish(path: Path) -> None:
    remove(marker_of(path), at="migrate.done")
    sync_folder(path.parent, at="migrate.done")


def _snapshot(path: Path, target: str, write: Callable[[Path], None]) -> str:
    """Keep the database as it is now in a file beside it; return the file's name."""
    temporary = path.with_name(f".{path.name}.snapshot")
    with suppress(FileNotFoundError):
        temporary.unlink()  # of a migration that was cut short before anything was changed
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    write(temporary)
    with temporary.open("rb") as file:
        sync_file(file.fileno(), at="migrate.snapshot")
    names = (f"{path.name}.before-{target}{f'-{number}' if number else ''}" for number in range(10_000))
    name = next(name for name in names if not path.with_name(name).exists())
    rename(temporary, path.with_name(name), at="migrate.snapshot")
    sync_folder(path.parent, at="migrate.snapshot")
    return name


def _copy(source: Path, target: Path) -> None:
    with closing(connect(source)) as connection:
        connection.execute("VACUUM INTO ?", (str(target),))


def _run(engine: Engine, target: str, entry_key: bytes) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with _one_transaction(engine) as connection:
        names = inspect(connection).get_table_names()
        if schema.name not in names:
            schema.create(connection)
            if names:
                connection.execute(schema.insert().values(version_num=FIRST_REVISION))
        config.attributes.update(connection=connection, entry_key=entry_key)
        current = connection.execute(schema.select()).scalar() or ""
        (command.upgrade if target > current else command.downgrade)(config, target)
        if target == FIRST_REVISION and connection.dialect.name == "sqlite":
            schema.drop(connection)  # which had no such table


@contextmanager
def _one_transaction(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        transaction = connection.begin()
        yield connection
        step("migrate.run/commit", transaction.commit)
    engine.dispose()


def _sqlite_engine(path: Path) -> Engine:
    engine = create_engine("sqlite+pysqlite://", creator=partial(connect, path), poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
