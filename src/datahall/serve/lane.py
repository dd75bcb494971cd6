"""One deployment's way through a gateway: its queue, its links to replicas, and what happens when one is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from datahall.core.errors import DatahallError, UnavailableError, UserError
from datahall.core.ports import Clock
from datahall.core.records import Route, RouteReplica
from datahall.serve.batch import BatchQueue, BatchSettings, Item
from datahall.serve.link import Connect, Link, Outcome
from datahall.serve.protocols.speech import speeches
from datahall.serve.rows import Rows, join

MAX_ATTEMPTS = 2


class Context(Protocol):
    """What the gateway keeps with a call."""

    @property
    def gone(self) -> bool:
        """Whether the client has left: nothing needs to be computed for it any more."""

    def leave(self, now_ns: int, *, failed: bool) -> None:
        """Nothing more is done for the call. May be told twice."""


class Call:
    """One request for answers on its way; `context` is the gateway's own."""

    __slots__ = ("attempts", "context", "deadline_ns", "num_rows", "rows")

    def __init__(self, rows: Rows, deadline_ns: int, context: Context) -> None:
        self.rows, self.num_rows, self.deadline_ns, self.context = rows, rows.num_rows, deadline_ns, context
        self.attempts = 0


Answered = Callable[["Lane", list[Call], Outcome, str], None]
"""Called with the lane, calls, what came of them, and the replica's id: arrays with the calls' rows in their order, as
many as the calls have together, or the error that all of them get."""


class _Port:
    """A link, and whether it is busy."""

    __slots__ = ("busy", "link", "replica")

    def __init__(self, replica: RouteReplica, link: Link) -> None:
        self.replica, self.link, self.busy = replica, link, False


class Lane:
    """Takes calls for one deployment and sees to it that each is answered once, whatever happens to the replicas."""

    def __init__(
        self, route: Route, *, connect: Connect, clock: Clock, settings: BatchSettings, answered: Answered
    ) -> None:
        self.route = route
        self.revision = -1
        """The newest revision of the routes in which this deployment is: while it drains, no longer the one in use."""
        self.speeches = speeches(route)
        self.num_open = 0
        self._connect, self._clock, self._answered = connect, clock, answered
        self._queue: BatchQueue[Call] = BatchQueue(settings)
        self._ports: dict[str, _Port] = {}
        self._loop = asyncio.get_running_loop()
        self._pump_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self.add(route.replicas)

    @property
    def ready(self) -> bool:
        """Whether at least one replica can answer."""
        return any(port.link.ready for port in self._ports.values())

    @property
    def full(self) -> bool:
        """Whether another call would be refused."""
        return self._queue.full

    def retry_after_s(self) -> int:
        """Return when a refused client should come again, in whole seconds."""
        return self._queue.retry_after_s()

    def add(self, replicas: tuple[RouteReplica, ...]) -> None:
        """Connect to those that are new."""
        for replica in replicas:
            if replica.id not in self._ports:
                link = self._connect(replica.address, bundle=self.route.bundle, changed=self._soon)
                self._ports[replica.id] = _Port(replica, link)

    def keep(self, route: Route) -> None:
        """Follow a newer route of the same deployment: replicas that it does not list get nothing new."""
        self.route = route
        listed = {replica.id for replica in route.replicas}
        for name in [name for name in self._ports if name not in listed]:
            self._retire(self._ports.pop(name))

    def offer(self, call: Call) -> None:
        """Take a call in. Raises UnavailableError where no replica is there or the queue is full."""
        if not self.ready:
            raise UnavailableError("no replica of this application answers now", hint="try again in a moment")
        if not self._queue.offer(Item(call, call.num_rows, call.deadline_ns)):
            raise UnavailableError("too many requests are waiting", hint="try again after Retry-After")
        self.num_open += 1
        self._soon()

    def close(self) -> None:
        """Answer what is open, then end the connections."""
        self._closing = True
        self._close_if_empty()

    def abort(self) -> None:
        """End the connections now."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._close_links()
        self._fail_waiting()

    def _soon(self) -> None:
        """Decide once everything that this tick of the loop brings has been parsed: that is what fills a batch."""
        if not self._pump_due:
            self._pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if len(self._queue) and not self.ready and not any(port.busy for port in self._ports.values()):
            self._fail_waiting()
            return
        idle = sorted((port for port in self._ports.values() if port.link.ready and not port.busy), key=_name)
        now = self._clock.monotonic_ns()
        taken = self._queue.take(now, len(idle))
        late = UnavailableError("no answer came in time", hint="try again after Retry-After")
        self._finish([item.key for item in taken.expired], late, "")
        for batch, port in zip(taken.batches, idle, strict=False):
            calls = [item.key for item in batch if not item.key.context.gone]
            for item in batch:
                if item.key.context.gone:
                    item.key.context.leave(now, failed=True)
            self.num_open -= len(batch) - len(calls)
            if calls:
                self._send(port, calls)
            else:
                self._soon()
        if taken.wake_at_ns is not None:
            self._timer = self._loop.call_later(max(0, taken.wake_at_ns - now) / 1e9, self._soon)

    def _send(self, port: _Port, calls: list[Call]) -> None:
        started = self._clock.monotonic_ns()
        port.busy = True

        def done(outcome: Outcome) -> None:
            now = self._clock.monotonic_ns()
            port.busy = False
            self._queue.finished(len(calls), now - started, now)
            self._soon()
            self._received(calls, outcome, port.replica.id)

        port.link.send(join([call.rows for call in calls]), sum(call.num_rows for call in calls), done)

    def _received(self, calls: list[Call], outcome: Outcome, replica: str) -> None:
        if not isinstance(outcome, DatahallError):
            num_rows = sum(call.num_rows for call in calls)
            if any(len(array) != num_rows for array in outcome.values()):
                outcome = DatahallError("the model answered with another number of rows than it was asked")
            self._finish(calls, outcome, replica)
            return
        lost = isinstance(outcome, UnavailableError)
        # Answers have no effect but their record, which is written later, so asking again is safe. One bad call must
        # not fail its batch either: each of its calls then goes alone.
        again = [call for call in calls if lost or (isinstance(outcome, UserError) and len(calls) > 1)]
        again = [call for call in again if call.attempts + 1 < MAX_ATTEMPTS]
        if again and self.ready:
            rows = self._queue.settings.max_rows
            for call in again:
                call.attempts += lost
            self._queue.put_back(
                tuple(Item(call, max(call.num_rows, 0 if lost else rows), call.deadline_ns) for call in again)
            )
            calls = [call for call in calls if call not in again]
        self._finish(calls, outcome, replica)

    def _finish(self, calls: list[Call], outcome: Outcome, replica: str) -> None:
        if calls:
            self.num_open -= len(calls)
            self._answered(self, calls, outcome, replica)
        self._close_if_empty()

    def _fail_waiting(self) -> None:
        gone = UnavailableError("no replica of this application answers now", hint="try again in a moment")
        self._finish([item.key for item in self._queue.drain()], gone, "")

    def _retire(self, port: _Port) -> None:
        """Close a link once it is idle; it is out of the table already, so nothing new is sent on it."""
        if port.busy:
            self._loop.call_later(0.05, self._retire, port)
        else:
            port.link.close()

    def _close_if_empty(self) -> None:
        if self._closing and self.num_open == 0:
            self._close_links()

    def _close_links(self) -> None:
        ports, self._ports = self._ports, {}
        for port in ports.values():
            port.link.close()


def _name(port: _Port) -> str:
    return port.replica.id
