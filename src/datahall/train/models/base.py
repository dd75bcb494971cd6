"""What every kind of model has: common settings, a search space, and an estimator to build."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from pydantic import Field

from datahall.core.records import Column, Task
from datahall.spec.kinds import Many, ModelConfig

if TYPE_CHECKING:  # an application file is checked without loading numpy
    import numpy as np

    from datahall.train.table import Rows


class Range(msgspec.Struct, frozen=True):
    """A search varies this number between `low` and `high`, both included."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


class Choice(msgspec.Struct, frozen=True):
    """A search picks one of `options`, each a JSON value."""

    options: tuple[Any, ...]


class TrainableConfig(ModelConfig):
    """Settings of a model that can be fitted; nothing here imports a numeric library until something is."""

    SPACE: ClassVar[Mapping[str, Range | Choice]]
    """What a search varies, by setting; a setting that the application file names stays as it is there."""

    columns: Many[str] | None = Field(
        default=None, description="Use only these features; all of them where the key is left out."
    )

    @abstractmethod
    def fit_rows(self, rows: Rows, features: tuple[Column, ...], task: Task, seed: int) -> Any:
        """Return a model fitted on `rows`, with `predict_proba` or `predict` over an encoded matrix.

        The same arguments give the same fit. Raises ValueError, FloatingPointError or UserError where it cannot be fitted.
        """


class EstimatorConfig(TrainableConfig):
    """Settings of a model that scikit-learn fits, behind the preparation that all of them share."""

    SCALED: ClassVar[bool]
    """Whether numbers are brought to mean 0 and deviation 1 first."""

    @abstractmethod
    def build(self, task: Task, seed: int) -> Any:
        """Return an unfitted scikit-learn estimator that takes the prepared matrix."""

    def fit(self, estimator: Any, features: np.ndarray, target: np.ndarray) -> Any:
        """Fit `estimator` on a prepared matrix of shape (rows, columns) and its target, and return it."""
        return estimator.fit(features, target)

    def fit_rows(self, rows: Rows, features: tuple[Column, ...], task: Task, seed: int) -> Any:
        """Return a fitted pipeline of preparation and model."""
        from sklearn.pipeline import Pipeline  # noqa: PLC0415  (heavy, only to fit)

        from datahall.train.prepare import build_preparation  # noqa: PLC0415  (imports numpy)

        preparation = build_preparation(features, self.columns, scaled=self.SCALED)
        estimator = self.build(task, seed)
        prepared = preparation.fit_transform(rows.matrix.astype("float64"))
        return Pipeline([("prepare", preparation), ("model", self.fit(estimator, prepared, rows.target))])
