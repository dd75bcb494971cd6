"""The first release: entries, the tree over them, and the records."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from datahall.backends.db.migrations.pieces import integer, is_postgres, record_table, table, text

revision = "0001"
down_revision = None

RECORDS = {
    "answer_segment": ("gateway",),
    "api_key": ("principal", "sha256"),
    "app": ("team",),
    "artifact": ("team", "digest"),
    "bundle": ("app",),
    "candidate": ("app", "bundle", "run"),
    "deployment": ("app", "state", "version"),
    "environment": (),
    "evidence": ("app", "bundle", "step"),
    "evidence_key": ("app", "step"),
    "holdout": ("app", "snapshot"),
    "policy": ("app",),
    "replica": ("deployment", "state"),
    "route_table": (),
    "run": ("app", "step"),
    "snapshot": ("app",),
    "step": ("app", "state"),
    "verdict": ("app", "candidate", "bundle"),
    "version": ("app", "bundle", "candidate"),
}


def upgrade() -> None:
    """Make the tables of an empty database."""
    table("entries", _number("seq"), _text("kind"), sa.Column("app", text()), _bytes("body"))
    table("vouchers", _number("seq"), _bytes("mac"))
    table(
        "touched", *(sa.Column(name, text(), primary_key=True) for name in ("kind", "id")), _number("seq"), rowid=False
    )
    table("nodes", _number("level"), _number("idx"), _bytes("hash"), rowid=False)
    table("checkpoints", _number("size"), _text("origin"), _bytes("root"), _text("note"))
    for kind, indexed in RECORDS.items():
        record_table(kind, *indexed)
    if not is_postgres():
        op.execute("PRAGMA application_id = 0x44415448")
        op.execute("PRAGMA user_version = 1")


def downgrade() -> None:
    """Remove everything."""
    for name in ("entries", "vouchers", "touched", "nodes", "checkpoints", *(f"record_{kind}" for kind in RECORDS)):
        op.drop_table(name)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, integer(), primary_key=True, autoincrement=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, text(), nullable=False)


def _bytes(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary(), nullable=False)
