"""Random forest: many deep trees on resampled rows, averaged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from datahall.core.records import Task
from datahall.train.models.base import Choice, Range, TrainableConfig


class Forest(TrainableConfig):
    """A random forest (Breiman 2001) for either task."""

    TASKS: ClassVar[tuple[Task, ...]] = ("classification", "regression")
    SPACE: ClassVar[Mapping[str, Range | Choice]] = {
        "max_depth": Range(2, 24, whole=True),
        "min_leaf_rows": Range(1, 30, log=True, whole=True),
        "feature_share": Range(0.1, 1.0),
    }
    SCALED: ClassVar[bool] = False

    num_trees: int = Field(default=200, ge=1, le=5000, description="Trees in the forest.")
    max_depth: int | None = Field(default=None, ge=1, le=64, description="Deepest level of a tree; none by default.")
    min_leaf_rows: int = Field(default=1, ge=1, le=100_000, description="Training rows that a leaf has at least.")
    feature_share: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of the features tried at each split; by default the square root of their number for "
        "classification and a third of them for regression.",
    )
    class_weight: Literal["none", "balanced"] = Field(
        default="none", description="`balanced` weighs rows so that all classes count alike; classification only."
    )

    def misfits(self, task: Task) -> dict[str, str]:
        """Return class_weight for a regression, which has no classes."""
        return {"class_weight": "a regression has no classes to weigh"} if task == "regression" else {}

    @classmethod
    def default(cls, task: Task) -> dict[str, Any] | None:
        """Return the plain settings."""
        del task
        return {}

    def build(self, task: Task, seed: int) -> Any:
        """Return an unfitted forest on one thread."""
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor  # noqa: PLC0415  (only to fit)

        common: dict[str, Any] = {
            "n_estimators": self.num_trees,
            "max_depth": self.max_depth,
            "min_samples_leaf": self.min_leaf_rows,
            "random_state": seed,
            "n_jobs": 1,
        }
        if task == "regression":
            return RandomForestRegressor(max_features=self.feature_share or 1 / 3, **common)
        weight = None if self.class_weight == "none" else self.class_weight
        return RandomForestClassifier(max_features=self.feature_share or "sqrt", class_weight=weight, **common)
