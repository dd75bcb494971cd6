"""Latencies in buckets whose width grows with the value: bounded memory, and a stated relative error at any quantile.

The layout is HdrHistogram's (Tene, https://hdrhistogram.org): below 256 each value has a bucket of its own, and every
power of two above is divided into 128.
"""

from __future__ import annotations

import math

RELATIVE_ERROR = 1 / 128
"""A quantile is at most so much above the exact order statistic, and never below it."""
_NUM_PER_OCTAVE = 128
_MAX_US = (1 << 40) - 1
"""Twelve days; whatever is longer counts as that."""


class LatencyHistogram:
    """Counts of latencies in whole microseconds, rounded up."""

    __slots__ = ("_counts", "max_us", "num", "sum_us")

    def __init__(self) -> None:
        self._counts = [0] * (_NUM_PER_OCTAVE * 35)
        self.num = 0
        self.sum_us = 0
        self.max_us = 0

    def record(self, seconds: float) -> None:
        """Count one latency; what is below zero counts as zero."""
        # A clock's float seconds are exact to far less than a nanosecond: what lies above a microsecond by less is noise.
        value = min(max(math.ceil(seconds * 1e6 - 1e-3), 0), _MAX_US)
        self._counts[_index(value)] += 1
        self.num += 1
        self.sum_us += value
        self.max_us = max(self.max_us, value)

    def quantile_ms(self, level: float) -> float:
        """Return the smallest value that at least `level` of all are at most, in milliseconds; NaN without any."""
        if self.num == 0:
            return math.nan
        wanted = max(1, math.ceil(level * self.num - 1e-9))
        seen = 0
        for index, count in enumerate(self._counts):
            seen += count
            if seen >= wanted:
                return min(_highest(index), self.max_us) / 1e3
        raise AssertionError("the counts do not add up")

    @property
    def mean_ms(self) -> float:
        """The exact mean in milliseconds; NaN without any."""
        return self.sum_us / self.num / 1e3 if self.num else math.nan

    def merge(self, other: LatencyHistogram) -> None:
        """Count all that `other` has counted."""
        self._counts = [one + two for one, two in zip(self._counts, other._counts, strict=True)]
        self.num += other.num
        self.sum_us += other.sum_us
        self.max_us = max(self.max_us, other.max_us)


def _index(value: int) -> int:
    shift = max(value.bit_length() - 8, 0)
    return shift * _NUM_PER_OCTAVE + (value >> shift)


def _highest(index: int) -> int:
    """Return the highest value that is counted in a bucket."""
    shift = max(index // _NUM_PER_OCTAVE - 1, 0)
    return ((index - shift * _NUM_PER_OCTAVE + 1) << shift) - 1
