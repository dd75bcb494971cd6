"""Bootstrap bounds of any metric: seeded, by subject where subjects repeat, honest about their resolution."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from datahall.stats.intervals import Bounds
from datahall.stats.metrics import Statistic

MIN_IN_TAIL: Final = 10
"""A bound needs at least this many resamples beyond it; with fewer it is None."""
_FEWEST, _MOST = 4_000, 100_000
_MAX_CELLS: Final = 60_000_000
"""Resamples times rows, at most: about a second for each metric."""
_CHUNK_CELLS: Final = 1_000_000
_MAX_JACKKNIFE: Final = 1_000
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Bootstrap:
    """The values of a statistic over resamples, with what BCa needs to turn them into bounds.

    `values` is sorted; resamples in which the statistic was undefined are left out, and counted in
    `num_undefined`. `bias` is z0 and `acceleration` is a of Efron (1987).
    """

    estimate: float
    values: np.ndarray
    bias: float
    acceleration: float
    num_undefined: int

    def percentile(self, alpha: float) -> Bounds:
        """Return percentile bounds (Efron 1979), None where fewer than MIN_IN_TAIL resamples lie beyond."""
        if not self._resolves(alpha):
            return Bounds(None, None)
        return Bounds(self._at(alpha, up=False), self._at(1 - alpha, up=True))

    def bca(self, alpha: float) -> Bounds:
        """Return bias-corrected and accelerated bounds, None where `alpha` is beyond the resamples' resolution.

        Where the correction carries a bound further out than MIN_IN_TAIL resamples, the most extreme one is taken.
        Source: Efron (1987), Better bootstrap confidence intervals, JASA 82.
        """
        if not self._resolves(alpha):
            return Bounds(None, None)
        z = _NORMAL.inv_cdf(alpha)
        low, high = self._level(z), self._level(-z)
        enough = MIN_IN_TAIL / self.values.size
        return Bounds(
            None if low is None else self._at(low if low >= enough else 0.0, up=False),
            None if high is None else self._at(high if 1 - high >= enough else 1.0, up=True),
        )

    def p_value(self, null: float) -> float:
        """Return the smallest alpha at which the BCa lower bound lies above `null`; never below 1 / (resamples + 1)."""
        num = self.values.size
        share = (int(np.searchsorted(self.values, null, side="right")) + 1) / (num + 1)
        if share >= 1.0:
            return 1.0
        shifted = _NORMAL.inv_cdf(share) - self.bias
        stretch = 1 + self.acceleration * shifted
        if stretch <= 0:
            return 1.0
        return min(1.0, max(_NORMAL.cdf(shifted / stretch - self.bias), 1 / (num + 1)))

    def _resolves(self, alpha: float) -> bool:
        # A statistic that is often undefined has no distribution to speak of.
        return alpha * self.values.size >= MIN_IN_TAIL and self.num_undefined <= 0.01 * self.values.size

    def _level(self, z: float) -> float | None:
        """Return the share of resamples below a bound; None where the correction breaks down."""
        shifted = self.bias + z
        stretch = 1 - self.acceleration * shifted
        return _NORMAL.cdf(self.bias + shifted / stretch) if stretch > 0 else None

    def _at(self, level: float, *, up: bool) -> float:
        """Return the order statistic on the cautious side of `level`."""
        place = level * (self.values.size - 1)
        index = math.ceil(place) if up else math.floor(place)
        return float(self.values[min(max(index, 0), self.values.size - 1)])


def num_resamples(num_rows: int, alpha: float) -> int:
    """Return how many resamples resolve `alpha` twenty times over, within what time allows for `num_rows`."""
    wanted = min(max(math.ceil(20 * MIN_IN_TAIL / alpha), _FEWEST), _MOST)
    return max(min(wanted, _MAX_CELLS // max(num_rows, 1)), 200)


def resamples(num_rows: int, num: int, seed: int, clusters: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Yield row weights in chunks of shape (some, num_rows), `num` in all; equal seeds give equal weights.

    Rows are drawn with replacement; with `clusters` (subject number per row) whole subjects are.
    """
    rng = np.random.default_rng(seed)
    index, num_units = _units(num_rows, clusters)
    chunk = max(1, _CHUNK_CELLS // max(num_rows, 1))
    for start in range(0, num, chunk):
        size = min(chunk, num - start)
        drawn = rng.integers(0, num_units, size=(size, num_units))
        drawn += np.arange(size)[:, None] * num_units
        counts = np.bincount(drawn.ravel(), minlength=size * num_units).reshape(size, num_units)
        yield (counts if index is None else counts[:, index]).astype(np.float64)


def bootstrap(
    unweighted: Statistic, row_weights: np.ndarray, *, num: int, seed: int, clusters: np.ndarray | None = None
) -> Bootstrap:
    """Return the bootstrap of a statistic over `num` resamples of the rows.

    `row_weights` of shape (rows,) is what a row weighs each time that it is drawn, 1 for a real one. Rows beyond
    the length of `clusters` are subjects of their own.
    """
    num_rows = row_weights.size
    if clusters is not None and clusters.size < num_rows:
        _, known = np.unique(clusters, return_inverse=True)
        clusters = np.concatenate([known, known.max() + 1 + np.arange(num_rows - clusters.size)])

    def statistic(weights: np.ndarray) -> np.ndarray:
        return unweighted(weights * row_weights)

    values = np.concatenate([statistic(weights) for weights in resamples(num_rows, num, seed, clusters)])
    estimate = float(statistic(np.ones((1, num_rows)))[0])
    defined = np.sort(values[np.isfinite(values)])
    # Values equal to the estimate count half: metrics of few rows have many ties.
    below = float((defined < estimate).sum()) + 0.5 * float((defined == estimate).sum())
    share = min(max(below / max(defined.size, 1), 1e-6), 1 - 1e-6)
    return Bootstrap(
        estimate=estimate,
        values=defined,
        bias=_NORMAL.inv_cdf(share),
        acceleration=_acceleration(statistic, num_rows, seed, clusters),
        num_undefined=values.size - defined.size,
    )


def _units(num_rows: int, clusters: np.ndarray | None) -> tuple[np.ndarray | None, int]:
    if clusters is None:
        return None, num_rows
    _, index = np.unique(clusters, return_inverse=True)
    return index, int(index.max()) + 1


def _acceleration(statistic: Statistic, num_rows: int, seed: int, clusters: np.ndarray | None) -> float:
    """Return a sixth of the jackknife's skewness; beyond _MAX_JACKKNIFE units, random groups are left out in turn."""
    index, num_units = _units(num_rows, clusters)
    unit_of_row = np.arange(num_rows) if index is None else index
    num_groups = min(num_units, _MAX_JACKKNIFE)
    group_of_unit = np.random.default_rng(seed).permutation(num_units) % num_groups
    group = group_of_unit[unit_of_row]
    parts = []
    chunk = max(1, _CHUNK_CELLS // max(num_rows, 1))
    for start in range(0, num_groups, chunk):
        numbers = np.arange(start, min(start + chunk, num_groups))
        parts.append(statistic((group[None, :] != numbers[:, None]).astype(np.float64)))
    left_out = np.concatenate(parts)
    left_out = left_out[np.isfinite(left_out)]
    if left_out.size < 2:
        return 0.0
    deviation = left_out.mean() - left_out
    scale = float((deviation**2).sum()) ** 1.5
    return float((deviation**3).sum()) / (6 * scale) if scale > 0 else 0.0
