"""Random forest: many deep trees on resampled rows, averaged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from datahall.core.records import Task
from datahall.train.models.base import Choice, EstimatorConfig, Range

if TYPE_CHECKING:  # an application file is checked without loading numpy
    import numpy as np

_LEAVES = 2_000
"""About how many leaves a tree has at most where `min_leaf_rows` is left out."""


class Forest(EstimatorConfig):
    """A random forest (Breiman 2001) for either task.

    On large tables each tree sees `tree_rows` drawn rows and its leaves hold more of them, so that the forest trains,
    converts and answers in seconds: deeper trees on more rows seldom answer better, and are a hundred times larger.
    """

    TASKS: ClassVar[tuple[Task, ...]] = ("classification", "regression")
    SPACE: ClassVar[Mapping[str, Range | Choice]] = {
        "max_depth": Range(2, 24, whole=True),
        "min_leaf_rows": Range(1, 30, log=True, whole=True),
        "feature_share": Range(0.1, 1.0),
    }
    SCALED: ClassVar[bool] = False

    num_trees: int = Field(default=200, ge=1, le=5000, description="Trees in the forest.")
    max_depth: int | None = Field(default=None, ge=1, le=64, description="Deepest level of a tree; none by default.")
    tree_rows: int = Field(
        default=20_000, ge=100, le=100_000_000, description="Training rows that are drawn for each tree at most."
    )
    min_leaf_rows: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Training rows that a leaf has at least; by default 1, or the rows of a tree divided by 2,000 "
        "where that is more.",
    )
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
            "min_samples_leaf": self.min_leaf_rows or 1,
            "random_state": seed,
            "n_jobs": 1,
        }
        if task == "regression":
            return RandomForestRegressor(max_features=self.feature_share or 1 / 3, **common)
        weight = None if self.class_weight == "none" else self.class_weight
        return RandomForestClassifier(max_features=self.feature_share or "sqrt", class_weight=weight, **common)

    def fit(self, estimator: Any, features: np.ndarray, target: np.ndarray) -> Any:
        """Fit, each tree on as many rows and with leaves as large as the settings say for this table."""
        num_rows = min(len(target), self.tree_rows)
        estimator.set_params(
            max_samples=num_rows if num_rows < len(target) else None,
            min_samples_leaf=self.min_leaf_rows or max(1, num_rows // _LEAVES),
        )
        return estimator.fit(features, target)
