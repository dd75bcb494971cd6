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


def record_table(kind: str, *indexed: str) -> None:
    """Create a table of records, whose indexed columns the database itself computes from the body."""
    columns = [sa.Column(name, text(), sa.Computed(_field(name), persisted=is_postgres() or None)) for name in indexed]
    table(
        f"record_{kind}",
        sa.Column("id", text(), primary_key=True),
        sa.Column("seq", integer(), nullable=False),
        sa.Column("body", text(), nullable=False),
        *columns,
    )
    for name in indexed:
        op.create_index(f"ix_{kind}_{name}", f"record_{kind}", [name, "seq"])


def is_postgres() -> bool:
    """Return whether this runs on Postgres rather than SQLite."""
    return op.get_bind().dialect.name == "postgresql"


def _field(name: str) -> str:
    if is_postgres():
        return rf"replace(body, '\u0000', '\ufffd')::json ->> '{name}'"
    return f"json_extract(body, '$.{name}')"
