"""Ridge regression: the plain, explainable start for regression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from datahall.core.records import Task
from datahall.train.models.base import Choice, EstimatorConfig, Range


class Ridge(EstimatorConfig):
    """Least squares with an L2 penalty; the seed changes nothing."""

    TASKS: ClassVar[tuple[Task, ...]] = ("regression",)
    SPACE: ClassVar[Mapping[str, Range | Choice]] = {"penalty": Range(1e-3, 1e3, log=True)}
    SCALED: ClassVar[bool] = True

    penalty: float = Field(
        default=1.0, gt=0, le=1e6, description="Weight of the L2 penalty; more makes a simpler model."
    )

    @classmethod
    def default(cls, task: Task) -> dict[str, Any] | None:
        """Return the plain settings: every application starts with a simple model to beat."""
        del task
        return {}

    def build(self, task: Task, seed: int) -> Any:
        """Return an unfitted Ridge."""
        from sklearn.linear_model import Ridge as SklearnRidge  # noqa: PLC0415  (heavy, only to fit)

        del task, seed
        return SklearnRidge(alpha=self.penalty)
