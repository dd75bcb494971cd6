"""The load generator: on a timetable or one request after another; it says how long each took, and for how many.

Latency counts from the time at which a request was due, not from when it could be sent: a client that waits for a
stalled server before it asks again would leave out all that others would have suffered ("coordinated omission", Tene,
"How not to measure latency", 2013).
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

import msgspec
import numpy as np

from datahall.core.ports import Clock
from datahall.evaluate.histogram import LatencyHistogram
from datahall.evaluate.load_client import Call, ClientConnection

Connect = Callable[[Callable[[], ClientConnection]], Awaitable[object]]
"""Opens a connection whose protocol the given function makes. Raises OSError."""

_WORTH_ANOTHER_TRY = frozenset(("429", "502", "503", "504", "timeout", "lost"))


class LoadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How clients behave."""

    max_connections: int = 256
    timeout_seconds: float = 5.0
    """From when a request, or its repetition, is due; then the client hangs up."""
    max_retries: int = 0
    """Of a request that is refused for now (429, 502, 503, 504), times out or is lost."""
    retry_seconds: float = 0.1
    """Wait before the first repetition, doubled for each further one, times a draw from 0.5 to 1.5."""
    honour_retry_after: bool = True
    """Whether a repetition waits at least as long as the server asks."""
    spin_seconds: float = 0.002
    """So long before a due time the generator looks at the clock instead of sleeping: timers are late by a millisecond."""


class LoadReport:
    """What came of a load."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """Of the timetable; answers after its end do not count as goodput."""
        self.num_offered = 0
        self.num_attempts = 0
        """Requests sent or given up: with repetitions, more than were offered."""
        self.num_answered_in_time = 0
        """Answers with a status of 2xx before the timetable's end."""
        self.outcomes: Counter[str] = Counter()
        """By status, or `timeout` or `lost`: one for each request that was offered."""
        self.attempts: Counter[str] = Counter()
        """Likewise, one for each attempt."""
        self.answered = LatencyHistogram()
        """Of requests that ended with a 2xx, from when they were due the first time."""
        self.refused = LatencyHistogram()
        """Of all others."""
        self.served = LatencyHistogram()
        """Of 2xx answers, from when they were sent: what a closed loop would call their latency."""
        self.lag = LatencyHistogram()
        """How late the generator itself was; where this is long, it was the bottleneck."""

    @property
    def goodput_per_s(self) -> float:
        """Answers with a status of 2xx per second of the timetable."""
        return self.num_answered_in_time / self.seconds if self.seconds else 0.0

    @property
    def amplification(self) -> float:
        """Attempts per request."""
        return self.num_attempts / self.num_offered if self.num_offered else 0.0


def poisson(rate_per_s: float, draw: random.Random) -> Iterator[float]:
    """Yield arrival times in seconds without end, as if many clients asked independently of one another."""
    at_s = 0.0
    while True:
        at_s += draw.expovariate(rate_per_s)
        yield at_s


async def offer(
    requests: Sequence[bytes],
    arrivals_s: Iterable[float],
    connect: Connect,
    *,
    seconds: float,
    settings: LoadSettings | None = None,
    draw: random.Random | None = None,
) -> LoadReport:
    """Send `requests` in turn at ascending times from now, whatever the server does; the open loop.

    `arrivals_s` may be recorded or drawn (`poisson`); what is due after `seconds` is left out. `draw` spreads the
    repetitions. Returns once every request has its outcome.
    """
    run = _Run(connect, settings or LoadSettings(), draw or random.Random(0))  # noqa: S311  no secret depends on it
    due = itertools.takewhile(lambda at_s: at_s < seconds, arrivals_s)
    return await run.on_timetable(itertools.cycle(requests), due, seconds)


async def saturate(
    requests: Sequence[bytes], connect: Connect, *, seconds: float, settings: LoadSettings | None = None
) -> LoadReport:
    """Keep `max_connections` clients asking, each again as soon as it is answered, for `seconds`; the closed loop.

    It finds what a server can do at most, and hides how long anybody waits: each request is due when it is sent.
    """
    run = _Run(connect, settings or LoadSettings(), random.Random(0))  # noqa: S311  no secret depends on it
    return await run.without_pause(itertools.cycle(requests), seconds)


