"""The claim that another seed would not have made another model."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from datahall.core.records import Task
from datahall.evaluate.context import METRIC_TASKS, Answers, Context, Measured, unmeasured
from datahall.spec.kinds import ClaimConfig, Direction
from datahall.stats.intervals import Bounds, proportion, spread
from datahall.stats.metrics import HIGHER_IS_BETTER, value
from datahall.stats.score import score

MIN_SEEDS = 3


class Config(ClaimConfig):
    """Settings of the stability claim."""

    TASKS: ClassVar[tuple[Task, ...]] = ("classification", "regression")
    METRICS: ClassVar[dict[str, Direction]] = {"churn": "at_most", "sd": "at_most", "worst_seed": "at_least"}
    METRIC_TASKS: ClassVar[dict[str, tuple[Task, ...]]] = {"churn": ("classification",)}
    DEFAULT_METRIC: ClassVar[dict[Task, str]] = {"classification": "churn", "regression": "sd"}

    of: Literal["accuracy", "balanced_accuracy", "f1", "roc_auc", "r2"] | None = Field(
        default=None,
        description="The metric whose spread (sd) or smallest value (worst_seed) counts; accuracy or r2 by default.",
    )

    def misfits(self, task: Task, metric: str) -> dict[str, str]:
        """Return `of` where the metric does not look at it, or where it is no metric of the task."""
        if metric == "churn":
            return {"of": "churn counts changed answers and looks at no other metric"}
        if self.of is not None and task not in METRIC_TASKS[self.of]:
            return {"of": f"{self.of} is not a metric of {task}"}
        return {}

    @classmethod
    def bound_limits(cls, metric: str) -> tuple[float, float]:
        """Return [0, 1] for churn, [0, inf) for a spread, (-inf, 1] for the worst seed."""
        limits = {"churn": (0.0, 1.0), "sd": (0.0, float("inf")), "worst_seed": (float("-inf"), 1.0)}
        return limits[metric]

    @classmethod
    def default(cls, task: Task) -> dict[str, Any] | None:
        """Return a bound on churn: how many people get another answer because of a random number."""
        if task == "classification":
            return {"at_most": 0.2, "reason": "one answer in five must not hang on the seed of the training"}
        return None


def measure(context: Context) -> Measured:
    """Measure over the candidate and its siblings from other seeds."""
    every = (context.answers, *context.seed_answers())
    if len(every) < MIN_SEEDS:
        return unmeasured(f"{len(every)} seed(s) were fitted, stability needs {MIN_SEEDS} (train.seeds)")
    metric = context.claim.metric
    of = context.claim.settings.get("of") or ("accuracy" if context.task == "classification" else "r2")
    if metric != "churn" and context.task not in METRIC_TASKS[of]:
        return unmeasured(f"{of} is not a metric of {context.task}")
    if metric == "churn":
        return _churn(context, every)
    return _spread(context, every, of) if metric == "sd" else _worst(context, every, of)


def _churn(context: Context, every: tuple[Answers, ...]) -> Measured:
    """Return the share of rows whose answer differs from the candidate's own for at least one other seed.

    Source: Milani Fard et al. (2016), Launch and iterate: reducing prediction churn.
    """
    first = every[0].label
    flips = [first != other.label for other in every[1:]]
    any_flip = np.any(flips, axis=0).astype(np.float64)
    lower, upper = proportion(any_flip, context.alpha, context.rows.clusters)
    figure = context.figure(
        float(any_flip.mean()), Bounds(lower, upper), num=context.rows.num, method="Clopper-Pearson"
    )
    details = {"num_seeds": len(every), "by_seed": [float(flip.mean()) for flip in flips]}
    return Measured(figure=figure, details=details)


def _spread(context: Context, every: tuple[Answers, ...], of: str) -> Measured:
    values = [value(of, context.scored(answers)) for answers in every]
    figure = context.figure(
        float(np.std(values, ddof=1)),
        spread(np.array(values), context.alpha),
        num=len(values),
        method="chi-square interval over seeds",
    )
    return Measured(figure=figure, details={"of": of, "by_seed": values})


def _worst(context: Context, every: tuple[Answers, ...], of: str) -> Measured:
    """Return the smallest value over the seeds.

    The smallest of the lower bounds lies below that of whichever seed is truly the worst, so it needs no
    correction; the truly worst lies below each upper bound, which are divided among the seeds.
    """
    assert HIGHER_IS_BETTER[of], "the worst seed is the one with the smallest value"
    seed, clusters = context.resample_seed(), context.rows.clusters
    scored = [context.scored(answers) for answers in every]
    own = [score(of, each, alpha=context.alpha, seed=seed, clusters=clusters) for each in scored]
    cut = [score(of, each, alpha=context.alpha / len(every), seed=seed, clusters=clusters) for each in scored]
    lowers = [each.bounds.lower for each in own]
    uppers = [each.bounds.upper for each in cut if each.bounds.upper is not None]
    known = [low for low in lowers if low is not None]
    bounds = Bounds(min(known) if len(known) == len(lowers) else None, min(uppers) if uppers else None)
    values = [each.estimate for each in own]
    figure = context.figure(min(values), bounds, num=context.rows.num, method=own[0].method)
    return Measured(figure=figure, details={"of": of, "by_seed": values})
