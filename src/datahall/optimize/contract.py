"""What the export job is asked and what it answers."""

from __future__ import annotations

from typing import Any

import msgspec

from datahall.core.records import BundleManifest, Column, Grant, Task


class ExportRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Make bundles of fitted models; sees the inputs of the evaluation rows, never their outcomes."""

    app: str
    team: str
    task: Task
    features: tuple[Column, ...]
    target: Column
    models: tuple[Grant, ...]
    """skops or safetensors bytes, one per seed; the first becomes the candidate's bundle, the others bundles of the
    library that fitted them."""
    train: Grant
    holdout_inputs: Grant
    threshold: float | None
    engine: str
    """`auto`, `onnx` or `sklearn`."""
    interval_half_widths: tuple[float, ...] = ()
    """For regression: the fits' `interval_half_width_90`, one per model; empty where there were too few rows."""


class ExportResult(msgspec.Struct, frozen=True, kw_only=True):
    """Bundles in the order of the request's models: packed trees, manifests, and how equality was proven."""

    bundles: tuple[Grant, ...]
    manifests: tuple[BundleManifest, ...]
    equivalence: dict[str, Any]
