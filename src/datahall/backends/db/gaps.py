"""Fills numbers that transactions drew and died with, once it is sure that nobody still has them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from datahall.backends.db.acts import Batch, PreparedAct
from datahall.backends.db.advisory import lock, name_of
from datahall.backends.db.statements import Cursor, Statements
from datahall.core.ports import Clock
from datahall.core.records import Act

WHY = "the transaction that drew this number ended without an act"
_NUM_AT_ONCE = 1000
_OPEN = (
    "SELECT number FROM generate_series((SELECT coalesce(max(size), 0) FROM checkpoints), ?) AS number "
    "WHERE NOT EXISTS (SELECT FROM entries WHERE seq = number) ORDER BY number LIMIT ?"
)


class _Seen(NamedTuple):
    """What was known when gaps were first seen."""

    top: int
    """The newest number of a committed entry: every open number below it had been drawn."""
    horizon: int
    """A transaction id given out after that: whoever drew one of those numbers has a lower one."""


class Gaps:
    """Closes gaps in the sequence of entries. Threads: any; processes: any number, one at a time does it.

    An act gets its transaction id first and its number second, so whoever drew a number below a committed one had an id
    by then. An id drawn afterwards is higher; once every transaction below it has ended, so has that one, and what it
    did not leave behind nobody will write. (The snapshot's xmax would not do: ids above it may be running already.)
    """

    def __init__(self, transact: Callable[[Callable[[Cursor], bool]], bool], sql: Statements, clock: Clock) -> None:
        self._transact, self._sql, self._clock = transact, sql, clock
        self._turn = threading.Lock()
        self._seen: _Seen | None = None

    def close(self, key: bytes) -> bool:
        """Write an entry of kind `entry.void` at every number that is lost; return whether there was one.

        `key` vouches for it as for any other entry. While a drawer may still be at work nothing is written: ask again.
        """
        with self._turn:
            return self._transact(lambda cursor: self._close(cursor, key, is_sure=False))

    def close_all(self, key: bytes) -> None:
        """As `close`, for whoever keeps every drawer out meanwhile: all that is open now is lost."""
        with self._turn:
            while self._transact(lambda cursor: self._close(cursor, key, is_sure=True)):
                pass

    def _close(self, cursor: Cursor, key: bytes, *, is_sure: bool) -> bool:
        lock(cursor, [name_of("gaps")])
        top = self._number(cursor, "SELECT coalesce(max(seq), -1) FROM entries")
        newest = self._number(cursor, "SELECT pg_current_xact_id()::text::bigint")
        if self._seen is None or is_sure:
            self._seen = _Seen(top, newest)
        oldest = self._number(cursor, "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
        if oldest < self._seen.horizon and not is_sure:
            return False
        self._sql.run(cursor, _OPEN, self._seen.top, _NUM_AT_ONCE)
        lost = [int(row[0]) for row in iter(cursor.fetchone, None)]
        void = PreparedAct(Act(kind="entry.void", actor="sequencer", body={"why": WHY}))
        batch = Batch(cursor, self._sql, [])
        for seq in lost:
            batch.admit(void, seq)
        batch.write(self._clock.now_ns(), key)
        if len(lost) < _NUM_AT_ONCE:
            self._seen = None
        return bool(lost)

    def _number(self, cursor: Cursor, sql: str) -> int:
        found: Any = self._sql.one(cursor, sql)
        return int(found)
