"""What was measured, as it is written to disk, and its medians."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import msgspec

from benchmarks.serving.drive import Level


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One start of one server in one round, and every level of load that it was put under."""

    server: str
    model: str
    round: int
    cold_start_s: float
    pss_mb: float
    num_processes: int
    levels: tuple[Level, ...] = ()
    replica_mb: float = 0.0
    gateway_mb: float = 0.0
    """Proportional set sizes of our two kinds of process after the load; 0 for other servers."""


class Crowd(msgspec.Struct, frozen=True, kw_only=True):
    """What far more connections than usual did to one server."""

    server: str
    level: Level
    recovery_s: float
    """From the end of the load to the next answer on a new connection."""
    growth_mb: float
    """Of the proportional set size of the whole server, from before the load to after it."""


class Results(msgspec.Struct, kw_only=True):
    """All of one run."""

    machine: dict[str, str] = {}
    seconds: int = 0
    fresh: bool = False
    seed: int = 0
    samples: list[Sample] = []
    crowds: list[Crowd] = []
    duties_us: dict[str, float] = {}
    rows_us: dict[str, dict[int, float]] = {}
    """Model to the number of rows of a call to microseconds a row."""
    caps: dict[str, int] = {}
    """Model to the number of rows at which its replicas aim."""
    replica_cold_start_s: list[float] = []
    missing: dict[str, str] = {}
    """What was not measured, and why."""

    def servers(self, model: str) -> list[str]:
        """Return who was measured with a model, in the order of their first sample."""
        return list(dict.fromkeys(sample.server for sample in self.samples if sample.model == model))

    def levels(self, server: str, model: str, num_connections: int) -> list[Level]:
        """Return one level's rounds."""
        return [
            level
            for sample in self.samples
            if (sample.server, sample.model) == (server, model)
            for level in sample.levels
            if level.num_connections == num_connections
        ]

    def median(self, server: str, model: str, num_connections: int, figure: str) -> float | None:
        """Return the median of a figure of `Level` over the rounds, None where there are none."""
        return median(getattr(level, figure) for level in self.levels(server, model, num_connections))

    def start(self, server: str, model: str, figure: str) -> float | None:
        """Return the median of a figure of `Sample` over the rounds, None where there are none."""
        chosen = [each for each in self.samples if (each.server, each.model) == (server, model)]
        return median(getattr(sample, figure) for sample in chosen)


def median(values: Iterable[float]) -> float | None:
    """Return the median, None of nothing."""
    found = list(values)
    return statistics.median(found) if found else None
