"""A snapshot's Parquet parts as bytes: written the same way each time, read as plain numpy columns."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
import polars as pl

from datahall.core.errors import IntegrityError
from datahall.core.records import Column

ROW = "__row"
"""Number of a row in its snapshot's holdout: the same in `holdout_inputs` and `holdout_outcomes`."""
SUBJECT = "__subject"
"""Pseudonym of the person whose data a holdout row is; the mapping is not stored."""


def load_columns(parquet: bytes, features: tuple[Column, ...]) -> dict[str, np.ndarray]:
    """Return the columns of `features` from a Parquet part, in that order, each of shape (rows,).

    Numbers are float64 with NaN for missing; categories are object arrays of str, None for missing; booleans are
    float64 0.0 / 1.0 with NaN for missing: the form of `core.ports.prediction.Columns`.

    Raises IntegrityError where the bytes are no Parquet file or lack a column.
    """
    frame = _read(parquet, [column.name for column in features])
    return {column.name: _array(frame[column.name], column) for column in features}


def load_series(parquet: bytes, column: Column) -> np.ndarray:
    """Return one column, in the form that `load_columns` gives it: object of str, or float64.

    Raises IntegrityError where the bytes are no Parquet file or lack the column.
    """
    return load_columns(parquet, (column,))[column.name]


def to_parquet(frame: pl.DataFrame) -> bytes:
    """Return `frame` as one Parquet file; equal frames give equal bytes."""
    buffer = io.BytesIO()
    frame.rechunk().write_parquet(
        buffer, compression="zstd", compression_level=3, statistics=True, row_group_size=65_536
    )
    return buffer.getvalue()


def _read(parquet: bytes, names: Iterable[str]) -> pl.DataFrame:
    try:
        return pl.read_parquet(io.BytesIO(parquet), columns=list(dict.fromkeys(names)), use_statistics=False)
    except pl.exceptions.PolarsError as error:
        raise IntegrityError(f"a part of the snapshot cannot be read: {str(error).splitlines()[0]}") from error


def _array(series: pl.Series, column: Column) -> np.ndarray:
    if column.kind == "category":
        return np.array(series.cast(pl.String).to_list(), dtype=object)
    return series.cast(pl.Float64).fill_null(float("nan")).to_numpy(writable=True)