class _Run:
    """One load on its way."""

    def __init__(self, connect: Connect, settings: LoadSettings, draw: random.Random) -> None:
        self._connect, self._settings, self._draw = connect, settings, draw
        self._loop = asyncio.get_running_loop()
        self._report = LoadReport()
        self._idle: list[ClientConnection] = []
        self._connections: set[ClientConnection] = set()
        self._num_opening = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[Call] = deque()
        """Calls that are due and have no connection."""
        self._timed: deque[Call] = deque()
        """Calls in the order of their deadlines."""
        self._alarm: asyncio.TimerHandle | None = None
        self._end_s = 0.0
        self._num_open = 0
        """Calls without an outcome."""
        self._all_due = False
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._next: Callable[[], None] | None = None

    async def on_timetable(self, requests: Iterator[bytes], due: Iterator[float], seconds: float) -> LoadReport:
        start_s = self._loop.time()
        self._report.seconds, self._end_s = seconds, start_s + seconds

        def step(at_s: float | None) -> None:
            now = self._loop.time()
            while at_s is not None and start_s + at_s <= now:
                self._report.lag.record(now - start_s - at_s)
                self._offer(Call(next(requests), start_s + at_s), now)
                at_s = next(due, None)
            if at_s is None:
                self._all_due = True
                self._finish_if_over()
            elif start_s + at_s - now > self._settings.spin_seconds:
                self._loop.call_at(start_s + at_s - self._settings.spin_seconds, step, at_s)
            else:
                self._loop.call_soon(step, at_s)

        step(next(due, None))
        return await self._finished()

    async def without_pause(self, requests: Iterator[bytes], seconds: float) -> LoadReport:
        now = self._loop.time()
        self._report.seconds, self._end_s = seconds, now + seconds

        def again() -> None:
            now = self._loop.time()
            if now < self._end_s:
                self._offer(Call(next(requests), now), now)
            else:
                self._all_due = True

        self._next = again
        for _ in range(self._settings.max_connections):
            again()
        return await self._finished()

    async def _finished(self) -> LoadReport:
        try:
            await self._done
        finally:
            if self._alarm is not None:
                self._alarm.cancel()
            for task in self._opening:
                task.cancel()
            for connection in tuple(self._connections):
                connection.abort()
        return self._report

    # A connection calls these.

    def answered(self, call: Call, status: int, retry_after_s: float) -> None:
        """Take note of an answer."""
        if not call.over:
            self._settle(call, str(status), retry_after_s)

    def free(self, connection: ClientConnection) -> None:
        """Give a connection, old or new, the call that has waited longest."""
        if connection not in self._connections:
            self._num_opening -= 1
            self._connections.add(connection)
        while self._waiting:
            call = self._waiting.popleft()
            if not call.over:
                self._send(connection, call)
                return
        self._idle.append(connection)

    def gone(self, connection: ClientConnection, call: Call | None) -> None:
        """Open another connection for whoever waits."""
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if call is not None and not call.over:
            self._settle(call, "lost", 0.0)
        self._open_for_the_waiting()

    def _offer(self, call: Call, now: float) -> None:
        self._report.num_offered += 1
        self._num_open += 1
        self._attempt(call, now)

    def _attempt(self, call: Call, now: float) -> None:
        self._report.num_attempts += 1
        call.over = False
        call.deadline_s = now + self._settings.timeout_seconds
        self._timed.append(call)
        if self._alarm is None:
            self._alarm = self._loop.call_at(call.deadline_s, self._time_out)
        if self._idle:
            self._send(self._idle.pop(), call)
        else:
            self._waiting.append(call)
            self._open_for_the_waiting()

    def _send(self, connection: ClientConnection, call: Call) -> None:
        call.sent_s = self._loop.time()
        connection.send(call)

    def _open_for_the_waiting(self) -> None:
        room = self._settings.max_connections - len(self._connections) - self._num_opening
        for _ in range(min(room, len(self._waiting) - self._num_opening)):
            self._num_opening += 1
            task = self._loop.create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        try:
            await self._connect(lambda: ClientConnection(self))
        except OSError:
            self._num_opening -= 1
            while self._waiting:
                call = self._waiting.popleft()
                if not call.over:
                    self._settle(call, "lost", 0.0)
                    break

    def _time_out(self) -> None:
        now = self._loop.time()
        while self._timed and (self._timed[0].over or self._timed[0].deadline_s <= now):
            call = self._timed.popleft()
            if not call.over:
                connection, call.connection = call.connection, None
                self._settle(call, "timeout", 0.0)
                if connection is not None:
                    connection.abort()
        self._alarm = self._loop.call_at(self._timed[0].deadline_s, self._time_out) if self._timed else None

    def _settle(self, call: Call, outcome: str, retry_after_s: float) -> None:
        now, report, settings = self._loop.time(), self._report, self._settings
        call.over = True
        report.attempts[outcome] += 1
        if outcome in _WORTH_ANOTHER_TRY and call.num_retries < settings.max_retries:
            again = Call(call.request, call.due_s)
            again.num_retries = call.num_retries + 1
            wait_s = settings.retry_seconds * 2**call.num_retries * (0.5 + self._draw.random())
            if settings.honour_retry_after:
                wait_s = max(wait_s, retry_after_s)
            self._loop.call_later(wait_s, lambda: self._attempt(again, self._loop.time()))
            return
        report.outcomes[outcome] += 1
        self._num_open -= 1
        if outcome.startswith("2"):
            report.num_answered_in_time += now <= self._end_s
            report.answered.record(now - call.due_s)
            report.served.record(now - call.sent_s)
        else:
            report.refused.record(now - call.due_s)
        if self._next is not None:
            self._next()
        self._finish_if_over()

    def _finish_if_over(self) -> None:
        if self._all_due and self._num_open == 0 and not self._done.done():
            self._done.set_result(None)


def generate(
    send: Callable[[int], None], *, num_requests: int, clock: Clock, rate_per_s: float | None = None
) -> np.ndarray:
    """Call `send(0)`, `send(1)`, ... and return each request's latency in milliseconds, shape (num_requests,).

    Without a rate each request is sent when the one before is answered. With one, requests are due on a timetable
    and latency counts from then. Whatever `send` raises ends the measurement.
    """
    took_ns = np.empty(num_requests)
    begin_ns = clock.monotonic_ns()
    for number in range(num_requests):
        due_ns = clock.monotonic_ns()
        if rate_per_s is not None:
            due_ns = begin_ns + int(number * 1e9 / rate_per_s)
            ahead_ns = due_ns - clock.monotonic_ns()
            if ahead_ns > 0:
                clock.sleep(ahead_ns / 1e9)
        send(number)
        took_ns[number] = clock.monotonic_ns() - due_ns
    return took_ns / 1e6
