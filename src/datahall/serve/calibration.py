"""How long a model takes for how many rows: measured before the first request, learnt anew with every batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import msgspec

SIZES = (1, 2, 4, 8, 16, 20, 32, 64, 128, 256)
"""Rows of the batches that are measured."""
BUDGET_MS = 100.0
"""What all measurements may take together, but for the one that is under way when it is spent."""
TOLERANCE = 0.05
"""Batches this near to the least time a row count as equally good; the smallest of them answers soonest."""

_LEARNING = 0.125  # the weight of the newest batch in the moving average
_FEWEST_SIZES = 2  # a line needs two points


class Sample(msgspec.Struct, frozen=True):
    """The median time of batches of one size."""

    num_rows: int
    time_us: float


def calibrate(samples: Sequence[Sample]) -> int:
    """Return the batch to aim for: the fewest rows whose time a row is within TOLERANCE of the least.

    `samples` rise in rows, at least one. Sizes beyond the last one measured are estimated on the line through the
    first and the last: a model whose every call costs much gains from them, one whose every row does gains nothing.
    """
    first, last = samples[0], samples[-1]
    slope = max(0.0, (last.time_us - first.time_us) / max(1, last.num_rows - first.num_rows))
    beyond = [
        Sample(size, last.time_us + slope * (size - last.num_rows))
        for size in SIZES
        if size > last.num_rows and len(samples) >= _FEWEST_SIZES
    ]
    a_row = {sample.num_rows: sample.time_us / sample.num_rows for sample in (*samples, *beyond)}
    least = min(a_row.values())
    return min(num_rows for num_rows, time_us in a_row.items() if time_us <= least * (1 + TOLERANCE))


def sweep(
    prepare: Callable[[int], Callable[[], object]],
    *,
    sizes: Sequence[int] = SIZES,
    budget_ms: float = BUDGET_MS,
    now_ns: Callable[[], int] = time.perf_counter_ns,
) -> tuple[Sample, ...]:
    """Time `prepare(num_rows)()`, its call alone, for each of `sizes` in turns, and return the medians.

    Turns go on until `budget_ms` is spent, preparing included.

    A size's first time counts only where there is no other: it pays for memory that later ones find ready. Of a model
    so slow that the budget ends within the first turn only the smaller sizes are measured, two at least.
    """
    times: dict[int, list[float]] = {}
    start = now_ns()
    spent = False
    while not spent:
        for size in sizes:
            work = prepare(size)
            began = now_ns()
            work()
            now = now_ns()
            times.setdefault(size, []).append((now - began) / 1e3)
            spent = now - start >= budget_ms * 1e6 and len(times) >= min(_FEWEST_SIZES, len(sizes))
            if spent:
                break
    return tuple(Sample(size, statistics.median(measured[1:] or measured)) for size, measured in times.items())


class Timings:
    """What a batch of some size is expected to take; sizes up to the same power of two are one."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._times_us: dict[int, float] = {}
        for sample in samples:  # rising: the largest of a power of two stands for it
            self._times_us[_power(sample.num_rows)] = sample.time_us

    def expect_us(self, num_rows: int) -> float:
        """Return the expected time; for sizes not met yet, as many times that of the next smaller as it has rows."""
        power = _power(num_rows)
        known = self._times_us.get(power)
        if known is not None:
            return known
        below = max((other for other in self._times_us if other < power), default=None)
        return 0.0 if below is None else self._times_us[below] * 2.0 ** (power - below)

    def learn(self, num_rows: int, time_us: float) -> None:
        """Take a batch into the moving average of its size."""
        power = _power(num_rows)
        old = self._times_us.setdefault(power, time_us)
        self._times_us[power] = old + _LEARNING * (time_us - old)


def _power(num_rows: int) -> int:
    return max(0, num_rows - 1).bit_length()
