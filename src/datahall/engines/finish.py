"""Turns a model's scores into the answer: one function for all engines, so that they cannot differ."""

from __future__ import annotations

import numpy as np

from datahall.core.errors import IntegrityError, UserError
from datahall.core.records import BundleManifest

LABEL_DECIMALS = 6
"""Labels are decided on probabilities rounded so: a tie stays a tie whatever the last bits of an engine say."""


def finish(manifest: BundleManifest, scores: np.ndarray) -> dict[str, np.ndarray]:
    """Return the answer for `scores`: probabilities of shape (rows, classes), or values of shape (rows,).

    The result is as `core.ports.prediction.Predictor` says. Regression also answers `lower` and `upper` where the
    manifest's `engine_settings["interval"]` gives a half width.

    Raises IntegrityError where the scores' shape is not the manifest's; UserError where a score is not finite.
    """
    scores = np.ascontiguousarray(scores, dtype=np.float64)
    expected = (len(manifest.target.categories),) if manifest.task == "classification" else ()
    if scores.shape[1:] != expected:
        raise IntegrityError(f"the model answers {scores.shape[1:]} figures a row where its manifest says {expected}")
    finite = np.isfinite(scores).all(axis=tuple(range(1, scores.ndim)))
    if not finite.all():
        raise UserError(
            f"row {int(np.argmin(finite))}: the model has no finite answer",
            hint="its values lie far outside of what the model was trained on",
        )
    if manifest.task == "classification":
        return {"label": _labels(manifest, scores), "probability": scores}
    return {"label": scores, **_interval(manifest, scores)}


def decide(probability: np.ndarray, threshold: float | None) -> np.ndarray:
    """Return class indices, shape (rows,): the likeliest class (the first on a tie), or by threshold for two classes."""
    rounded = np.round(probability, LABEL_DECIMALS)
    if threshold is None:
        first: np.ndarray = np.argmax(rounded, axis=1)
        return first
    second: np.ndarray = (rounded[:, 1] >= round(threshold, LABEL_DECIMALS)).astype(np.intp)
    return second


def _labels(manifest: BundleManifest, probability: np.ndarray) -> np.ndarray:
    names = np.array(manifest.target.categories, dtype=object)
    labels: np.ndarray = names[decide(probability, manifest.threshold)]
    return labels


def _interval(manifest: BundleManifest, values: np.ndarray) -> dict[str, np.ndarray]:
    interval = manifest.engine_settings.get("interval")
    if interval is None:
        return {}
    half_width = float(interval["half_width"])
    return {"lower": values - half_width, "upper": values + half_width}
