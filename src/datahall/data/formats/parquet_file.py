"""Reads Parquet files of plain columns: numbers, text and booleans."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl

from datahall.core.errors import DataError
from datahall.data.formats.base import Format, RawTable, check_names

_MAX_CELLS = 500_000_000  # a few kilobytes of Parquet can say "a billion times the same value"
_DATES = (pl.Date, pl.Datetime, pl.Time, pl.Duration)
# polars reports some damage by PanicException, which is no Exception; Ctrl-C is none of these either
_BROKEN = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError)


def read(data: bytes, name: str) -> RawTable:
    """Return the columns as they are, decimals as floats and dictionaries as text.

    Dates, binary and nested columns are refused ones. Raises DataError for damaged files and for those of over
    500 million cells.
    """
    if data[:4] not in {b"PAR1", b"PARE"}:
        raise DataError("this is not a Parquet file", where=name, hint="say its true format: csv or json")
    try:
        plan = pl.scan_parquet(io.BytesIO(data))
        schema = plan.collect_schema()
        num_rows = int(plan.select(pl.len()).collect().item())
    except _BROKEN as error:
        raise _unreadable(error, name) from error
    check_names(schema.names(), name)
    if num_rows * len(schema) > _MAX_CELLS:
        raise DataError(f"{num_rows} rows of {len(schema)} columns are too many", where=name, hint="use fewer rows")
    casts: list[pl.Expr] = []
    refused: dict[str, DataError] = {}
    for column, dtype in schema.items():
        try:
            casts.append(_cast(column, dtype, name))
        except DataError as error:
            refused[column] = error
    if not num_rows:
        raise DataError("there is not one row", where=name, hint="add rows, or leave the file out")
    try:
        frame = pl.read_parquet(io.BytesIO(data)).select(casts)
    except _BROKEN as error:
        raise _unreadable(error, name) from error
    return RawTable(name, frame, np.arange(1, num_rows + 1), "row", refused)


def column_names(path: Path) -> list[str]:
    """Return the names in the file's footer."""
    try:
        names = list(pl.read_parquet_schema(path))
    except _BROKEN as error:
        raise _unreadable(error, path.name) from error
    check_names(names, path.name)
    return names


def _unreadable(error: BaseException, name: str) -> DataError:
    reason = (str(error).splitlines() or ["unknown"])[0]
    return DataError(f"the Parquet file is damaged: {reason}", where=name, hint="write it anew")


def _cast(column: str, dtype: pl.DataType, name: str) -> pl.Expr:
    values = pl.col(column)
    if isinstance(dtype, pl.String | pl.Boolean | pl.Int64 | pl.UInt64 | pl.Float64):
        return values
    if isinstance(dtype, pl.Categorical | pl.Enum | pl.Null):
        return values.cast(pl.String)
    if dtype.is_integer() and not isinstance(dtype, pl.Int128 | pl.UInt128):
        return values.cast(pl.Int64)
    if dtype.is_float() or dtype.is_decimal():
        return values.cast(pl.Float64)
    if isinstance(dtype, _DATES):
        hint = "turn it into a number, such as days since a fixed day, or leave it out with ignore"
        raise DataError(f"column '{column}' holds dates or times", where=name, hint=hint)
    hint = "keep plain numbers, text and booleans; flatten or drop the rest before"
    raise DataError(f"column '{column}' holds {dtype}, which is no plain value", where=name, hint=hint)


PARQUET = Format(read, column_names)
