"""Fills numbers that transactions drew and died with, while nobody can have one in hand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from datahall.backends.db.acts import Batch, PreparedAct
from datahall.backends.db.advisory import DRAWING, lock
from datahall.backends.db.server import driver
from datahall.backends.db.statements import Cursor, Statements
from datahall.core.ports import Clock
from datahall.core.records import Act

WHY = "the transaction that drew this number ended without an act"
_NUM_AT_ONCE = 1000
_PATIENCE = "100ms"
"""How long drawers may be held up: who asks for the lock alone keeps out those who come after."""
_FIRST = (
    "SELECT min(number) FROM generate_series((SELECT coalesce(max(size), 0) FROM checkpoints), "
    "(SELECT coalesce(max(seq), -1) FROM entries)) AS number WHERE NOT EXISTS (SELECT FROM entries WHERE seq = number)"
)
_OPEN = _FIRST.replace("min(number)", "number") + " ORDER BY number LIMIT ?"


class Gaps:
    """Closes gaps in the sequence of entries. Threads: any; processes: any number, one at a time does it.

    Whoever draws a number holds DRAWING, shared, until its transaction ends. So while DRAWING is held alone, a number
    below a committed one that has no entry is nobody's, and nobody will write it.
    """

    def __init__(self, transact: Callable[[Callable[[Cursor], bool]], bool], sql: Statements, clock: Clock) -> None:
        self._transact, self._sql, self._clock = transact, sql, clock
        self._turn = threading.Lock()
        self._seen: int | None = None
        """The first open number when a drawer was last found at work: a second time it is worth waiting for."""

    def close(self, key: bytes) -> bool:
        """Write an entry of kind `entry.void` at every number that is lost; return whether there was one.

        `key` vouches for it as for any other entry. While a drawer is at work nothing is written: ask again.
        """
        with self._turn:
            return self._transact(lambda cursor: self._alone(cursor) and self.fill(cursor, key))

    def fill(self, cursor: Cursor, key: bytes) -> bool:
        """As `close`, for at most 1000 numbers, by whoever keeps every drawer out meanwhile."""
        self._sql.run(cursor, _OPEN, _NUM_AT_ONCE)
        lost = [int(row[0]) for row in iter(cursor.fetchone, None)]
        void = PreparedAct(Act(kind="entry.void", actor="sequencer", body={"why": WHY}))
        batch = Batch(cursor, self._sql, [])
        for seq in lost:
            batch.admit(void, seq)
        batch.write(self._clock.now_ns(), key)
        return bool(lost)

    def _alone(self, cursor: Cursor) -> bool:
        """Keep every drawer out until the transaction ends; return False where one is at work."""
        if self._sql.one(cursor, "SELECT pg_try_advisory_xact_lock(?)", DRAWING.key):
            return True
        first: Any = self._sql.one(cursor, _FIRST)
        # Most gaps are those of a moment, for which nobody has to be held up.
        if first is None or first != self._seen:
            self._seen = first
            return False
        cursor.execute(f"SET LOCAL lock_timeout = '{_PATIENCE}'")
        cursor.execute("SAVEPOINT waiting")
        try:
            lock(cursor, [DRAWING._replace(shared=False)])
        except driver().errors.LockNotAvailable:
            cursor.execute("ROLLBACK TO SAVEPOINT waiting")
            return False
        return True
