"""Is one model better than another on the same rows: paired bootstrap and McNemar's exact test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datahall.stats.bootstrap import Bootstrap, bootstrap, num_resamples
from datahall.stats.intervals import Bounds, binomial_tail
from datahall.stats.metrics import HIGHER_IS_BETTER, Scored, Statistic, minus, padded, statistic


@dataclass(frozen=True)
class Gain:
    """How much better the challenger is (positive is better, whatever the metric), bounded and tested."""

    estimate: float
    bounds: Bounds
    p_value: float
    """Of the hypothesis that the challenger is better by no more than the null."""


def gain(
    metric: str,
    challenger: Scored,
    rival: Scored,
    *,
    null: float,
    alpha: float,
    seed: int,
    clusters: np.ndarray | None = None,
) -> Gain:
    """Compare two answers to the same rows in `metric`; the same rows are drawn for both in every resample.

    For the lower bound and the p-value one invented row is added on which only the rival is right, for the upper
    bound one on which only the challenger is (`metrics.padded`). For accuracy the p-value is never smaller than
    that of McNemar's exact test, where that test applies (null 0 or more, no repeated subjects): few rows on which
    two models differ make a bootstrap bold.
    """
    num = num_resamples(challenger.truth.size, alpha)

    def resampled(*, ours_right: bool) -> Bootstrap:
        ours, weights = padded(metric, challenger, right=ours_right)
        theirs, _ = padded(metric, rival, right=not ours_right)
        return bootstrap(_better(metric, ours, theirs), weights, num=num, seed=seed, clusters=clusters)

    cautious = resampled(ours_right=False)
    # Where nothing is invented, both are the same.
    bold = cautious if padded(metric, challenger, right=True)[0] is challenger else resampled(ours_right=True)
    estimate = float(_better(metric, challenger, rival)(np.ones((1, challenger.truth.size)))[0])
    p_value = cautious.p_value(null)
    if metric == "accuracy" and null >= 0.0 and clusters is None:
        right, rival_right = challenger.truth == challenger.label, rival.truth == rival.label
        p_value = max(p_value, mcnemar(int((right & ~rival_right).sum()), int((rival_right & ~right).sum())))
    lower, upper = cautious.bca(alpha).lower, bold.bca(alpha).upper
    return Gain(
        estimate=estimate,
        # The correction of BCa can carry a bound of few rows past the estimate; it then proves nothing more.
        bounds=Bounds(
            None if lower is None else min(lower, estimate, null if p_value > alpha else lower),
            None if upper is None else max(upper, estimate),
        ),
        p_value=p_value if estimate > null else max(p_value, 0.5),
    )


def _better(metric: str, ours: Scored, theirs: Scored) -> Statistic:
    return minus(statistic(metric, ours), statistic(metric, theirs), 1.0 if HIGHER_IS_BETTER[metric] else -1.0)


def mcnemar(num_only_ours: int, num_only_theirs: int) -> float:
    """Return the exact one-sided p-value that ours is right more often, from the rows where just one is right.

    Source: McNemar (1947), Psychometrika 12; exact form: binomial with chance 1/2.
    """
    return binomial_tail(num_only_ours, num_only_ours + num_only_theirs, 0.5)
