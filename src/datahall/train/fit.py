"""One fit: settings and rows in, a fitted pipeline out."""

from __future__ import annotations

from typing import Any

import numpy as np

from datahall.core.errors import UserError
from datahall.core.records import Column, Task
from datahall.engines.sklearn import score
from datahall.train.models.base import TrainableConfig
from datahall.train.prepare import build_preparation
from datahall.train.scores import measure
from datahall.train.table import Rows


def fit_pipeline(config: TrainableConfig, rows: Rows, features: tuple[Column, ...], task: Task, seed: int) -> Any:
    """Return a pipeline of preparation and model, fitted on `rows`; the same arguments give the same fit.

    Raises UserError where the model cannot be fitted with these settings to these rows.
    """
    from sklearn.pipeline import Pipeline  # noqa: PLC0415  (heavy, only to fit)

    preparation = build_preparation(features, config.columns, scaled=config.SCALED)
    estimator = config.build(task, seed)
    try:
        prepared = preparation.fit_transform(rows.matrix.astype(np.float64))
        model = config.fit(estimator, prepared, rows.target)
    except (ValueError, FloatingPointError) as error:
        raise UserError(
            f"the model cannot be fitted: {_first_line(error)}",
            hint="smaller learning rates and stronger penalties are steadier",
        ) from error
    return Pipeline([("prepare", preparation), ("model", model)])


def evaluate_fit(pipeline: Any, rows: Rows, task: Task) -> tuple[dict[str, float], np.ndarray]:
    """Return the figures of a fit on `rows`, and its scores. Raises UserError where the fit has diverged."""
    scores = score(pipeline, rows.matrix, task)
    if not np.isfinite(scores).all():
        raise UserError("the fit has diverged: its answers are not finite", hint="lower the learning rate")
    return measure(task, rows.target, scores), scores


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
