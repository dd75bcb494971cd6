"""Leases in the catalogue's own database: a token that grows with every holder, and heartbeats."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from datahall.backends.db.statements import Cursor, Statements
from datahall.core.errors import DatahallError
from datahall.core.ids import new_id
from datahall.core.ports import Clock
from datahall.core.records import Lease


class Transact(Protocol):
    """Runs work in a durable transaction."""

    def __call__(self, work: Callable[[Cursor], Any], /) -> Any:
        """Return what `work` returns."""


class _Seen(NamedTuple):
    """What a watcher remembers of somebody else's lease, and when by its own clock that had last changed."""

    token: int
    beats: int
    since_ns: int


class Leases:
    """Fulfils Coordinator for one holder: a process, named anew each time it opens the catalogue. Threads: any."""

    def __init__(self, transact: Transact, sql: Statements, clock: Clock) -> None:
        self.holder = new_id("holder", clock)
        self._transact, self._sql, self._clock = transact, sql, clock
        self._turn = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        self._has_any = False

    def acquire(self, name: str, *, ttl_s: float = 10.0) -> Lease | None:
        """Return the lease, None while a living holder has it."""
        ttl_ms = int(ttl_s * 1000)
        with self._turn:
            token = self._transact(lambda cursor: self._take(cursor, name, ttl_ms))
            if token is None:
                return None
            self._seen.pop(name, None)
            self._has_any = True
        return Lease(name=name, holder=self.holder, token=token)

    def beat(self) -> None:
        """Show that every lease of this holder is alive."""
        sql = "UPDATE leases SET beats = beats + 1 WHERE holder = ?"
        self._transact(lambda cursor: self._sql.run(cursor, sql, self.holder))

    def release(self, lease: Lease) -> None:
        """Give it back, unless it was lost."""
        sql = "UPDATE leases SET holder = '' WHERE name = ? AND holder = ? AND token = ?"
        self._transact(lambda cursor: self._sql.run(cursor, sql, lease.name, lease.holder, lease.token))

    def release_all(self) -> None:
        """Give back every lease of this holder, as it is about to end; where that fails, they run out by themselves."""
        sql = "UPDATE leases SET holder = '' WHERE holder = ?"
        if self._has_any:
            with suppress(DatahallError):
                self._transact(lambda cursor: self._sql.run(cursor, sql, self.holder))
            self._has_any = False

    def leases(self) -> list[Lease]:
        """Return every lease that is held, ordered by name."""

        def read(cursor: Cursor) -> list[Lease]:
            cursor.execute("SELECT name, holder, token FROM leases WHERE holder <> '' ORDER BY name")
            rows = iter(cursor.fetchone, None)
            return [Lease(name=name, holder=holder, token=token) for name, holder, token in rows]

        held: list[Lease] = self._transact(read)
        return held

    def _take(self, cursor: Cursor, name: str, ttl_ms: int) -> int | None:
        """Return this holder's token, None where somebody else's heart still beats."""
        found = self._sql.lease(cursor, name)
        if found is None:
            sql = (
                "INSERT INTO leases (name, holder, token, beats, ttl_ms) VALUES (?, ?, 1, 0, ?) ON CONFLICT DO NOTHING"
            )
            return 1 if self._sql.run(cursor, sql, name, self.holder, ttl_ms) else None
        holder, token, beats, their_ttl_ms = found
        if holder == self.holder:
            return token
        if holder and not self._stands_still(name, token, beats, their_ttl_ms):
            return None
        sql = "UPDATE leases SET holder = ?, token = ?, beats = 0, ttl_ms = ? WHERE name = ?"
        self._sql.run(cursor, sql, self.holder, token + 1, ttl_ms, name)
        return token + 1

    def _stands_still(self, name: str, token: int, beats: int, ttl_ms: int) -> bool:
        """Return whether the heartbeat has not changed for `ttl_ms` while this process watched it."""
        now_ns = self._clock.monotonic_ns()
        seen = self._seen.get(name)
        if seen is None or (seen.token, seen.beats) != (token, beats):
            self._seen[name] = _Seen(token, beats, now_ns)
            return False
        return now_ns - seen.since_ns >= ttl_ms * 1_000_000


if TYPE_CHECKING:
    from datahall.core.clock import SystemClock
    from datahall.core.ports import Coordinator

    _: Coordinator = Leases(lambda work: work, Statements(), SystemClock())
