"""Reads JSON: an array of flat objects, or one object a line (JSON Lines)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl

from datahall.core.errors import DataError
from datahall.data.formats.base import Format, RawTable, check_names

_SHAPE = "the file must be an array of flat objects, or one object a line"


class _TwiceError(ValueError):
    """An object names one key two times."""


class _ConstantError(ValueError):
    """NaN or Infinity, which JSON does not know."""


def read(data: bytes, name: str) -> RawTable:
    """Return one column for each key, null where an object lacks it; columns of mixed values become text.

    Nested values make a column a refused one. Raises DataError with the row for anything but objects, and for
    repeated keys and NaN.
    """
    rows = _rows(_text(data, name), name)
    if not rows:
        raise DataError("there is not one row", where=name, hint=_SHAPE)
    names = list(dict.fromkeys(key for row in rows for key in row))
    check_names(names, name)
    columns: dict[str, pl.Series] = {}
    refused: dict[str, DataError] = {}
    for key in names:
        try:
            columns[key] = _series(key, [row.get(key) for row in rows], name)
        except DataError as error:
            refused[key] = error
    return RawTable(name, pl.DataFrame(columns), np.arange(1, len(rows) + 1), "row", refused)


def column_names(path: Path) -> list[str]:
    """Return every key that any row has; the whole file is read, since a later row may have more keys."""
    return read(path.read_bytes(), path.name).columns


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{data[error.start]:02x} is not UTF-8"
        raise DataError(what, where=f"{name}:{line}", hint="save the file as UTF-8") from error


def _rows(text: str, name: str) -> list[dict[str, Any]]:
    if text.lstrip()[:1] == "[":
        rows: list[Any] = _parse(text, name, first_line=1)
        places = [f"{name}, row {number}" for number in range(1, len(rows) + 1)]
    else:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        rows = [_parse(line, name, first_line=number) for number, line in lines]
        places = [f"{name}:{number}" for number, _ in lines]
    for place, row in zip(places, rows, strict=True):
        if not isinstance(row, dict):
            raise DataError(f"the row is {_article(row)}, not an object", where=place, hint=_SHAPE)
    return rows


def _parse(text: str, name: str, *, first_line: int) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        where = f"{name}:{first_line + error.lineno - 1}"
        raise DataError(f"this is not JSON: {error.msg}, column {error.colno}", where=where, hint=_SHAPE) from error
    except RecursionError as error:
        raise DataError("values are nested too deeply", where=f"{name}:{first_line}", hint=_SHAPE) from error
    except (_TwiceError, _ConstantError) as error:
        raise DataError(str(error), where=f"{name}:{first_line}", hint=_SHAPE) from error
    except ValueError as error:  # Python reads no number of more than 4,300 digits
        what = "a number has thousands of digits"
        raise DataError(what, where=f"{name}:{first_line}", hint="write it as text") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwiceError(f"an object has the key '{next(key for key in keys if keys.count(key) > 1)}' twice")
    return row


def _refuse_constant(word: str) -> NoReturn:
    raise _ConstantError(f"{word} is not JSON; write null for a missing value")


def _series(key: str, values: list[Any], name: str) -> pl.Series:
    kinds = {type(value) for value in values if value is not None}
    for kind in kinds & {dict, list}:
        row = next(number for number, value in enumerate(values, start=1) if type(value) is kind)
        hint = f"flatten it into columns of its own, such as '{key}_1'"
        raise DataError(f"'{key}' is {_article(kind())}", where=f"{name}, row {row}", hint=hint)
    if kinds <= {bool}:
        return pl.Series(key, values, dtype=pl.Boolean if kinds else pl.String)
    if kinds == {int} and all(value is None or -(2**63) <= value < 2**63 for value in values):
        return pl.Series(key, values, dtype=pl.Int64)
    if kinds == {float}:
        return pl.Series(key, values, dtype=pl.Float64)
    return pl.Series(key, [_plain(value) for value in values], dtype=pl.String)


def _plain(value: Any) -> str | None:
    """Write one value of a mixed column as it stands in the file, so that typing can name the odd ones."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)  # Infinity, which 1e999 gives, is left for the contract to find


def _article(value: Any) -> str:
    words = {dict: "an object", list: "an array", str: "a text", bool: "true or false", type(None): "null"}
    return words.get(type(value), "a number")


JSON = Format(read, column_names)
