"""What the versions are built of. Frozen with them: a version that was released never changes, so neither does this.

That is why nothing here is imported from `tables.py`, which goes on.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op


def integer() -> sa.types.TypeEngine[int]:
    """Return 64 bits in either database."""
    return sa.Integer().with_variant(sa.BigInteger(), "postgresql")


def text() -> sa.types.TypeEngine[str]:
    """Return text that is ordered by its bytes."""
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def table(name: str, *columns: sa.Column[Any], rowid: bool = True) -> None:
    """Create a table that takes no value of another type."""
    op.create_table(name, *columns, sqlite_strict=True, sqlite_with_rowid=rowid)


def record_table(kind: str, *indexed: str, integers: tuple[str, ...] = ()) -> None:
    """Create a table of records, whose indexed columns the database itself computes from the body."""
    stored = is_postgres() or None
    columns = [
        sa.Column(
            name,
            integer() if name in integers else text(),
            sa.Computed(_field(name, name in integers), persisted=stored),
        )
        for name in indexed
    ]
    table(
        f"record_{kind}",
        sa.Column("id", text(), primary_key=True),
        sa.Column("seq", integer(), nullable=False),
        sa.Column("body", text(), nullable=False),
        *columns,
    )
    for name in indexed:
        op.create_index(f"ix_{kind}_{name}", f"record_{kind}", [name, "seq"])


def index_anew(kind: str, *indexed: str, integers: tuple[str, ...] = ()) -> None:
    """Give a table of records other indexed columns; the records stay as they are."""
    copy, name = f"copy_of_{kind}", f"record_{kind}"
    op.execute(f"CREATE TABLE {copy} AS SELECT id, seq, body FROM {name}")  # noqa: S608  (a KIND of ours)
    op.drop_table(name)
    record_table(kind, *indexed, integers=integers)
    op.execute(f"INSERT INTO {name} (id, seq, body) SELECT id, seq, body FROM {copy} ORDER BY id")  # noqa: S608  (a KIND of ours)
    op.drop_table(copy)


def is_postgres() -> bool:
    """Return whether this runs on Postgres rather than SQLite."""
    return op.get_bind().dialect.name == "postgresql"


def _field(name: str, is_integer: bool) -> str:
    if is_postgres():
        field = rf"replace(body, '\u0000', '\ufffd')::json ->> '{name}'"
        return f"({field})::bigint" if is_integer else field
    return f"json_extract(body, '$.{name}')"
