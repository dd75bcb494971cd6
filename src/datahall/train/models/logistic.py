"""Logistic regression: the plain, explainable start for classification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from datahall.core.records import Task
from datahall.train.models.base import Choice, EstimatorConfig, Range


class Logistic(EstimatorConfig):
    """Multinomial logistic regression with an L2 penalty; the seed changes nothing."""

    TASKS: ClassVar[tuple[Task, ...]] = ("classification",)
    SPACE: ClassVar[Mapping[str, Range | Choice]] = {
        "penalty": Range(1e-3, 1e3, log=True),
        "class_weight": Choice(("none", "balanced")),
    }
    SCALED: ClassVar[bool] = True

    penalty: float = Field(
        default=1.0, gt=0, le=1e6, description="Weight of the L2 penalty; more makes a simpler model."
    )
    class_weight: Literal["none", "balanced"] = Field(
        default="none", description="`balanced` weighs rows so that all classes count alike."
    )
    max_iterations: int = Field(default=1000, ge=10, le=100_000, description="Steps of the solver at most.")

    @classmethod
    def default(cls, task: Task) -> dict[str, Any] | None:
        """Return the plain settings: every application starts with a simple model to beat."""
        del task
        return {}

    def build(self, task: Task, seed: int) -> Any:
        """Return an unfitted LogisticRegression."""
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415  (heavy, only to fit)

        del task, seed
        return LogisticRegression(
            C=1.0 / self.penalty,
            class_weight=None if self.class_weight == "none" else self.class_weight,
            max_iter=self.max_iterations,
        )
