"""As `schema.py`, for Postgres."""

from __future__ import annotations

from sqlalchemy.dialects import postgresql

from datahall.backends.db.advisory import lock, name_of
from datahall.backends.db.schema import check_revision, definitions
from datahall.backends.db.server import Server
from datahall.backends.db.statements import Cursor
from datahall.backends.db.tables import REVISION
from datahall.core.errors import UserError

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]  # so SQLAlchemy types it


def revision_at(url: str) -> str:
    """Return the revision of the hall at `url`, without changing anything.

    Raises UserError for a database that is no hall, UnavailableError where it cannot be reached.
    """
    server = Server(url)
    try:
        with server.reading() as connection:
            if connection.exec_driver_sql("SELECT to_regclass('alembic_version') IS NULL").scalar_one():
                raise UserError("this database is no hall", where=server.where, hint="name another in hall.toml")
            return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one())
    finally:
        server.close()


def prepare_postgres(cursor: Cursor, where: str) -> None:
    """Make the tables of an empty Postgres database, or check those of an old one; as `schema.prepare`.

    Runs in the transaction of `cursor`, and leaves it open.
    """
    lock(cursor, [name_of("schema")])  # two processes may start at once
    cursor.execute("SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace")
    names = {str(row[0]) for row in iter(cursor.fetchone, None)}
    if not names:
        for statement in definitions(_DIALECT):
            cursor.execute(statement)
        cursor.execute("INSERT INTO alembic_version VALUES (%s)", (REVISION,))
        return
    if not {"alembic_version", "entries", "vouchers"} <= names:
        raise UserError("this database is no hall", where=where, hint="choose an empty one, or another schema in it")
    cursor.execute("SELECT version_num FROM alembic_version")
    check_revision(str(cursor.fetchone()[0]), where)
