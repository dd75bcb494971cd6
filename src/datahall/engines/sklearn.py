"""Runs a bundle's `model.skops`, a fitted scikit-learn pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from datahall.core.errors import IntegrityError
from datahall.engines.base import TablePredictor
from datahall.engines.skops import load_model

MODEL_FILE = "model.skops"


class SklearnEngine(TablePredictor):
    """One fitted pipeline over a float64 matrix of shape (rows, features)."""

    _model: Any

    def _load(self, files: Mapping[str, memoryview], num_threads: int) -> None:
        del num_threads  # scikit-learn takes its threads from OMP_NUM_THREADS, which the launcher sets
        if set(files) != {MODEL_FILE}:
            raise IntegrityError(f"a scikit-learn bundle holds '{MODEL_FILE}' and nothing else, not {sorted(files)}")
        self._model = load_model(files[MODEL_FILE])
        check_signature(self._model, self._manifest.task, len(self._manifest.features), self._num_classes)

    @property
    def _num_classes(self) -> int:
        return len(self._manifest.target.categories)

    def _scores(self, matrix: np.ndarray) -> np.ndarray:
        return score(self._model, matrix, self._manifest.task)


def score(model: Any, matrix: np.ndarray, task: str) -> np.ndarray:
    """Return the scores of a fitted pipeline for an encoded matrix: what training measures is what serves."""
    wide = matrix.astype(np.float64)
    scores: np.ndarray = model.predict_proba(wide) if task == "classification" else model.predict(wide)
    return scores


def check_signature(model: Any, task: str, num_features: int, num_classes: int) -> None:
    """Raise IntegrityError unless `model` is a fitted pipeline for this task, these features and classes."""
    if getattr(model, "n_features_in_", None) != num_features:
        raise IntegrityError(f"the model does not take the manifest's {num_features} features")
    if task == "classification":
        classes = getattr(model, "classes_", None)
        if classes is None or list(classes) != list(range(num_classes)):
            raise IntegrityError(f"the model does not answer the manifest's {num_classes} classes")
    elif not hasattr(model, "predict") or hasattr(model, "classes_"):
        raise IntegrityError("the model does not answer numbers")
