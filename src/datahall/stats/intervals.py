"""One-sided confidence bounds in closed form: proportions, their differences and ratios, quantiles, spreads.

Every function returns `Bounds`: `lower` misses from above with chance at most `alpha`, and so does `upper` from
below; together they are an interval at 1 - 2 alpha.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy import special  # type: ignore[import-untyped]  # SciPy ships no types

_NORMAL = NormalDist()


class Bounds(NamedTuple):
    """Two one-sided bounds; None where the data cannot give one at the alpha asked for."""

    lower: float | None
    upper: float | None


def clopper_pearson(num_hits: float, num: float, alpha: float) -> tuple[float, float]:
    """Return exact one-sided bounds of a proportion; fractional counts are allowed (see `effective_size`).

    Source: Clopper and Pearson (1934), Biometrika 26.
    """
    _check(alpha, num)
    lower = float(special.betaincinv(num_hits, num - num_hits + 1, alpha)) if num_hits > 0 else 0.0
    upper = float(special.betaincinv(num_hits + 1, num - num_hits, 1 - alpha)) if num_hits < num else 1.0
    return lower, upper


def wilson(num_hits: float, num: float, alpha: float) -> tuple[float, float]:
    """Return score bounds of a proportion: nearly exact, and never outside [0, 1].

    Source: Wilson (1927), JASA 22.
    """
    _check(alpha, num)
    z, share = _NORMAL.inv_cdf(1 - alpha), num_hits / num
    middle = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    lower = 0.0 if num_hits <= 0 else max(0.0, middle - half)
    return lower, 1.0 if num_hits >= num else min(1.0, middle + half)


def effective_size(hits: np.ndarray, clusters: np.ndarray | None, alpha: float) -> float:
    """Return how many independent rows `hits` (0.0 / 1.0 per row) is worth when subjects repeat.

    The rows are divided by the design effect of `clusters` (subject number per row), and for few subjects by the
    squared ratio of Student quantiles; never more than the rows themselves. Where all rows agree the design effect
    cannot be estimated, and a subject counts once. Source: Korn and Graubard (1998), Survey Methodology 24.
    """
    num = hits.size
    if clusters is None or num == 0:
        return float(num)
    _, index = np.unique(clusters, return_inverse=True)
    num_clusters = int(index.max()) + 1
    if num_clusters == num:
        return float(num)
    share = float(hits.mean())
    if num_clusters < 2 or share in (0.0, 1.0):
        return float(num_clusters)
    totals = np.bincount(index, weights=hits - share, minlength=num_clusters)
    variance = float((totals**2).sum()) * num_clusters / (num_clusters - 1) / num**2
    if variance <= 0.0:
        return float(num_clusters)
    size = share * (1 - share) / variance
    size *= (float(special.stdtrit(num - 1, 1 - alpha)) / float(special.stdtrit(num_clusters - 1, 1 - alpha))) ** 2
    return min(size, float(num))


def proportion(hits: np.ndarray, alpha: float, clusters: np.ndarray | None = None) -> tuple[float, float]:
    """Return Clopper-Pearson bounds of the mean of `hits` (0.0 / 1.0 per row) at its effective size."""
    size = effective_size(hits, clusters, alpha)
    return clopper_pearson(float(hits.mean()) * size, size, alpha)


def difference(share_1: float, num_1: float, share_2: float, num_2: float, alpha: float) -> tuple[float, float]:
    """Return bounds of `share_1 - share_2`, two independent proportions of `num_1` and `num_2` rows.

    Source: Newcombe (1998), Statistics in Medicine 17, method 10 (square-and-add of Wilson's limits).
    """
    lower_1, upper_1 = wilson(share_1 * num_1, num_1, alpha)
    lower_2, upper_2 = wilson(share_2 * num_2, num_2, alpha)
    middle = share_1 - share_2
    below = math.hypot(share_1 - lower_1, upper_2 - share_2)
    above = math.hypot(upper_1 - share_1, share_2 - lower_2)
    return max(-1.0, middle - below), min(1.0, middle + above)


def ratio(share_1: float, num_1: float, share_2: float, num_2: float, alpha: float) -> tuple[float, float]:
    """Return bounds of `share_1 / share_2`, two independent proportions, on the log scale with half counts added.

    Source: Katz et al. (1978), Biometrics 34; the half counts are Walter's (1975), Biometrika 62.
    """
    _check(alpha, min(num_1, num_2))
    hits_1, hits_2 = share_1 * num_1 + 0.5, share_2 * num_2 + 0.5
    middle = math.log(hits_1 / (num_1 + 0.5)) - math.log(hits_2 / (num_2 + 0.5))
    variance = 1 / hits_1 - 1 / (num_1 + 0.5) + 1 / hits_2 - 1 / (num_2 + 0.5)
    half = _NORMAL.inv_cdf(1 - alpha) * math.sqrt(max(variance, 0.0))
    return math.exp(middle - half), math.exp(middle + half)


def quantile(values: np.ndarray, level: float, alpha: float) -> Bounds:
    """Return bounds of the `level` quantile as two of the sorted `values`; None where the sample is too small.

    No shape is assumed: the number of values below a quantile is binomial. Source: David and Nagaraja (2003),
    Order Statistics, section 7.1.
    """
    ordered, num = np.sort(values), values.size
    ranks = np.arange(num + 1)
    at_most = special.bdtr(ranks, num, level)  # P(Binomial(num, level) <= rank)
    high = np.flatnonzero(at_most[:num] >= 1 - alpha)  # x_(r) covers when P(B <= r - 1) >= 1 - alpha
    low = np.flatnonzero(at_most[:num] <= alpha)  # x_(r) stays below when P(B <= r - 1) <= alpha
    return Bounds(float(ordered[low[-1]]) if low.size else None, float(ordered[high[0]]) if high.size else None)


def spread(values: np.ndarray, alpha: float) -> Bounds:
    """Return bounds of the standard deviation of what `values` (two or more) were drawn from, taken as normal.

    Source: the chi-square interval of a variance, for instance Casella and Berger (2002), example 9.2.
    """
    if values.size < 2:
        return Bounds(None, None)
    degrees = values.size - 1
    total = degrees * float(values.var(ddof=1))
    # chdtri inverts the upper tail: the chance alpha lies above the first, below the second.
    return Bounds(
        math.sqrt(total / float(special.chdtri(degrees, alpha))),
        math.sqrt(total / float(special.chdtri(degrees, 1 - alpha))),
    )


def binomial_tail(num_hits: int, num: int, chance: float) -> float:
    """Return the chance of `num_hits` or more among `num` independent trials."""
    return 1.0 if num_hits <= 0 else float(special.bdtrc(num_hits - 1, num, chance))


def _check(alpha: float, num: float) -> None:
    if not 0.0 < alpha < 0.5:
        raise ValueError(f"alpha {alpha} is not between 0 and 0.5")
    if num <= 0:
        raise ValueError("a proportion of no rows has no bounds")
