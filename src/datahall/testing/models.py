"""Small fitted models and bundles in one line, for tests of whatever trains, runs, measures or serves them."""

from __future__ import annotations

from typing import Any

from datahall.core.jobs import Progress
from datahall.core.ports import BlobStore
from datahall.optimize.contract import ExportRequest, ExportResult
from datahall.testing.tables import TEAM, SmallTable
from datahall.train.conformal import HALF_WIDTH_METRIC
from datahall.train.contract import TrainRequest, TrainResult

QUICK: dict[str, dict[str, Any]] = {
    "boosting": {"num_rounds": 10, "max_leaves": 8},
    "forest": {"num_trees": 10},
    "logistic": {},
    "mlp": {"layers": [16], "num_epochs": 10},
    "net": {"layers": [16], "num_epochs": 30},
    "ridge": {},
}
"""Settings of each kind of model that fit in a blink."""


def no_report(progress: Progress) -> None:
    """Hear of progress and forget it."""


def train_request(table: SmallTable, model: str, **changes: Any) -> TrainRequest:
    """Return a request to fit `model` quickly to `table`, with `changes` to its fields."""
    fields: dict[str, Any] = {
        "app": "small",
        "team": TEAM,
        "task": table.task,
        "candidate": model,
        "model": model,
        "settings": QUICK[model],
        "search": None,
        "features": table.features,
        "target": table.target,
        "train": table.train,
        "validation": table.validation,
        "seeds": (1,),
        "search_metric": "accuracy" if table.task == "classification" else "r2",
    }
    return TrainRequest(**(fields | changes))


def export_request(table: SmallTable, fits: TrainResult, **changes: Any) -> ExportRequest:
    """Return a request to export `fits`, with `changes` to its fields."""
    widths = [fit.metrics[HALF_WIDTH_METRIC] for fit in fits.models if HALF_WIDTH_METRIC in fit.metrics]
    fields: dict[str, Any] = {
        "app": "small",
        "team": TEAM,
        "task": table.task,
        "features": table.features,
        "target": table.target,
        "models": tuple(fit.model for fit in fits.models),
        "train": table.train,
        "holdout_inputs": table.holdout,
        "threshold": None,
        "engine": "auto",
        "interval_half_widths": tuple(widths),
    }
    return ExportRequest(**(fields | changes))


def small_bundle(blobs: BlobStore, table: SmallTable, model: str, **changes: Any) -> bytes:
    """Fit `model`, export it with `changes` to the export's fields, and return the packed bundle."""
    return blobs.get(small_export(blobs, table, model, **changes).bundles[0], team=TEAM)


def small_export(blobs: BlobStore, table: SmallTable, model: str, **changes: Any) -> ExportResult:
    """Fit `model`, export it with `changes` to the export's fields, and return the job's result."""
    from datahall.optimize.job import run as export  # noqa: PLC0415  (imports scikit-learn and onnxruntime)
    from datahall.train.job import run as train  # noqa: PLC0415  (as above)

    fits = train(train_request(table, model), blobs, no_report)
    return export(export_request(table, fits, **changes), blobs, no_report)
