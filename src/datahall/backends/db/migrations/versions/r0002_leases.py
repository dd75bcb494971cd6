"""Leases, idempotent calls, condemned objects and master keys, answer segments by their hour, vouchers by keyed BLAKE2b."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

import sqlalchemy as sa
from alembic import op

from datahall.backends.db.migrations.pieces import index_anew, integer, is_postgres, record_table, table, text
from datahall.core.errors import SchemaError

revision = "0002"
down_revision = "0001"

RECORDS: dict[str, tuple[str, ...]] = {"garbage": ("team",), "retired_master": ()}

_KINDS_OF_0001 = {
    "hall.created",
    "key.issued",
    "key.revoked",
    "app.declared",
    "environment.seen",
    "step.started",
    "step.completed",
    "step.failed",
    "step.interrupted",
    "holdout.opened",
    "verdict.given",
    "version.registered",
    "version.revoked",
    "deployment.opened",
    "deployment.retired",
    "replica.started",
    "replica.changed",
    "routes.published",
    "answers.sealed",
}

Mac = Callable[[bytes, int, bytes], bytes]


def upgrade() -> None:
    """Add what is new, and make the vouchers of entries that the tree does not hold yet anew."""
    counts = [sa.Column(name, integer(), nullable=False) for name in ("token", "beats", "ttl_ms")]
    table("leases", sa.Column("name", text(), primary_key=True), sa.Column("holder", text(), nullable=False), *counts)
    table(
        "calls",
        sa.Column("id", text(), primary_key=True),
        sa.Column("seq", integer(), nullable=False),
        sa.Column("request", text(), nullable=False),
        sa.Column("reply", sa.LargeBinary(), nullable=False),
    )
    op.create_index("ix_calls_seq", "calls", ["seq"])
    for kind, indexed in RECORDS.items():
        record_table(kind, *indexed)
    index_anew("answer_segment", "gateway", "hour", integers=("hour",))
    _vouch(_hmac, _blake2)
    if is_postgres():
        (start,) = op.get_bind().exec_driver_sql("SELECT coalesce(max(seq) + 1, 0) FROM entries").one()
        op.execute("CREATE SEQUENCE entry_seq MINVALUE 0 START 0 CACHE 1")
        op.execute(f"SELECT setval('entry_seq', {int(start)}, false)")
    else:
        op.execute("PRAGMA user_version = 2")


def downgrade() -> None:
    """Remove what is new. Raises SchemaError where the ledger speaks of it, for then it cannot be removed."""
    kinds = {row.kind for row in op.get_bind().exec_driver_sql("SELECT DISTINCT kind FROM entries")}
    unknown = sorted(kinds - _KINDS_OF_0001)
    if unknown:
        raise SchemaError(
            f"schema 0001 has no word for what this hall has done since ({', '.join(unknown)})",
            hint="restore the snapshot that was made before the migration, or stay",
        )
    _vouch(_blake2, _hmac)
    for name in ("leases", "calls", *(f"record_{kind}" for kind in RECORDS)):
        op.drop_table(name)
    index_anew("answer_segment", "gateway")
    if is_postgres():
        op.execute("DROP SEQUENCE entry_seq")
    else:
        op.execute("PRAGMA user_version = 1")


def _vouch(old: Mac, new: Mac) -> None:
    """Make each voucher anew, but one that does not hold: its entry stays refused."""
    context = op.get_context().environment_context
    assert context is not None, "env.py runs this"
    key: bytes = context.config.attributes["entry_key"]
    entries = sa.table("entries", sa.column("seq", sa.BigInteger), sa.column("body", sa.LargeBinary))
    vouchers = sa.table("vouchers", sa.column("seq", sa.BigInteger), sa.column("mac", sa.LargeBinary))
    query = sa.select(entries.c.seq, entries.c.body, vouchers.c.mac).join(vouchers, vouchers.c.seq == entries.c.seq)
    for seq, body, mac in op.get_bind().execute(query).all():
        if hmac.compare_digest(mac, old(key, seq, body)):
            op.execute(vouchers.update().where(vouchers.c.seq == seq).values(mac=new(key, seq, body)))


def _hmac(key: bytes, seq: int, body: bytes) -> bytes:
    return hmac.digest(key, seq.to_bytes(8, "big") + body, "sha256")


def _blake2(key: bytes, seq: int, body: bytes) -> bytes:
    return hashlib.blake2b(seq.to_bytes(8, "big") + body, key=key, digest_size=32).digest()
