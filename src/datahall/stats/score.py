"""Bounds of one metric of one model: exact where the metric is a share, bootstrap elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datahall.stats.bootstrap import bootstrap, num_resamples
from datahall.stats.intervals import Bounds, proportion
from datahall.stats.metrics import Scored, padded, statistic, value


@dataclass(frozen=True)
class Score:
    """A metric with its one-sided bounds and the name of the method that gave them."""

    estimate: float
    bounds: Bounds
    method: str


def score(metric: str, scored: Scored, *, alpha: float, seed: int, clusters: np.ndarray | None = None) -> Score:
    """Return `metric` of all rows with bounds at `alpha`; `clusters` is the subject number per row.

    Accuracy is a share of rows and gets Clopper-Pearson bounds. The others get BCa bounds over resamples, the
    lower with an invented wrong row and the upper with a right one (`metrics.padded`).
    """
    estimate = value(metric, scored)
    if metric == "accuracy":
        hits = (scored.truth == scored.label).astype(np.float64)
        return Score(estimate, Bounds(*proportion(hits, alpha, clusters)), "Clopper-Pearson")
    lower, upper = bootstrap_bounds(metric, scored, alpha=alpha, seed=seed, clusters=clusters)
    # The correction of BCa can carry a bound of few rows past the estimate; it then proves nothing more.
    bounds = Bounds(None if lower is None else min(lower, estimate), None if upper is None else max(upper, estimate))
    return Score(estimate, bounds, "BCa bootstrap")


def bootstrap_bounds(
    metric: str, scored: Scored, *, alpha: float, seed: int, clusters: np.ndarray | None = None
) -> Bounds:
    """Return BCa bounds of `metric`, None beyond what the resamples resolve."""
    num = num_resamples(scored.truth.size, alpha)

    def one_side(*, right: bool) -> tuple[Bounds, bool]:
        rows, weights = padded(metric, scored, right=right)
        resampled = bootstrap(statistic(metric, rows), weights, num=num, seed=seed, clusters=clusters)
        return resampled.bca(alpha), rows is scored

    # Wrong rows push a score down and an error up: each bound takes the side that makes it cautious. Metrics in
    # which less is better are not padded, so for them the two are the same.
    cautious, both = one_side(right=False)
    return cautious if both else Bounds(cautious.lower, one_side(right=True)[0].upper)
