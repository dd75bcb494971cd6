"""How long batches of a size take: what predictions, hedges and the comparison of replicas are made from.

Batches are told apart by size class: 1, 2-3, 4-7, 8-15 rows and so on, since a batch of 200 rows is not late when it
takes longer than one row. A larger batch is never the faster one, so a larger class bounds a smaller from above.
"""

from __future__ import annotations

from collections import deque

WEIGHT = 0.3
"""Of the newest batch in the moving average (EWMA) of its class."""
NUM_KEPT = 128
"""Batches of a class from which its 99th percentile is taken."""
MIN_KEPT = 16
"""With fewer there is no percentile worth the name: `FIRST_RATIO` times the average stands in for it."""
FIRST_RATIO = 4.0

_NUM_CLASSES = 24


def _class_of(num_rows: int) -> int:
    return min(num_rows.bit_length(), _NUM_CLASSES - 1)


class Pace:
    """Moving averages of one replica's batch times, in nanoseconds, by size class."""

    __slots__ = ("_largest", "_mean_ns")

    def __init__(self) -> None:
        self._mean_ns = [0.0] * _NUM_CLASSES
        self._largest = 0
        """The largest class seen."""

    def learn(self, num_rows: int, took_ns: float) -> None:
        """Take a batch of `num_rows` into account that took `took_ns`."""
        index = _class_of(num_rows)
        old = self._mean_ns[index]
        self._mean_ns[index] = old + WEIGHT * (took_ns - old) if old else took_ns
        self._largest = max(self._largest, index)

    def bound_ns(self, num_rows: int) -> float:
        """Return the average of the batch's own class or of the next larger one known; 0 where there is none."""
        for index in range(_class_of(num_rows), self._largest + 1):
            if self._mean_ns[index]:
                return self._mean_ns[index]
        return 0.0

    def time_ns(self, num_rows: int) -> float:
        """Return what a batch should take: its bound, else the largest class's average; 0 for no batch ever."""
        return self.bound_ns(num_rows) or self._mean_ns[self._largest]


class Tail:
    """The 99th percentile of a deployment's batch times, in nanoseconds, by size class."""

    __slots__ = ("_kept", "_late_ns", "_num_new", "_pace")

    def __init__(self) -> None:
        self._pace = Pace()
        self._kept: list[deque[float]] = [deque(maxlen=NUM_KEPT) for _ in range(_NUM_CLASSES)]
        self._num_new = [0] * _NUM_CLASSES
        self._late_ns = [0.0] * _NUM_CLASSES

    def learn(self, num_rows: int, took_ns: float) -> None:
        """Take a batch into account."""
        self._pace.learn(num_rows, took_ns)
        index = _class_of(num_rows)
        kept = self._kept[index]
        kept.append(took_ns)
        self._num_new[index] += 1
        if self._num_new[index] >= MIN_KEPT:
            self._num_new[index] = 0
            self._late_ns[index] = sorted(kept)[int(0.99 * (len(kept) - 1))]

    def late_ns(self, num_rows: int) -> float:
        """Return the time that one batch in a hundred of this size exceeds; 0 where no batch was ever seen."""
        return self._late_ns[_class_of(num_rows)] or FIRST_RATIO * self._pace.time_ns(num_rows)
