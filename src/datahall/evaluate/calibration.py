"""The claim that stated probabilities and intervals mean what they say."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from datahall.core.records import Task
from datahall.evaluate.context import Context, Measured, unmeasured
from datahall.spec.kinds import ClaimConfig, Direction
from datahall.stats.calibration import calibration_error, top_label
from datahall.stats.intervals import Bounds, proportion


class Config(ClaimConfig):
    """Settings of the calibration claim."""

    TASKS: ClassVar[tuple[Task, ...]] = ("classification", "regression")
    METRICS: ClassVar[dict[str, Direction]] = {"ece": "at_most", "coverage": "at_least"}
    METRIC_TASKS: ClassVar[dict[str, tuple[Task, ...]]] = {"ece": ("classification",), "coverage": ("regression",)}
    DEFAULT_METRIC: ClassVar[dict[Task, str]] = {"classification": "ece", "regression": "coverage"}

    bins: int | None = Field(
        default=None,
        ge=2,
        le=50,
        description="Bins of equal mass for the calibration error; by default one for about 50 rows, 3 to 15.",
    )

    def misfits(self, task: Task, metric: str) -> dict[str, str]:
        """Return the bins of a coverage, which has none."""
        del task
        return {"bins": "the coverage of intervals is counted without bins"} if metric == "coverage" else {}

    @classmethod
    def bound_limits(cls, metric: str) -> tuple[float, float]:
        """Return [0, 1]: an error and a share of rows."""
        del metric
        return (0.0, 1.0)

    @classmethod
    def default(cls, task: Task) -> dict[str, Any] | None:
        """Return a bound that a few hundred rows can prove."""
        if task == "classification":
            return {"at_most": 0.15, "reason": "a stated 90 % must not mean less than 75 %"}
        return {"at_least": 0.8, "reason": "an interval that promises 90 % must hold the truth in four cases of five"}


def measure(context: Context) -> Measured:
    """Measure the debiased calibration error of the likeliest class, or how often intervals hold the truth."""
    return _coverage(context) if context.task == "regression" else _error(context)


def _error(context: Context) -> Measured:
    if context.answers.probability is None:
        return unmeasured("the model answers no probabilities")
    scored = context.scored(context.answers)
    assert scored.probability is not None, "answers have probabilities, so their numbers do"
    confidence, right = top_label(scored.truth, scored.probability)
    result = calibration_error(
        confidence,
        right,
        alpha=context.alpha,
        num_bins=context.claim.settings.get("bins"),
        clusters=context.rows.clusters,
    )
    figure = context.figure(
        result.estimate,
        Bounds(result.lower, result.upper),
        num=context.rows.num,
        method="debiased error over equal-mass bins, square-and-add of Wilson's limits",
    )
    bins = [{"confidence": b.confidence, "share_right": b.share_right, "num": b.num} for b in result.bins]
    return Measured(figure=figure, details={"plain": result.plain, "bins": bins})


def _coverage(context: Context) -> Measured:
    answers = context.answers
    if answers.lower is None or answers.upper is None:
        return unmeasured("the model answers no intervals")
    truth = context.rows.truth
    inside = ((answers.lower <= truth) & (truth <= answers.upper)).astype(np.float64)
    lower, upper = proportion(inside, context.alpha, context.rows.clusters)
    figure = context.figure(float(inside.mean()), Bounds(lower, upper), num=context.rows.num, method="Clopper-Pearson")
    width = float(np.mean(answers.upper - answers.lower))
    return Measured(figure=figure, details={"promised": answers.interval_confidence, "mean_width": width})
