"""Gradient boosting on histograms: small trees, each mending what the ones before left over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from datahall.core.records import Task
from datahall.train.models.base import Choice, EstimatorConfig, Range


class Boosting(EstimatorConfig):
    """Histogram gradient boosting (Ke et al. 2017, LightGBM; scikit-learn's implementation) for either task."""

    TASKS: ClassVar[tuple[Task, ...]] = ("classification", "regression")
    SPACE: ClassVar[Mapping[str, Range | Choice]] = {
        "learning_rate": Range(0.02, 0.3, log=True),
        "num_rounds": Range(30, 300, log=True, whole=True),
        "max_leaves": Range(4, 63, log=True, whole=True),
        "min_leaf_rows": Range(5, 50, log=True, whole=True),
        "l2": Range(1e-4, 10, log=True),
        "feature_share": Range(0.3, 1.0),
    }
    SCALED: ClassVar[bool] = False

    learning_rate: float = Field(default=0.1, gt=0, le=1, description="How much of each tree's mending is taken.")
    num_rounds: int = Field(default=100, ge=1, le=5000, description="Rounds, each of one tree a class.")
    max_leaves: int = Field(default=31, ge=2, le=1024, description="Leaves of a tree at most.")
    min_leaf_rows: int = Field(default=20, ge=1, le=100_000, description="Training rows that a leaf has at least.")
    l2: float = Field(default=0.0, ge=0, le=1e6, description="L2 penalty on the values of leaves.")
    feature_share: float = Field(default=1.0, gt=0, le=1, description="Share of the features tried at each split.")

    @classmethod
    def default(cls, task: Task) -> dict[str, Any] | None:
        """Return the plain settings."""
        del task
        return {}

    def build(self, task: Task, seed: int) -> Any:
        """Return an unfitted booster; it stops after `num_rounds`, never early, so that equal seeds fit alike."""
        from sklearn.ensemble import (  # noqa: PLC0415  (heavy, only to fit)
            HistGradientBoostingClassifier,
            HistGradientBoostingRegressor,
        )

        kind = HistGradientBoostingClassifier if task == "classification" else HistGradientBoostingRegressor
        return kind(
            learning_rate=self.learning_rate,
            max_iter=self.num_rounds,
            max_leaf_nodes=self.max_leaves,
            min_samples_leaf=self.min_leaf_rows,
            l2_regularization=self.l2,
            max_features=self.feature_share,
            early_stopping=False,
            random_state=seed,
        )

    def fit(self, estimator: Any, features: Any, target: Any) -> Any:
        """Fit and drop the random generator that training leaves behind: answers do not need it."""
        estimator.fit(features, target)
        estimator._feature_subsample_rng = None  # noqa: SLF001  (would only be stored with every model)
        return estimator
