"""Rates by group of people, and the largest difference between two groups, with honest bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import Final

import numpy as np

from datahall.stats.intervals import Bounds, difference, effective_size, proportion, ratio

MIN_ROWS: Final = 30
"""A smaller group is reported, but nothing is judged by it: its rates are mostly noise."""

RATES: Final[dict[str, tuple[str, ...]]] = {
    "demographic_parity_difference": ("selection_rate",),
    "equalized_odds_difference": ("true_positive_rate", "false_positive_rate"),
    "accuracy_difference": ("accuracy",),
    "selection_ratio": ("selection_rate",),
}
"""Which rates each metric compares; the names and meanings are fairlearn's."""


@dataclass(frozen=True)
class Rate:
    """One rate of one group: `num` rows count in it (positives for the true positive rate), worth `size` rows."""

    share: float
    num: int
    size: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Comparison:
    """The largest difference (or smallest ratio) between judged groups, its bounds, and what is behind it."""

    estimate: float | None
    """None where no two judged groups have the rate at all."""
    bounds: Bounds
    num: int
    """Rows in judged groups."""
    rates: dict[str, dict[str, Rate]]
    """Rate name to group to rate; small groups are in here too."""
    judged: tuple[str, ...]


def compare(
    metric: str,
    groups: np.ndarray,
    truth: np.ndarray,
    said: np.ndarray,
    *,
    positive: str | None,
    alpha: float,
    clusters: np.ndarray | None = None,
) -> Comparison:
    """Compare the groups in `metric`; no estimate where fewer than two groups have MIN_ROWS rows.

    All arrays have shape (rows,): group names, true labels, answered labels. `positive` is the label that people
    want; only accuracy does without.

    A difference is the largest over ordered pairs of groups, which is biased upward in small samples, so neither
    bound is taken around it. Whichever pair is truly the worst, the largest of all pairs' upper bounds lies above
    that pair's own, so it needs no correction; the other bound is divided among the pairs (Bonferroni). Pairs are
    bounded by Newcombe's (difference) or Katz's (ratio) method on effective sizes. Metrics: Agarwal et al. (2018),
    A reductions approach to fair classification; the ratio is the four-fifths rule of 29 CFR 1607.4 D.
    """
    names, sizes = np.unique(groups, return_counts=True)
    judged = tuple(str(name) for name, size in zip(names, sizes, strict=True) if size >= MIN_ROWS)
    rates = {
        rate: {
            str(name): _rate(*_outcomes(rate, groups == name, truth, said, positive), alpha, clusters) for name in names
        }
        for rate in RATES[metric]
    }
    is_ratio = metric == "selection_ratio"
    num = int(sizes[sizes >= MIN_ROWS].sum())
    method = ratio if is_ratio else difference
    estimate, bounds = _worst_pair(method, [{name: rates[rate][name] for name in judged} for rate in rates], alpha)
    if is_ratio:
        bounds = Bounds(bounds.lower, None if bounds.upper is None else min(1.0, bounds.upper))
    return Comparison(estimate=estimate, bounds=bounds, num=num, rates=rates, judged=judged)


def _outcomes(
    rate: str, rows: np.ndarray, truth: np.ndarray, said: np.ndarray, positive: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows count in a rate, and for every row whether it is a hit."""
    if rate == "accuracy":
        return rows, truth == said
    if rate == "true_positive_rate":
        rows = rows & (truth == positive)
    elif rate == "false_positive_rate":
        rows = rows & (truth != positive)
    return rows, said == positive


def _rate(rows: np.ndarray, hits: np.ndarray, alpha: float, clusters: np.ndarray | None) -> Rate:
    counted = hits[rows].astype(np.float64)
    if counted.size == 0:
        return Rate(share=float("nan"), num=0, size=0.0, lower=0.0, upper=1.0)
    inside = None if clusters is None else clusters[rows]
    lower, upper = proportion(counted, alpha, inside)
    size = effective_size(counted, inside, alpha)
    return Rate(share=float(counted.mean()), num=counted.size, size=size, lower=lower, upper=upper)


def _worst_pair(
    method: Callable[[float, float, float, float, float], tuple[float, float]],
    rates: list[dict[str, Rate]],
    alpha: float,
) -> tuple[float | None, Bounds]:
    """Return the largest difference, or smallest ratio, over ordered pairs and rates; unknown rates bound nothing."""
    pairs = [(of[one], of[other]) for of in rates for one, other in permutations(sorted(of), 2)]
    known = [(one, other) for one, other in pairs if one.num and other.num]
    if not known:
        return None, Bounds(None, None)
    is_ratio, share = method is ratio, alpha / len(pairs)
    own = [method(one.share, one.size, other.share, other.size, alpha) for one, other in known]
    cut = [method(one.share, one.size, other.share, other.size, share) for one, other in known]
    whole = len(known) == len(pairs)
    if is_ratio:
        values = [one.share / other.share if other.share else 1.0 for one, other in known]
        return min(values), Bounds(min(low for low, _ in own) if whole else None, min(high for _, high in cut))
    values = [one.share - other.share for one, other in known]
    upper = max(high for _, high in own) if whole else None
    return max(values), Bounds(max(0.0, *(low for low, _ in cut)), upper)
