"""What the gateway must reach, line by line, and whether it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from benchmarks.serving.results import Results, median
from benchmarks.serving.servers import PEERS

OURS, OURS_SKLEARN = "datahall", "datahall, scikit-learn"


class Line(NamedTuple):
    """One demand; `seen` is None where it was not measured."""

    what: str
    demanded: float
    at_least: bool
    unit: str
    seen: float | None
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether it is fulfilled, None where it was not measured."""
        if self.seen is None:
            return None
        return self.seen >= self.demanded if self.at_least else self.seen <= self.demanded


def lines(results: Results) -> Iterator[Line]:
    """Yield every demand with what was seen: ratios are those of medians over the rounds."""
    yield from _speed(results)
    yield from _waiting(results)
    yield from _gateways(results)
    yield from _starts(results)
    yield from _crowd(results)
    yield from _batch_cap(results)


def best_peer(
    results: Results, model: str, num_connections: int, figure: str, *, best: Callable[..., float] = max
) -> tuple[str, float] | None:
    """Return the peer with the best median of a figure, and that median; None where no peer was measured."""
    found = {name: results.median(name, model, num_connections, figure) for name in PEERS}
    seen = {name: value for name, value in found.items() if value}
    if not seen:
        return None
    value = best(seen.values())
    return next(name for name in seen if seen[name] == value), value


def _speed(results: Results) -> Iterator[Line]:
    for what, server, model, demanded in (
        ("answers/s at 64 connections over the best peer's, net", OURS, "digits", 12.0),
        ("the same with the peers' engine, net", OURS_SKLEARN, "digits", 5.0),
        ("the same with the peers' engine, forest", OURS_SKLEARN, "tumours", 2.5),
    ):
        peer = best_peer(results, model, 64, "answers_per_s")
        yield _over(what, demanded, results.median(server, model, 64, "answers_per_s"), peer)
    echo = results.median("asgi", "digits", 64, "answers_per_s")
    yield _over(
        "answers/s at 64 connections over a no-op echo on uvicorn (goal: 1)",
        0.75,
        results.median(OURS, "digits", 64, "answers_per_s"),
        None if echo is None else ("uvicorn", echo),
    )


def _waiting(results: Results) -> Iterator[Line]:
    p99 = results.median(OURS, "digits", 64, "latency_ms_p99")
    echo = results.median("echo", "digits", 64, "latency_ms_p99")
    bare = None if echo is None else ("the echo", echo)
    yield _over("p99 at 64 connections over our own bare echo's", 2.0, p99, bare, at_least=False)
    for what, demanded, num_connections, figure in (
        ("p99 at 64 connections over the best peer's", 1 / 8, 64, "latency_ms_p99"),
        ("p50 at 1 connection over the best peer's", 0.35, 1, "latency_ms_p50"),
    ):
        peer = best_peer(results, "digits", num_connections, figure, best=min)
        yield _over(what, demanded, results.median(OURS, "digits", num_connections, figure), peer, at_least=False)


def _gateways(results: Results) -> Iterator[Line]:
    one, two = (results.median(name, "digits", 64, "cpu_us_per_answer") for name in (OURS, "two gateways"))
    alone = None if one is None else ("one gateway", one)
    yield _over("processor time an answer, two gateways over one", 1.1, two, alone, at_least=False)
    one, two = (results.median(name, "slow", 64, "answers_per_s") for name in ("one gateway", "two gateways"))
    alone = None if one is None else ("one gateway", one)
    yield _over("answers/s of a slow model, two gateways on two cores over one on one", 1.5, two, alone)
    cost = results.median("one gateway", "slow", 64, "cpu_us_per_answer")
    yield Line("processor time an answer of that slow model", 100.0, at_least=True, unit="us", seen=cost)


def _starts(results: Results) -> Iterator[Line]:
    replica = median(results.replica_cold_start_s)
    yield Line("a replica from its order to its first answer", 0.7, at_least=False, unit="s", seen=replica)
    hall = results.start(OURS, "digits", "cold_start_s")
    yield Line("a whole hall from its command to its first answer", 3.0, at_least=False, unit="s", seen=hall)
    for what, figure in (("a replica", "replica_mb"), ("a gateway", "gateway_mb")):
        memory = results.start(OURS, "digits", figure)
        yield Line(f"memory of {what} after load (PSS)", 80.0, at_least=False, unit="MB", seen=memory)


def _crowd(results: Results) -> Iterator[Line]:
    ours = next((each for each in results.crowds if each.server == OURS), None)
    peers = [each.level.latency_ms_p99 for each in results.crowds if each.server in PEERS]
    note = f"the peers: {min(peers):,.0f} to {max(peers):,.0f} ms" if peers else ""
    level = ours.level if ours else None
    yield Line(
        "1,500 connections: p99 of accepted requests",
        min(peers) if peers else 1900.0,
        at_least=False,
        unit="ms",
        seen=level.latency_ms_p99 if level else None,
        note=note,
    )
    failed = level.num_failed + level.num_late if level else None
    refused = f"{level.num_answers:,} answered, {level.num_refused:,} refused" if level else ""
    yield Line("1,500 connections: failed or late", 0.0, at_least=False, unit="", seen=failed, note=refused)
    seen = ours.recovery_s if ours else None
    yield Line("1,500 connections: next answer after the load", 0.1, at_least=False, unit="s", seen=seen)
    growth = ours.growth_mb if ours else None
    yield Line("1,500 connections: growth of memory", 50.0, at_least=False, unit="MB", seen=growth)


def _batch_cap(results: Results) -> Iterator[Line]:
    for model, what in (("tumours", "forest"), ("digits", "net")):
        rows_us, cap = results.rows_us.get(model), results.caps.get(model)
        seen = rows_us[cap] / min(rows_us.values()) if rows_us and cap else None
        note = f"it aims at {cap} rows a call" if cap else ""
        yield Line(
            f"cost of a row at the batch a replica aims at, over the cheapest, {what}",
            1.1,
            at_least=False,
            unit="x",
            seen=seen,
            note=note,
        )


def _over(
    what: str, demanded: float, ours: float | None, other: tuple[str, float] | None, *, at_least: bool = True
) -> Line:
    seen = ours / other[1] if ours is not None and other is not None and other[1] else None
    note = f"{ours:,.4g} to {other[1]:,.4g} of {other[0]}" if ours is not None and other is not None else ""
    return Line(what, demanded, at_least=at_least, unit="x", seen=seen, note=note)
