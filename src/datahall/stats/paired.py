"""Is one model better than another on the same rows: paired bootstrap and McNemar's exact test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datahall.stats.bootstrap import Bootstrap, bootstrap
from datahall.stats.intervals import binomial_tail
from datahall.stats.metrics import HIGHER_IS_BETTER, Scored, statistic


@dataclass(frozen=True)
class Paired:
    """How much better the challenger is (positive is better, whatever the metric), and the test of that."""

    resampled: Bootstrap
    p_value: float
    """Of the hypothesis that the challenger is better by no more than the null."""


def gain(
    metric: str,
    challenger: Scored,
    rival: Scored,
    *,
    null: float,
    num: int,
    seed: int,
    clusters: np.ndarray | None = None,
) -> Paired:
    """Compare two answers to the same rows in `metric`; the same rows are drawn for both in every resample.

    For accuracy the p-value is never smaller than that of McNemar's exact test, where that test applies
    (null 0 or more, no repeated subjects), since few rows on which two models differ make a bootstrap bold.
    """
    sign = 1.0 if HIGHER_IS_BETTER[metric] else -1.0
    ours, theirs = statistic(metric, challenger), statistic(metric, rival)

    def better(weights: np.ndarray) -> np.ndarray:
        return sign * (ours(weights) - theirs(weights))

    resampled = bootstrap(better, challenger.truth.size, num=num, seed=seed, clusters=clusters)
    p_value = resampled.p_value(null)
    if metric == "accuracy" and null >= 0.0 and clusters is None:
        right, rival_right = challenger.truth == challenger.label, rival.truth == rival.label
        p_value = max(p_value, mcnemar(int((right & ~rival_right).sum()), int((rival_right & ~right).sum())))
    if not resampled.estimate > null:
        # A figure on the wrong side of the null proves nothing, whatever a correction makes of its tail.
        p_value = max(p_value, 0.5)
    return Paired(resampled=resampled, p_value=p_value)


def mcnemar(num_only_ours: int, num_only_theirs: int) -> float:
    """Return the exact one-sided p-value that ours is right more often, from the rows where just one is right.

    Source: McNemar (1947), Psychometrika 12; exact form: binomial with chance 1/2.
    """
    return binomial_tail(num_only_ours, num_only_ours + num_only_theirs, 0.5)
