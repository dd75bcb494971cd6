"""Bootstrap bounds of any metric: seeded, by subject where subjects repeat, honest about their resolution."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from datahall.stats.intervals import Bounds
from datahall.stats.metrics import Statistic, Sums

MIN_IN_TAIL: Final = 10
"""A bound needs at least this many resamples beyond it; with fewer it is None."""
_FEWEST, _MOST = 4_000, 120_000
"""The most resolve an alpha of 1e-4; the gate believes nothing smaller."""
_MAX_CELLS: Final = 60_000_000
"""Resamples times units that are spent on more resamples than an alpha needs: about a second."""
_MAX_UNITS: Final = 10_000
"""Of more rows or subjects, random groups are drawn: so many give the spread to within 1 %."""
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
    """Return how many resamples resolve `alpha` twenty times over, fewer for many rows, but always enough for a bound.

    "Always" ends at an alpha of 1e-4.
    """
    wanted = min(max(math.ceil(20 * MIN_IN_TAIL / alpha), _FEWEST), _MOST)
    needed = min(math.ceil(1.2 * MIN_IN_TAIL / alpha), _MOST)
    return max(min(wanted, _MAX_CELLS // min(max(num_rows, 1), _MAX_UNITS)), needed)


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

    if isinstance(unweighted, Sums):
        return _of_sums(unweighted, row_weights, num, seed, clusters)

    def statistic(weights: np.ndarray) -> np.ndarray:
        return unweighted(weights * row_weights)

    values = np.concatenate([statistic(weights) for weights in resamples(num_rows, num, seed, clusters)])
    estimate = float(statistic(np.ones((1, num_rows)))[0])
    return _summarise(estimate, values, _acceleration(statistic, num_rows, seed, clusters))


def _summarise(estimate: float, values: np.ndarray, acceleration: float) -> Bootstrap:
    defined = np.sort(values[np.isfinite(values)])
    # Values equal to the estimate count half: metrics of few rows have many ties.
    below = float((defined < estimate).sum()) + 0.5 * float((defined == estimate).sum())
    share = min(max(below / max(defined.size, 1), 1e-6), 1 - 1e-6)
    return Bootstrap(
        estimate=estimate,
        values=defined,
        bias=_NORMAL.inv_cdf(share),
        acceleration=acceleration,
        num_undefined=values.size - defined.size,
    )


def _of_sums(sums: Sums, row_weights: np.ndarray, num: int, seed: int, clusters: np.ndarray | None) -> Bootstrap:
    """Return the bootstrap of a statistic of sums: exact counts of like rows, else units, whatever the rows."""
    if sums.cell is not None and clusters is None:
        columns, counts = _cells(sums, row_weights)
        draws = _count_draws(counts, num, seed)
    else:
        columns = _unit_sums(sums.by_row() * row_weights[:, None], seed, clusters)
        counts = np.ones(len(columns))
        draws = resamples(len(columns), num, seed)
    values = np.concatenate([sums.finish(drawn @ columns) for drawn in draws])
    total = (counts @ columns)[None, :]
    left_out = sums.finish(total - columns)
    return _summarise(float(sums.finish(total)[0]), values, _skewness(left_out, counts))


def _cells(sums: Sums, row_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what a row of each cell adds, and how many rows are in it; rows that weigh differently lie apart."""
    assert sums.cell is not None, "only called for a statistic with cells"
    weights, of_row = np.unique(row_weights, return_inverse=True)
    pairs, counts = np.unique(sums.cell * weights.size + of_row, return_counts=True)
    cell, weight = np.divmod(pairs, weights.size)
    return sums.columns[cell] * weights[weight][:, None], counts


def _count_draws(counts: np.ndarray, num: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each cell is drawn when as many rows are drawn as there are, shape (some, cells)."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_CELLS // counts.size)
    for start in range(0, num, chunk):
        size = min(chunk, num - start)
        yield rng.multinomial(int(counts.sum()), counts / counts.sum(), size=size).astype(np.float64)


def _unit_sums(by_row: np.ndarray, seed: int, clusters: np.ndarray | None) -> np.ndarray:
    """Return what each unit adds: a row, a subject, or a random group of them where there are more than _MAX_UNITS."""
    index, num_units = _units(len(by_row), clusters)
    if num_units > _MAX_UNITS:
        group = np.random.default_rng([seed, 1]).permutation(num_units) % _MAX_UNITS
        index, num_units = group if index is None else group[index], _MAX_UNITS
    if index is None:
        return by_row
    summed = [np.bincount(index, weights=column, minlength=num_units) for column in by_row.T]
    return np.stack(summed, axis=1)


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
    return _skewness(left_out, np.ones(left_out.size))


def _skewness(left_out: np.ndarray, counts: np.ndarray) -> float:
    """Return a sixth of the skewness of the values without one unit each, of which there are `counts` alike."""
    defined = np.isfinite(left_out)
    left_out, counts = left_out[defined], counts[defined]
    if counts.sum() < 2:
        return 0.0
    deviation = np.average(left_out, weights=counts) - left_out
    scale = float(counts @ deviation**2) ** 1.5
    return float(counts @ deviation**3) / (6 * scale) if scale > 0 else 0.0
