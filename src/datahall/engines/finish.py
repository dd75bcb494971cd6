"""Turns a model's scores into the answer: one function for all engines, so that they cannot differ."""

from __future__ import annotations

import numpy as np

from datahall.core.errors import IntegrityError, UserError
from datahall.core.records import BundleManifest

LABEL_DECIMALS = 6
"""Labels are decided on probabilities rounded so: a tie stays a tie whatever the last bits of an engine say."""

_SCALE = 10.0**LABEL_DECIMALS


class Finisher:
    """Finishes the scores of one manifest; made once per model, since a single row's time is mostly spent here."""

    def __init__(self, manifest: BundleManifest) -> None:
        self._classifies = manifest.task == "classification"
        self._expected = (len(manifest.target.categories),) if self._classifies else ()
        self._names = np.array(manifest.target.categories, dtype=object)
        self._threshold = manifest.threshold
        interval = manifest.engine_settings.get("interval")
        self._half_width = None if interval is None else float(interval["half_width"])

    def finish(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        """Return the answer for `scores`: probabilities of shape (rows, classes), or values of shape (rows,).

        The result is as `core.ports.prediction.Predictor` says. Regression also answers `lower` and `upper` where
        the manifest's `engine_settings["interval"]` gives a half width.

        Raises IntegrityError where the scores' shape is not the manifest's; UserError where a score is not finite.
        """
        scores = np.ascontiguousarray(scores, dtype=np.float64)
        if scores.shape[1:] != self._expected:
            raise IntegrityError(
                f"the model answers {scores.shape[1:]} figures a row where its manifest says {self._expected}"
            )
        if not np.isfinite(scores).all():
            raise _not_finite(scores)
        if self._classifies:
            return {"label": self._names[decide(scores, self._threshold)], "probability": scores}
        if self._half_width is None:
            return {"label": scores}
        return {"label": scores, "lower": scores - self._half_width, "upper": scores + self._half_width}


def finish(manifest: BundleManifest, scores: np.ndarray) -> dict[str, np.ndarray]:
    """Return what `Finisher(manifest).finish(scores)` does, for those who finish once."""
    return Finisher(manifest).finish(scores)


def _not_finite(scores: np.ndarray) -> UserError:
    finite = np.isfinite(scores).all(axis=tuple(range(1, scores.ndim)))
    return UserError(
        f"row {int(np.argmin(finite))}: the model has no finite answer",
        hint="its values lie far outside of what the model was trained on",
    )


def decide(probability: np.ndarray, threshold: float | None) -> np.ndarray:
    """Return class indices, shape (rows,): the likeliest class (the first on a tie), or by threshold for two classes."""
    rounded = np.rint(probability * _SCALE) / _SCALE  # what np.round does, at a third of its time for a row
    if threshold is None:
        first: np.ndarray = rounded.argmax(axis=1)
        return first
    second: np.ndarray = (rounded[:, 1] >= round(threshold, LABEL_DECIMALS)).astype(np.intp)
    return second
