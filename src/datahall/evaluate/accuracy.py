"""The claim that a metric of the answers meets its bound."""

from __future__ import annotations

from typing import Any, ClassVar

from datahall.core.records import Task
from datahall.evaluate.context import METRIC_TASKS, Context, Measured
from datahall.spec.kinds import ClaimConfig, Direction
from datahall.stats.metrics import HIGHER_IS_BETTER
from datahall.stats.score import bootstrap_bounds, score

_LIMITS = {"log_loss": (0.0, float("inf")), "mae": (0.0, float("inf")), "rmse": (0.0, float("inf"))}


class Config(ClaimConfig):
    """Settings of the accuracy claim: it has none beside its metric."""

    TASKS: ClassVar[tuple[Task, ...]] = ("classification", "regression")
    METRICS: ClassVar[dict[str, Direction]] = {
        name: "at_least" if better else "at_most" for name, better in HIGHER_IS_BETTER.items()
    }
    METRIC_TASKS: ClassVar[dict[str, tuple[Task, ...]]] = dict(METRIC_TASKS)
    DEFAULT_METRIC: ClassVar[dict[Task, str]] = {"classification": "accuracy", "regression": "r2"}

    @classmethod
    def bound_limits(cls, metric: str) -> tuple[float, float]:
        """Return [0, 1] for shares, (-inf, 1] for r2, [0, inf) for losses."""
        return (float("-inf"), 1.0) if metric == "r2" else _LIMITS.get(metric, (0.0, 1.0))

    @classmethod
    def default(cls, task: Task) -> dict[str, Any] | None:
        """Return a modest demand that any use of a model makes."""
        if task == "classification":
            return {
                "metric": "balanced_accuracy",
                "at_least": 0.6,
                "reason": "guessing scores one over the number of classes; below 0.6 two classes are not told apart",
            }
        return {"metric": "r2", "at_least": 0.2, "reason": "below this the mean would answer almost as well"}


def measure(context: Context) -> Measured:
    """Measure the metric over the holdout, by subject where subjects repeat."""
    metric, rows = context.claim.metric, context.rows
    scored = context.scored(context.answers)
    seed = context.resample_seed()
    result = score(metric, scored, alpha=context.alpha, seed=seed, clusters=rows.clusters)
    figure = context.figure(result.estimate, result.bounds, num=rows.num, method=result.method)
    details: dict[str, Any] = {"by_subject": rows.clusters is not None}
    if metric == "accuracy":
        # For people, who ask for it by name; the gate decides on the exact bounds.
        bounds = bootstrap_bounds(metric, scored, alpha=context.alpha, seed=seed, clusters=rows.clusters)
        details["bootstrap"] = {"lower": bounds.lower, "upper": bounds.upper}
    return Measured(figure=figure, details=details)
