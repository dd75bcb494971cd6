"""One deployment's way through a gateway: its queue, its replicas, and what happens when one dies, hangs or slows.

A batch is sent to one replica. If it is late, it is sent to an idle one as well, and the first answer counts; if its
replica is lost, fails or is ejected, its calls go to another. `policy.route`, `policy.health` and `policy.retry` decide
that; the lane carries it out and sees to it that each call is answered exactly once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from datahall.core.errors import DatahallError, UnavailableError, UserError
from datahall.core.ports import Clock, Outcome, Transport
from datahall.core.records import Route, RouteReplica
from datahall.policy import health, retry
from datahall.serve.batch import BatchQueue, BatchSettings, Item
from datahall.serve.decisions import DecisionFiles, log_of
from datahall.serve.fleet import Decided, Draw, Fleet, Port, uniform
from datahall.serve.pace import Tail
from datahall.serve.protocols.speech import speeches
from datahall.serve.rows import Rows, join

MIN_LATE_NS = 5_000_000
"""Nothing is late before, however fast the model is: a hedge for less would cost more than it saves."""
LOOK_NS = 10_000_000
"""How soon a late batch is looked at again for which nothing could be done."""
RESERVE_BATCHES = 2
"""The retry budget holds so many full batches: what is lost when so many replicas die in one moment."""


class Context(Protocol):
    """What the gateway keeps with a call."""

    @property
    def gone(self) -> bool:
        """Whether the client has left: nothing needs to be computed for it any more."""

    def leave(self, now_ns: int, *, failed: bool) -> None:
        """Nothing more is done for the call. May be told twice."""


class Call(msgspec.Struct, gc=False, eq=False):
    """One request for answers on its way."""

    rows: Rows
    num_rows: int
    deadline_ns: int
    context: Context
    """The gateway's own."""
    attempts: int = 0


Answered = Callable[["Lane", list[Call], Outcome, str], None]
"""Called with the lane, calls, what came of them, and the replica's id: arrays with the calls' rows in their order, as
many as the calls have together, or the error that all of them get."""


class Timers(Protocol):
    """What a lane needs of an event loop."""

    def call_soon(self, callback: Callable[[], None], /) -> object:
        """Call after what is happening now."""

    def call_later(self, delay: float, callback: Callable[[], None], /) -> asyncio.TimerHandle:
        """Call after `delay` seconds."""


class Batch:
    """Calls that are sent together, once or, where that is late, twice."""

    __slots__ = ("calls", "deadline_ns", "num_flights", "num_rows", "settled")

    def __init__(self, calls: list[Call]) -> None:
        self.calls, self.num_rows = calls, sum(call.num_rows for call in calls)
        self.deadline_ns = calls[-1].deadline_ns  # deadlines rise along the queue
        self.num_flights = 0
        self.settled = False
        """Whether its calls are answered or wait in the queue again: what still comes for it is dropped."""


class Flight:
    """One batch on its way to one replica and back."""

    __slots__ = ("batch", "look_ns", "port", "sent_ns")

    def __init__(self, batch: Batch, port: Port, sent_ns: int) -> None:
        self.batch, self.port, self.sent_ns = batch, port, sent_ns
        self.look_ns = 0
        """When to look whether it is late or hangs."""


