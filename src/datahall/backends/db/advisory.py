"""Locks on names rather than rows, held until the transaction ends: how acts on one record take turns in Postgres."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from datahall.backends.db.acts import PreparedAct
from datahall.backends.db.statements import Cursor, Statements
from datahall.core.records import Lease

_LOCK = (
    "SELECT CASE WHEN shared THEN pg_advisory_xact_lock_shared(key) ELSE pg_advisory_xact_lock(key) END "
    "FROM unnest(%s::bigint[], %s::boolean[]) AS wanted (key, shared)"
)


class Name(NamedTuple):
    """What is locked: alone, or together with others who only need it to stay as it is."""

    key: int
    shared: bool = False


def name_of(*parts: str, shared: bool = False) -> Name:
    """Return the lock's name: 64 bits of a digest, so two that collide only wait for each other now and then."""
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=8, person=b"datahall").digest()
    return Name(int.from_bytes(digest, "big", signed=True), shared)


DRAWING = name_of("drawing", shared=True)
"""Held by everybody who may draw a number: whoever has it alone knows that no number is in anybody's hands."""


def names_of(prepared: PreparedAct) -> list[Name]:
    """Return the locks that an act needs: each record that it rests on, its call, its fence.

    What must only stay as it is, is shared: the acts of one holder run side by side, and so do those under one master
    key. Only who takes the lease over, or retires the key, waits for them.
    """
    changed = {(row.kind, row.id) for row in prepared.rows}
    names = [DRAWING, *(name_of("record", *place, shared=place not in changed) for place in prepared.places)]
    if prepared.act.call is not None:
        names.append(name_of("call", prepared.act.call.id))
    return names + fence_names(prepared.act.fence)


def fence_names(fence: Lease | None) -> list[Name]:
    """Return the lock that keeps a lease with its holder until the transaction ends."""
    return [] if fence is None else [name_of("lease", fence.name, shared=True)]


def lock(cursor: Cursor, names: Iterable[Name]) -> None:
    """Take the locks, everybody in the same order, so that no two wait for each other in a circle."""
    ordered = sorted(names)
    if ordered:
        cursor.execute(_LOCK, ([name.key for name in ordered], [name.shared for name in ordered]))


class LeaseStatements(Statements):
    """As Statements, for whoever may take a lease over: waits for the acts under it, and keeps new ones out."""

    def lease(self, cursor: Cursor, name: str) -> tuple[str, int, int, int] | None:
        """Return `(holder, token, beats, ttl_ms)`, None where nobody ever had the lease."""
        lock(cursor, [name_of("lease", name)])
        return super().lease(cursor, name)
