"""Group commit: writers who come while a commit is under way share the next one.

Whoever comes first leads: it does its own work and that of everybody who waits, in one transaction, and commits once.
Then it hands the lead on. A lone writer so pays for no thread and no hand-over, and 64 of them pay for one sync
together (the idea is old: DeWitt et al., "Implementation Techniques for Main Memory Database Systems", SIGMOD 1984).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from datahall.core.errors import UnavailableError

W = TypeVar("W")

MAX_GROUP = 256
"""How many pieces of work share a transaction at most: bounds what a failed commit takes down with it."""


class _Ticket(Generic[W]):
    """One writer's work and how it went."""

    __slots__ = ("leads", "outcome", "wake", "work")

    def __init__(self, work: W) -> None:
        self.work = work
        self.outcome: Any = None
        self.leads = False
        self.wake = threading.Lock()
        self.wake.acquire()  # a bare lock is the cheapest thing to wait on


class Group(Generic[W]):
    """Does work from any thread, and returns once the transaction that holds it is durable.

    `transact(works)` does many pieces in one transaction and returns the outcome of each: what to return, or the
    exception to raise for one that was refused and wrote nothing. If `transact` itself raises, nothing of the group holds.
    """

    def __init__(self, transact: Callable[[Sequence[W]], Sequence[Any]]) -> None:
        self._transact = transact
        self._lock = threading.Lock()
        self._waiting: deque[_Ticket[W]] = deque()
        self._busy = False

    def do(self, work: W) -> Any:
        """Return the work's outcome, durable. Raises what it was refused with, or what its transaction raises."""
        mine = _Ticket(work)
        try:
            with self._lock:
                self._waiting.append(mine)
                mine.leads, self._busy = not self._busy, True
            if not mine.leads:
                mine.wake.acquire()
        except BaseException:  # a Ctrl-C: nobody may wait for who is gone
            self._leave(mine)
            raise
        if mine.leads:
            self._lead()
        if isinstance(mine.outcome, BaseException):
            raise mine.outcome
        return mine.outcome

    def _lead(self) -> None:
        group: list[_Ticket[W]] = []
        try:
            with self._lock:
                while self._waiting and len(group) < MAX_GROUP:
                    group.append(self._waiting.popleft())
            for ticket, outcome in zip(group, self._transact([ticket.work for ticket in group]), strict=True):
                ticket.outcome = outcome
        except BaseException as error:  # whatever it is, everybody in the group has to hear of it
            for ticket in group[1:]:
                ticket.outcome = (
                    error if isinstance(error, Exception) else UnavailableError("the write was interrupted")
                )
            raise
        finally:
            try:
                self._hand_on()
            finally:
                for ticket in group[1:]:
                    ticket.wake.release()

    def _leave(self, ticket: _Ticket[W]) -> None:
        """Take out who does not wait any more, and hand on the lead if it has that already."""
        with self._lock:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
        if ticket.leads:
            self._hand_on()

    def _hand_on(self) -> None:
        with self._lock:
            if not self._waiting:
                self._busy = False
                return
            heir = self._waiting[0]
            heir.leads = True
        heir.wake.release()
