"""Plain JSON: rows of named values in, a list of predictions out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from datahall.core.records import BundleManifest
from datahall.serve.protocols.finite import finite_list

if TYPE_CHECKING:
    import numpy as np

_encode = msgspec.json.Encoder().encode


def encode_answer(answer_id: str, version: str, manifest: BundleManifest, arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return `{"id", "version", "predictions"}`: labels with probabilities by class, or values with their interval.

    Raises DatahallError where the model answered with a number that is not finite.
    """
    is_labels = manifest.task == "classification"
    predictions = _labels(manifest.target.categories, arrays) if is_labels else _values(arrays)
    return _encode({"id": answer_id, "version": version, "predictions": predictions})


def _labels(categories: tuple[str, ...], arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    labels = arrays["label"].tolist()
    if "probability" not in arrays:
        return [{"label": label} for label in labels]
    return [
        {"label": label, "probabilities": dict(zip(categories, row, strict=True))}
        for label, row in zip(labels, finite_list(arrays["probability"]), strict=True)
    ]


def _values(arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    names = {"label": "value", "lower": "lower", "upper": "upper"}
    columns = {names[name]: finite_list(arrays[name]) for name in names if name in arrays}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
