"""What a claim's `measure` is given, and what it gives back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datahall.core.ports import Answerer, Clock, Columns, Predictor
from datahall.core.records import Claim, Figure, Task
from datahall.core.seeds import derive_seed
from datahall.evaluate.rows import Rows
from datahall.stats.intervals import Bounds
from datahall.stats.metrics import CLASSIFICATION, REGRESSION, Scored


@dataclass(frozen=True)
class Answers:
    """One model's answers to every row of the holdout, and the classes in the order of its probabilities."""

    label: np.ndarray
    probability: np.ndarray | None
    lower: np.ndarray | None
    upper: np.ndarray | None
    classes: tuple[str, ...]
    interval_confidence: float | None = None


@dataclass(frozen=True)
class Measured:
    """A figure with what lies behind it, or the reason why there is none."""

    figure: Figure | None
    problem: str = ""
    groups: dict[str, Figure] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """One claim about one contender: everything that measuring it may use."""

    claim: Claim
    task: Task
    rows: Rows
    answers: Answers
    alpha: float
    """Error rate of each one-sided bound."""
    seed: int
    seed_answers: Callable[[], tuple[Answers, ...]]
    """The answers of the same candidate fitted with other seeds."""
    rival: Callable[[], Answers]
    """The champion's answers, or the baseline's where there is no champion."""
    has_champion: bool
    predictor: Predictor
    open_answerer: Callable[[], Answerer] | None
    """Connects to the contender's shadow replica; None where there is none."""
    clock: Clock

    def scored(self, answers: Answers) -> Scored:
        """Return truth and `answers` as numbers; a class that the model does not know gets probability 0."""
        if self.task == "regression":
            return Scored(truth=self.rows.truth.astype(np.float64), label=answers.label.astype(np.float64))
        names = list(dict.fromkeys([*answers.classes, *sorted(set(map(str, self.rows.truth)))]))
        number = {name: index for index, name in enumerate(names)}
        probability = None
        if answers.probability is not None:
            unknown = np.zeros((self.rows.num, len(names) - len(answers.classes)))
            probability = np.hstack([answers.probability, unknown])
        return Scored(
            truth=np.array([number[str(name)] for name in self.rows.truth]),
            label=np.array([number[str(name)] for name in answers.label]),
            probability=probability,
            num_classes=len(names),
        )

    def resample_seed(self) -> int:
        """Return the seed of this claim's resamples: the same rows are drawn for every contender of a look."""
        return derive_seed(self.seed, "claim", self.claim.name)

    def figure(self, estimate: float, bounds: Bounds, *, num: int, method: str, p_value: float | None = None) -> Figure:
        """Return a figure at this context's alpha; a bound that is not finite bounds nothing."""
        return Figure(
            estimate=float(estimate),
            lower=_finite(bounds.lower),
            upper=_finite(bounds.upper),
            alpha=self.alpha,
            num=num,
            method=method,
            p_value=p_value,
        )


Measure = Callable[[Context], Measured]
"""Measures one claim about one contender."""

METRIC_TASKS: Mapping[str, tuple[Task, ...]] = {
    **dict.fromkeys(CLASSIFICATION, ("classification",)),
    **dict.fromkeys(REGRESSION, ("regression",)),
}
"""The task that each metric of `stats.metrics` is for."""


def answer_all(predictor: Predictor, columns: Columns) -> Answers:
    """Let `predictor` answer every row. Raises UserError for columns that do not fit its manifest."""
    said = predictor.predict(columns)
    interval = predictor.manifest.engine_settings.get("interval") or {}
    return Answers(
        label=np.asarray(said["label"]),
        probability=said.get("probability"),
        lower=said.get("lower"),
        upper=said.get("upper"),
        classes=predictor.manifest.target.categories,
        interval_confidence=interval.get("confidence"),
    )


def unmeasured(problem: str, **details: Any) -> Measured:
    """Return that a claim could not be measured, and why."""
    return Measured(figure=None, problem=problem, details=details)


def _finite(bound: float | None) -> float | None:
    return None if bound is None or not math.isfinite(bound) else float(bound)