class Lane:
    """Takes calls for one deployment and sees to it that each is answered once, whatever happens to the replicas."""

    def __init__(
        self,
        route: Route,
        *,
        transport: Transport,
        clock: Clock,
        settings: BatchSettings,
        answered: Answered,
        decided: Decided | None = None,
        decisions: DecisionFiles | None = None,
        draw: Draw = uniform,
        timers: Timers | None = None,
        place: int | None = None,
    ) -> None:
        """Connect to the route's replicas. `decided` is told whenever a replica's health changes its state; of other
        decisions `decisions` keeps some. `place` is the gateway's among several, None where it is alone.
        """
        self.route = route
        self.revision = -1
        """The newest revision of the routes in which this deployment is: while it drains, no longer the one in use."""
        self.speeches = speeches(route)
        self.num_open = 0
        self._transport, self._clock, self._answered = transport, clock, answered
        self._queue: BatchQueue[Call] = BatchQueue(settings)
        self._log = log_of(decisions, "retry")
        self._fleet = Fleet(
            draw=draw, changed=self._changed, decided=decided, log=log_of(decisions, "route"), place=place
        )
        self._flights: dict[Flight, None] = {}
        self._late: dict[Flight, None] = {}
        """Those of the flights whose batch waits for an idle replica that answers it sooner."""
        self._tail = Tail()
        self._budget = retry.Budget(RESERVE_BATCHES * settings.max_rows, clock.monotonic_ns())
        self._num_new = 0
        self._num_ready = 0
        self._timers: Timers = timers or asyncio.get_running_loop()
        self._pump_due = False
        self._wake: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._watch_at_ns = 0
        self._closing = False
        self.add(route.replicas)

    @property
    def ready(self) -> bool:
        """Whether at least one replica can answer."""
        return self._fleet.num_ready > 0

    @property
    def full(self) -> bool:
        """Whether another call would be refused."""
        return self._queue.full(self._num_ready)

    @property
    def serving(self) -> tuple[str, ...]:
        """Ids of the replicas that are well: connected, and neither ejected nor on probation; sorted."""
        return self._fleet.serving

    def retry_after_s(self) -> int:
        """Return when a refused client should come again, in whole seconds."""
        return self._queue.retry_after_s()

    def add(self, replicas: tuple[RouteReplica, ...]) -> None:
        """Connect to those that are new."""
        for replica in replicas:
            if replica.id not in self._fleet.ports:
                link = self._transport.connect(replica.address, bundle=self.route.bundle, changed=self._changed)
                self._fleet.ports[replica.id] = Port(replica, link)
        self._changed()

    def keep(self, route: Route) -> None:
        """Follow a newer route of the same deployment: replicas that it does not list get nothing new."""
        self.route = route
        listed = {replica.id for replica in route.replicas}
        for name in [name for name in self._fleet.ports if name not in listed]:
            port = self._fleet.ports.pop(name)
            if port.flight is None:
                port.link.close()  # a busy one is closed when its answer is there
        self._changed()

    def offer(self, call: Call) -> None:
        """Take a call in.

        Raises UnavailableError where no replica is there, the queue is full, or no answer would come in time.
        """
        if not self._num_ready:
            raise UnavailableError("no replica of this application answers now", hint="try again in a moment")
        item = Item(call, call.num_rows, call.deadline_ns, self._clock.monotonic_ns())
        offered = self._queue.offer(item, self._num_ready)
        if offered == "full":
            raise UnavailableError("too many requests are waiting", hint="try again after Retry-After")
        if offered == "late":
            raise UnavailableError("no answer would come in time", hint="try again after Retry-After")
        self.num_open += 1
        self._num_new += 1
        self._soon()

    def close(self) -> None:
        """Answer what is open, then end the connections."""
        self._closing = True
        self._close_if_empty()

    def abort(self) -> None:
        """End the connections now; whatever is open gets an UnavailableError."""
        self._closing = True
        self._close_links()
        self._fail_waiting()

    def _changed(self) -> None:
        """Follow a replica that came or went."""
        self._num_ready = self._fleet.num_ready
        self._queue.cap(self._fleet.max_rows)
        self._soon()

    def _soon(self) -> None:
        """Decide once everything that this tick of the loop brings has been parsed: that is what fills a batch."""
        if not self._pump_due:
            self._pump_due = True
            self._timers.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_due = False
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if self._queue.is_filling():
            self._soon()
            return
        now = self._clock.monotonic_ns()
        idle = self._fleet.idle(now) if len(self._queue) or self._late else []
        if len(self._queue) and not self._num_ready and not self._flights:
            self._fail_waiting()
            return
        if self._late:
            self._hedge(idle, now)
        taken = self._queue.take(now, len(idle))
        self._refuse(taken.expired, "no answer came in time")
        self._refuse(taken.shed, "too many requests are waiting")
        for items in taken.batches:
            calls = [item.key for item in items if not item.key.context.gone]
            if len(calls) < len(items):
                self._refuse(tuple(item for item in items if item.key.context.gone), "the client has left")
            if calls:
                batch = Batch(calls)
                port = self._fleet.choose(idle, batch.num_rows, now)
                idle.remove(port)
                self._send(batch, port, now)
            else:
                self._soon()
        if taken.wake_at_ns is not None:
            self._wake = self._timers.call_later(max(0, taken.wake_at_ns - now) / 1e9, self._soon)

    def _refuse(self, items: tuple[Item[Call], ...], what: str) -> None:
        if items:
            refused = UnavailableError(what, hint="try again after Retry-After")
            self._finish([item.key for item in items], refused, "")

    def _send(self, batch: Batch, port: Port, now: int) -> None:
        flight = Flight(batch, port, now)
        flight.look_ns = now + max(MIN_LATE_NS, int(self._tail.late_ns(batch.num_rows)))
        flight.look_ns = max(now, min(flight.look_ns, batch.deadline_ns))
        port.flight, port.sent_ns = flight, now
        self._flights[flight] = None
        batch.num_flights += 1
        for call in batch.calls:
            call.attempts += 1
        if self._watch is None or flight.look_ns < self._watch_at_ns:
            self._look_at(flight.look_ns, now)
        port.link.send(join([call.rows for call in batch.calls]), batch.num_rows, lambda out: self._landed(flight, out))

    def _landed(self, flight: Flight, outcome: Outcome) -> None:
        now = self._clock.monotonic_ns()
        batch, port = flight.batch, flight.port
        took = now - flight.sent_ns
        port.flight = None
        self._flights.pop(flight, None)
        self._late.pop(flight, None)
        batch.num_flights -= 1
        if not isinstance(outcome, DatahallError) and any(len(one) != batch.num_rows for one in outcome.values()):
            outcome = DatahallError("the model answered with another number of rows than it was asked")
        if isinstance(outcome, DatahallError) and not isinstance(outcome, UserError):
            self._fleet.failed(port, now)
        elif self._fleet.answered(port, batch.num_rows, took, now):
            self._queue.finished(len(batch.calls), batch.num_rows, took, now)
            self._tail.learn(batch.num_rows, took)
        if self._fleet.ports.get(port.replica.id) is not port:
            port.link.close()
        self._soon()
        if not batch.settled:
            self._received(batch, outcome, port)

    def _received(self, batch: Batch, outcome: Outcome, port: Port) -> None:
        if not isinstance(outcome, DatahallError):
            batch.settled = True
            self._finish(batch.calls, outcome, port.replica.id)
            return
        if batch.num_flights:
            return  # the other replica that has it may still answer
        batch.settled = True
        # One bad call must not fail its batch: each of its calls then goes alone, which no budget needs to bound.
        if isinstance(outcome, UserError):
            again = batch.calls if len(batch.calls) > 1 else []
        else:
            why: retry.Why = "lost" if isinstance(outcome, UnavailableError) else "failed"
            # Alone, the good ones of a batch on which the model failed can be answered by the same replica too.
            num_others = self._fleet.num_others(port) + (why == "failed" and len(batch.calls) > 1)
            again = [call for call in batch.calls if self._may_retry([call], port, why, num_others)]
        self._put_back(again, alone=not isinstance(outcome, UnavailableError))
        if len(again) < len(batch.calls):
            kept = set(map(id, again))
            self._finish([call for call in batch.calls if id(call) not in kept], outcome, port.replica.id)

    def _put_back(self, calls: list[Call], *, alone: bool) -> None:
        rows = self._queue.max_rows if alone else 0
        now = self._clock.monotonic_ns()
        self._queue.put_back(tuple(Item(call, max(call.num_rows, rows), call.deadline_ns, now) for call in calls))
        self._soon()

    def _may_retry(self, calls: list[Call], port: Port, why: retry.Why, num_others: int) -> bool:
        now = self._clock.monotonic_ns()
        num_rows = sum(call.num_rows for call in calls)
        view = retry.RetryView(
            num_calls=len(calls),
            num_attempts=max(call.attempts for call in calls),
            deadline_ns=max(call.deadline_ns for call in calls),
            needs_ns=port.pace.time_ns(num_rows) if why == "late" else 0.0,
            num_others=num_others,
            num_new=self._num_new,
            reserve=RESERVE_BATCHES * self._queue.settings.max_rows,
        )
        self._num_new = 0
        before, event = self._budget, retry.Trouble(why)
        answered = retry.decide(before, view, event, now, 0.0)
        if self._log is not None:
            self._log.keep_some((before, view, event, now, 0.0), answered)
        self._budget = answered[0]
        return answered[1] == "again"

    def _look_at(self, at_ns: int, now: int) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch_at_ns = at_ns
        self._watch = self._timers.call_later(max(0, at_ns - now) / 1e9, self._look)

    def _look(self) -> None:
        """Find batches that are late, and replicas that hang."""
        self._watch = None
        now = self._clock.monotonic_ns()
        for flight in [flight for flight in self._flights if flight.look_ns <= now]:
            self._hasten(flight, now)
        if self._flights:
            self._look_at(min(flight.look_ns for flight in self._flights), now)

    def _hasten(self, flight: Flight, now: int) -> None:
        batch, port = flight.batch, flight.port
        flight.look_ns = now + LOOK_NS
        ejected = self._fleet.waiting(port, batch.num_rows, now)
        if not batch.settled and now >= batch.deadline_ns:
            batch.settled = True
            self._finish(
                batch.calls, UnavailableError("no answer came in time", hint="try again after Retry-After"), ""
            )
        if batch.settled or batch.num_flights > 1:
            return
        late_ns = self._tail.late_ns(batch.num_rows) or health.hang_ns(0)  # at first nobody knows
        if ejected or port.health.phase == "open":
            if self._may_retry(batch.calls, port, "lost", self._fleet.num_others(port)):
                batch.settled = True
                self._put_back(batch.calls, alone=False)
        elif now - flight.sent_ns >= late_ns:
            self._late[flight] = None
            self._soon()

    def _hedge(self, idle: list[Port], now: int) -> None:
        """Give late batches to replicas of `idle`, before anything that has waited less; those leave the list."""
        for flight in list(self._late):
            batch, others = flight.batch, [port for port in idle if port is not flight.port]
            waits = not batch.settled and batch.num_flights == 1
            if waits and not others:
                continue
            del self._late[flight]  # where the budget forbids it, it is looked at again
            if waits and self._may_retry(batch.calls, flight.port, "late", len(others)):
                port = self._fleet.choose(others, batch.num_rows, now)
                idle.remove(port)
                self._send(batch, port, now)

    def _finish(self, calls: list[Call], outcome: Outcome, replica: str) -> None:
        if calls:
            self.num_open -= len(calls)
            self._answered(self, calls, outcome, replica)
        self._close_if_empty()

    def _fail_waiting(self) -> None:
        gone = UnavailableError("no replica of this application answers now", hint="try again in a moment")
        self._finish([item.key for item in self._queue.drain()], gone, "")

    def _close_if_empty(self) -> None:
        if self._closing and self.num_open == 0:
            self._close_links()

    def _close_links(self) -> None:
        for timer in (self._wake, self._watch):
            if timer is not None:
                timer.cancel()
        ports, self._fleet.ports = self._fleet.ports, {}
        self._num_ready = 0  # a request whose body comes only now is refused
        flying = {flight.port for flight in self._flights}
        for port in {*ports.values(), *flying}:
            port.link.close()
