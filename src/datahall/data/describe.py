"""Summarises the training rows, column by column, for reports and for watching drift later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from datahall.core.records import Column

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def statistics(train: pl.DataFrame, columns: Sequence[Column]) -> dict[str, Any]:
    """Return `num_rows` and, by column, counts and moments; nothing comes from validation or holdout rows.

    Numbers have mean, standard deviation (n - 1), minimum, maximum and quantiles (linear, Hyndman and Fan's type
    7); categories and booleans have the number of rows of each value.
    """
    return {
        "num_rows": train.height,
        "columns": {column.name: _column(train[column.name], column) for column in columns},
    }


def _column(series: pl.Series, column: Column) -> dict[str, Any]:
    values = series.drop_nulls()
    summary: dict[str, Any] = {"kind": column.kind, "num": len(values), "num_missing": series.null_count()}
    if column.kind == "number":
        return summary | _moments(values.to_numpy())
    texts = values.cast(pl.String)
    counts = dict(zip(*np.unique(texts.to_numpy(), return_counts=True), strict=True)) if len(texts) else {}
    return summary | {"counts": {str(text): int(count) for text, count in counts.items()}}


def _moments(values: np.ndarray) -> dict[str, Any]:
    if not len(values):
        return {"mean": None, "sd": None, "min": None, "max": None, "quantiles": {}}
    cuts = np.quantile(values, QUANTILES)
    return {
        "mean": _finite(values.mean()),
        "sd": _finite(values.std(ddof=1)) if len(values) > 1 else None,
        "min": float(values.min()),
        "max": float(values.max()),
        "quantiles": {f"{share:g}": _finite(cut) for share, cut in zip(QUANTILES, cuts, strict=True)},
    }


def _finite(value: float) -> float | None:
    """JSON has no infinity, and sums of very large numbers can reach it."""
    return float(value) if np.isfinite(value) else None
