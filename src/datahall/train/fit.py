"""One fit: settings and rows in, a fitted pipeline out."""

from __future__ import annotations

from typing import Any

import numpy as np

from datahall.core.errors import UserError
from datahall.core.records import Column, Task
from datahall.engines.sklearn import score
from datahall.engines.skops import dump_model
from datahall.train.models.base import TrainableConfig
from datahall.train.scores import measure
from datahall.train.table import Rows


def fit_pipeline(config: TrainableConfig, rows: Rows, features: tuple[Column, ...], task: Task, seed: int) -> Any:
    """Return a model fitted on `rows`: a pipeline, or a network; the same arguments give the same fit.

    Raises UserError where the model cannot be fitted with these settings to these rows.
    """
    try:
        return config.fit_rows(rows, features, task, seed)
    except (ValueError, FloatingPointError) as error:
        raise UserError(
            f"the model cannot be fitted: {_first_line(error)}",
            hint="smaller learning rates and stronger penalties are steadier",
        ) from error


def dump_fit(model: Any) -> bytes:
    """Return a fit as bytes, the same each time: a network as safetensors, a pipeline as skops."""
    raw: bytes = model.dump() if hasattr(model, "dump") else dump_model(model)
    return raw


def evaluate_fit(pipeline: Any, rows: Rows, task: Task) -> tuple[dict[str, float], np.ndarray]:
    """Return the figures of a fit on `rows`, and its scores. Raises UserError where the fit has diverged."""
    scores = score(pipeline, rows.matrix, task)
    if not np.isfinite(scores).all():
        raise UserError("the fit has diverged: its answers are not finite", hint="lower the learning rate")
    return measure(task, rows.target, scores), scores


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
