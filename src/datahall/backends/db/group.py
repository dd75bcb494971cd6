"""Group commit: writers who come while a commit is under way share the next one.

Whoever comes first leads: it runs its own work and that of everybody who waits, in one transaction, and commits once.
Then it hands the lead on. A lone writer so pays for no thread and no hand-over, and 64 of them pay for one sync
together (the idea is old: DeWitt et al., "Implementation Techniques for Main Memory Database Systems", SIGMOD 1984).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from datahall.core.errors import DatahallError, UnavailableError

T = TypeVar("T")
C = TypeVar("C")

MAX_GROUP = 256
"""How many pieces of work share a transaction at most: bounds what a failed commit takes down with it."""


class _Ticket(Generic[C]):
    """One writer's work and how it went."""

    __slots__ = ("error", "leads", "result", "wake", "work")

    def __init__(self, work: Callable[[C], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self.leads = False
        self.wake = threading.Lock()
        self.wake.acquire()  # a bare lock is the cheapest thing to wait on


class Group(Generic[C]):
    """Runs work from any thread, one piece at a time, and returns once the transaction that holds it is durable.

    `transact(run)` opens a transaction, calls `run` with its cursor, and commits; an error of `run` or of the commit
    takes the whole group back. Work that is refused (DatahallError) must not have written anything.
    """

    def __init__(self, transact: Callable[[Callable[[C], None]], None]) -> None:
        self._transact = transact
        self._lock = threading.Lock()
        self._waiting: deque[_Ticket[C]] = deque()
        self._busy = False

    def do(self, work: Callable[[C], T]) -> T:
        """Return what `work` returns, durably. Raises what it raises, or what the commit of its group raises."""
        mine: _Ticket[C] = _Ticket(work)
        with self._lock:
            self._waiting.append(mine)
            mine.leads, self._busy = not self._busy, True
        if not mine.leads:
            mine.wake.acquire()
        if mine.leads:
            self._lead()
        if mine.error is not None:
            raise mine.error
        return mine.result  # type: ignore[no-any-return]  (it is what this caller's own work returned)

    def _lead(self) -> None:
        with self._lock:
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_GROUP))]
        try:
            self._transact(lambda cursor: _run(group, cursor))
        except BaseException as error:  # noqa: BLE001  (whatever it is, everybody in the group has to hear of it)
            for ticket in group:
                ticket.error = ticket.error or _for_all(error)
            if not isinstance(error, Exception):  # Ctrl-C was meant for this thread alone
                group[0].error = error
        with self._lock:
            heir = self._waiting[0] if self._waiting else None
            if heir is None:
                self._busy = False
            else:
                heir.leads = True
        for ticket in group[1:]:
            ticket.wake.release()
        if heir is not None:
            heir.wake.release()


def _for_all(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else UnavailableError("the write was interrupted", hint="try it again")


def _run(group: Sequence[_Ticket[C]], cursor: C) -> None:
    for ticket in group:
        try:
            ticket.result = ticket.work(cursor)
        except DatahallError as error:  # refused before it wrote anything: the others go on
            ticket.error = error
