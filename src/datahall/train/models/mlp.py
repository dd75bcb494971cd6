"""A small neural network of fully connected layers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from datahall.core.records import Task
from datahall.spec.kinds import Many
from datahall.train.models.base import Choice, EstimatorConfig, Range

if TYPE_CHECKING:  # an application file is checked without loading numpy
    import numpy as np


class Mlp(EstimatorConfig):
    """A multilayer perceptron with ReLU layers, fitted by Adam (Kingma and Ba 2015), for either task."""

    TASKS: ClassVar[tuple[Task, ...]] = ("classification", "regression")
    SPACE: ClassVar[Mapping[str, Range | Choice]] = {
        "layers": Choice(((32,), (64,), (128,), (64, 32), (128, 64))),
        "learning_rate": Range(3e-4, 1e-2, log=True),
        "penalty": Range(1e-6, 1e-1, log=True),
    }
    SCALED: ClassVar[bool] = True

    layers: Many[Annotated[int, Field(ge=1, le=4096)]] = Field(
        default=(64,), min_length=1, max_length=8, description="Units of each hidden layer."
    )
    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="Step size at the start.")
    penalty: float = Field(default=1e-4, ge=0, le=1e3, description="Weight of the L2 penalty.")
    num_epochs: int = Field(default=100, ge=1, le=10_000, description="Passes over the training rows at most.")
    batch_rows: int = Field(default=64, ge=1, le=65_536, description="Rows of one step.")

    def build(self, task: Task, seed: int) -> Any:
        """Return an unfitted network."""
        from sklearn.neural_network import MLPClassifier, MLPRegressor  # noqa: PLC0415  (heavy, only to fit)

        kind = MLPClassifier if task == "classification" else MLPRegressor
        return kind(
            hidden_layer_sizes=self.layers,
            learning_rate_init=self.learning_rate,
            alpha=self.penalty,
            max_iter=self.num_epochs,
            batch_size=self.batch_rows,
            random_state=seed,
        )

    def fit(self, estimator: Any, features: np.ndarray, target: np.ndarray) -> Any:
        """Fit; a numeric target is standardised, and the scale then folded into the last layer, which is linear."""
        from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415  (heavy, only to fit)

        mean, deviation = 0.0, 1.0
        if not hasattr(estimator, "predict_proba"):
            mean, deviation = float(target.mean()), float(target.std()) or 1.0
            target = (target - mean) / deviation
        estimator.set_params(batch_size=min(self.batch_rows, len(target)))
        with warnings.catch_warnings():
            # Reaching num_epochs is what the settings ask for; the figures say whether it was enough.
            warnings.simplefilter("ignore", ConvergenceWarning)
            estimator.fit(features, target)
        if not hasattr(estimator, "predict_proba"):
            estimator.coefs_[-1] *= deviation
            estimator.intercepts_[-1] = estimator.intercepts_[-1] * deviation + mean
        for leftover in ("_optimizer", "_random_state"):
            estimator.__dict__.pop(leftover, None)  # only further training would need them
        return estimator
