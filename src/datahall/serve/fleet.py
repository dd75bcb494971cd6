"""One deployment's replicas as a gateway sees them: links, health, pace, and whose turn it is."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from datahall.core.ports import Link
from datahall.core.records import RouteReplica
from datahall.policy import health, route
from datahall.serve.decisions import PolicyLog
from datahall.serve.pace import Pace

if TYPE_CHECKING:
    from datahall.serve.lane import Flight

Draw = Callable[[], float]
"""Returns a uniform number in [0, 1)."""

uniform: Draw = random.random
"""Seeded by the kernel in each process; tests and replays hand in another one."""


class Decided(Protocol):
    """Told every decision that changes a replica's state, with all that it was made from."""

    def __call__(
        self,
        policy: str,
        state: object,
        view: object,
        event: object,
        now: int,
        draw: float,
        new_state: object,
        decision: str,
        reason: str,
    ) -> None:
        """Take it; `decide(state, view, event, now, draw)` of `policy` gives the identical decision again."""


_WELL = health.Health()
"""Of a replica that never gave cause for doubt, which is by far the most frequent one: recognised by identity."""


class Port:
    """One replica: its link, what is in flight on it, and what is known of it."""

    __slots__ = ("answered_ns", "chosen_at", "flight", "health", "link", "pace", "replica", "sent_ns")

    def __init__(self, replica: RouteReplica, link: Link) -> None:
        self.replica, self.link = replica, link
        self.flight: Flight | None = None
        self.health = _WELL
        self.pace = Pace()
        self.sent_ns = 0
        self.answered_ns = 0
        self.chosen_at = 0
        """Which of the lane's batches was its last."""


class Fleet:
    """The ports of one lane. Every method's time is an argument, in nanoseconds of a monotonic clock."""

    def __init__(
        self,
        *,
        draw: Draw,
        changed: Callable[[], None],
        decided: Decided | None,
        log: PolicyLog | None,
        place: int | None = None,
    ) -> None:
        """`log` keeps some of the choices of a replica; `place` is the gateway's among several, None where it is alone."""
        self.ports: dict[str, Port] = {}
        self._draw, self._changed, self._decided, self._log = draw, changed, decided, log
        self._place = place
        self._num_chosen = 0

    @property
    def num_ready(self) -> int:
        """How many replicas could answer, busy or not: at least one of the connected ones, whatever their health."""
        connected = [port for port in self.ports.values() if port.link.ready]
        return sum(port.health.phase != "open" for port in connected) or min(1, len(connected))

    @property
    def serving(self) -> tuple[str, ...]:
        """Ids of the replicas that are connected, and neither ejected nor on probation, sorted."""
        ports = self.ports.values()
        return tuple(sorted(port.replica.id for port in ports if port.link.ready and port.health.phase == "closed"))

    @property
    def max_rows(self) -> int:
        """The (lower) median of what connected replicas say is the most rows of a batch; 0 where none says so."""
        known = sorted(port.link.max_rows for port in self.ports.values() if port.link.ready and port.link.max_rows)
        return known[(len(known) - 1) // 2] if known else 0

    def num_others(self, port: Port) -> int:
        """Return how many other replicas could answer, busy or not."""
        connected = [other for other in self.ports.values() if other is not port and other.link.ready]
        return sum(other.health.phase != "open" for other in connected) or min(1, len(connected))

    def idle(self, now_ns: int) -> list[Port]:
        """Return those that can take a batch now; ejected and doubtful ones only where nobody else is connected."""
        connected = [port for port in self.ports.values() if port.link.ready]
        if len(connected) > 1 and any(port.health is not _WELL for port in connected):
            for port in connected:
                if port.health.phase == "open" and now_ns >= port.health.until_ns:
                    self._decide(port, health.Due(), now_ns, 0.0)
            trusted = [port for port in connected if health.is_trusted(port.health, now_ns - port.sent_ns)]
            connected = trusted or [port for port in connected if port.health.phase != "open"] or connected
        return [port for port in connected if port.flight is None]

    def choose(self, idle: list[Port], num_rows: int, now_ns: int) -> Port:
        """Return which of `idle` gets a batch of `num_rows`."""
        self._num_chosen += 1
        port = idle[0] if len(idle) == 1 else self._choose(idle, num_rows, now_ns)
        port.chosen_at = self._num_chosen
        return port

    def _choose(self, idle: list[Port], num_rows: int, now_ns: int) -> Port:
        num = len(self.ports)
        own = None if self._place is None else sorted(self.ports)[self._place % num]
        candidates = tuple(
            route.Candidate(
                port.replica.id,
                port.pace.time_ns(num_rows),
                health.is_due(port.health, now_ns - port.sent_ns)
                or health.is_forgotten(self._num_chosen - port.chosen_at, num),
                port.replica.id == own,
            )
            for port in idle
        )
        view, event, draw = route.RouteView(candidates), route.Batch(num_rows), self._draw()
        answered = route.decide(None, view, event, now_ns, draw)
        if self._log is not None and self._log.due():
            self._log.keep((None, view, event, now_ns, draw), answered)
        return self.ports[answered[1]]

    def usual_ns(self, port: Port, num_rows: int) -> float:
        """Return the (lower) median of its healthy siblings' times for a batch of that size; 0 where nobody knows."""
        times = [
            time_ns
            for other in self.ports.values()
            if other is not port and other.health.phase == "closed" and (time_ns := other.pace.bound_ns(num_rows))
        ]
        return sorted(times)[(len(times) - 1) // 2] if times else 0.0

    def answered(self, port: Port, num_rows: int, took_ns: int, now_ns: int) -> bool:
        """Learn that a batch was answered; return whether it took as long as it should."""
        port.answered_ns = now_ns
        usual_ns = self.usual_ns(port, num_rows)
        port.pace.learn(num_rows, took_ns)
        if port.health is _WELL and health.is_good(took_ns, usual_ns):
            return True  # nothing changes
        self._decide(port, health.Answered(took_ns), now_ns, usual_ns)
        return not health.is_slow(took_ns, usual_ns)

    def failed(self, port: Port, now_ns: int) -> None:
        """Learn that a batch failed, by the replica's fault or because its connection is gone."""
        self._decide(port, health.Failed() if port.link.ready else health.Lost(), now_ns, 0.0)

    def waiting(self, port: Port, num_rows: int, now_ns: int) -> bool:
        """Learn that its batch has not been answered yet; return whether that ejects it."""
        sent_ns = port.sent_ns
        since = any(other.answered_ns > sent_ns for other in self.ports.values() if other is not port)
        event = health.Waiting(now_ns - sent_ns)
        return self._decide(port, event, now_ns, self.usual_ns(port, num_rows), since) == "eject"

    def _decide(
        self, port: Port, event: health.Event, now_ns: int, usual_ns: float, sibling_answered: bool = False
    ) -> health.Decision:
        others = [other for other in self.ports.values() if other is not port and other.link.ready]
        num_ejected = sum(other.health.phase != "closed" for other in others)
        view = health.HealthView(len(others) + 1, num_ejected, usual_ns, sibling_answered)
        draw = self._draw()
        old = port.health
        port.health, decision, reason = health.decide(old, view, event, now_ns, draw)
        if decision == "try":
            port.pace = Pace()  # how slow it was says nothing about how fast it is now
        if decision != "stay":
            self._changed()
            if self._decided is not None:
                self._decided("health", old, view, event, now_ns, draw, port.health, decision, reason)
        if port.health == _WELL:
            port.health = _WELL
        return decision
