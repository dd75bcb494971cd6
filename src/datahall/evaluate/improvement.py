"""The claim that a candidate is better than the champion on the same rows."""

from __future__ import annotations

from typing import ClassVar

from datahall.core.records import Task
from datahall.evaluate.context import METRIC_TASKS, Context, Measured
from datahall.spec.kinds import ClaimConfig, Direction
from datahall.stats.metrics import HIGHER_IS_BETTER, value
from datahall.stats.paired import gain

BASELINE = "majority class or mean"


class Config(ClaimConfig):
    """Settings of the improvement claim: it has none beside its metric.

    The figure is how much better the candidate is, positive whichever way the metric points. A bound of 0 demands
    that it is better, a small negative one that it is not much worse. Where there is no champion yet, the baseline
    takes its place: it answers the majority class, or the mean, of the training rows.
    """

    TASKS: ClassVar[tuple[Task, ...]] = ("classification", "regression")
    METRICS: ClassVar[dict[str, Direction]] = dict.fromkeys(HIGHER_IS_BETTER, "at_least")
    METRIC_TASKS: ClassVar[dict[str, tuple[Task, ...]]] = dict(METRIC_TASKS)
    DEFAULT_METRIC: ClassVar[dict[Task, str]] = {"classification": "accuracy", "regression": "mae"}

    @classmethod
    def bound_limits(cls, metric: str) -> tuple[float, float]:
        """Return [-1, 1] for differences of shares; a difference of losses or of r2 has no limits."""
        endless = metric in ("log_loss", "mae", "rmse", "r2")
        return (float("-inf"), float("inf")) if endless else (-1.0, 1.0)


def measure(context: Context) -> Measured:
    """Compare candidate and champion, the same rows drawn for both, and test the difference against the bound.

    `p_value` is this candidate's own; the job puts those of all candidates into the details, for Holm's test.
    """
    metric, claim = context.claim.metric, context.claim
    ours, theirs = context.scored(context.answers), context.scored(context.rival())
    if ours.num_classes != theirs.num_classes:
        return Measured(figure=None, problem="candidate and champion answer different classes")
    result = gain(
        metric,
        ours,
        theirs,
        null=claim.bound,
        alpha=context.alpha,
        seed=context.resample_seed(),
        clusters=context.rows.clusters,
    )
    figure = context.figure(
        result.estimate, result.bounds, num=context.rows.num, method="paired BCa bootstrap", p_value=result.p_value
    )
    details = {
        "compared_with": "champion" if context.has_champion else BASELINE,
        "candidate": value(metric, ours),
        "rival": value(metric, theirs),
    }
    return Measured(figure=figure, details=details)
