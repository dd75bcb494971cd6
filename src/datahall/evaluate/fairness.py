"""The claim that groups of people are treated alike."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from datahall.core.records import Figure, Task
from datahall.evaluate.context import Context, Measured, unmeasured
from datahall.spec.kinds import ClaimConfig, Direction
from datahall.stats.groups import MIN_ROWS, RATES, Rate, compare
from datahall.stats.intervals import Bounds


class Config(ClaimConfig):
    """Settings of the fairness claim; without `column`, one claim is made of each sensitive column."""

    TASKS: ClassVar[tuple[Task, ...]] = ("classification",)
    METRICS: ClassVar[dict[str, Direction]] = {
        "demographic_parity_difference": "at_most",
        "equalized_odds_difference": "at_most",
        "accuracy_difference": "at_most",
        "selection_ratio": "at_least",
    }
    DEFAULT_METRIC: ClassVar[dict[Task, str]] = {"classification": "equalized_odds_difference"}
    PER_SENSITIVE: ClassVar[bool] = True

    column: str | None = Field(default=None, description="The sensitive column whose groups are compared.")
    positive: str | None = Field(
        default=None,
        description="The answer that people want; the second of two classes by default.",
    )

    @classmethod
    def bound_limits(cls, metric: str) -> tuple[float, float]:
        """Return [0, 1]: differences and ratios of shares."""
        del metric
        return (0.0, 1.0)

    @classmethod
    def default(cls, task: Task) -> dict[str, Any] | None:
        """Return a bound on how differently two groups' errors may fall."""
        del task
        return {
            "at_most": 0.2,
            "reason": "right and wrong answers must not fall on one group a fifth more often than on another",
        }


def measure(context: Context) -> Measured:
    """Compare the groups of one sensitive column; small groups are reported and not judged."""
    claim, rows = context.claim, context.rows
    column = claim.settings.get("column")
    if column not in rows.groups:
        return unmeasured(f"there is no sensitive column '{column}' in the holdout")
    positive = claim.settings.get("positive")
    classes = context.answers.classes
    if claim.metric != "accuracy_difference":
        if positive is None and len(classes) != 2:
            return unmeasured("with more than two classes, `positive` must name the answer that people want")
        positive = classes[1] if positive is None else positive
        if positive not in classes:
            return unmeasured("`positive` names none of the target's classes")
    result = compare(
        claim.metric,
        rows.groups[column],
        rows.truth,
        context.answers.label,
        positive=positive,
        alpha=context.alpha,
        clusters=rows.clusters,
    )
    groups = {
        f"{group}/{rate}": _figure(context, of)
        for rate, by_group in result.rates.items()
        for group, of in by_group.items()
        if of.num
    }
    details = {
        "column": column,
        "positive": positive,
        "judged": list(result.judged),
        "rates": list(RATES[claim.metric]),
    }
    if len(result.judged) < 2:
        problem = f"fewer than two groups of {column} have {MIN_ROWS} rows"
        return Measured(figure=None, problem=problem, groups=groups, details=details)
    if result.estimate is None:
        problem = f"no two groups of {column} have rows of the kind that {claim.metric} counts"
        return Measured(figure=None, problem=problem, groups=groups, details=details)
    figure = context.figure(
        result.estimate, result.bounds, num=result.num, method="worst pair of groups, Newcombe or Katz"
    )
    return Measured(figure=figure, groups=groups, details=details)


def _figure(context: Context, rate: Rate) -> Figure:
    return context.figure(rate.share, Bounds(rate.lower, rate.upper), num=rate.num, method="Clopper-Pearson")
