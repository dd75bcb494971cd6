"""What the train job is asked and what it answers."""

from __future__ import annotations

from typing import Any

import msgspec

from datahall.core.records import Column, Grant, Task


class TrainRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Fit one candidate; there is no grant of the holdout in here, and no key that signs."""

    app: str
    team: str
    task: Task
    candidate: str
    model: str
    """Name in `train.MODELS`."""
    settings: dict[str, Any]
    """The candidate's own settings as plain data, validated by the model's config class."""
    search: dict[str, Any] | None
    features: tuple[Column, ...]
    target: Column
    train: Grant
    validation: Grant
    seeds: tuple[int, ...]
    search_metric: str


class SeedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One fit: the model as skops bytes, or as safetensors for a network, and its figures on the validation rows."""

    seed: int
    model: Grant
    metrics: dict[str, float]


class TrainResult(msgspec.Struct, frozen=True, kw_only=True):
    """The fits, one per seed in the order asked; the first one is the candidate, the rest show its stability."""

    models: tuple[SeedModel, ...]
    parameters: dict[str, Any]
    trials: Grant
    num_trials: int
    num_pruned: int
