"""Turns columns into the one matrix that every engine feeds to its model, and refuses what does not fit.

Numbers are rounded to float32 here, for training as for serving: ONNX trees compare in float32, so a model that never
saw more digits answers alike in either engine.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import numpy as np

from datahall.core.errors import UserError
from datahall.core.ports import Columns
from datahall.core.records import Column

CODE_MISSING = -1.0
"""Stands for a missing category; the others are their index in `Column.categories`."""
CODE_UNSEEN = -2.0
"""Stands for a category that no training row had."""

_LARGEST = float(np.finfo(np.float32).max)


def encode(columns: Columns, features: tuple[Column, ...]) -> np.ndarray:
    """Return a C-ordered float32 matrix of shape (rows, features) in the order of `features`.

    Numbers keep NaN for missing, booleans are 0, 1 or NaN, categories are their code.

    Raises UserError, naming column and row, for missing or extra columns, differing lengths, wrong types and values
    that are infinite or beyond float32.
    """
    _check_names(columns, features)
    num_rows = _num_rows(columns)
    matrix = np.empty((num_rows, len(features)), dtype=np.float32)
    for position, column in enumerate(features):
        array = columns[column.name]
        matrix[:, position] = _codes(array, column) if column.kind == "category" else _numbers(array, column)
    return matrix


def _check_names(columns: Columns, features: tuple[Column, ...]) -> None:
    expected = [column.name for column in features]
    missing = [name for name in expected if name not in columns]
    extra = [name for name in columns if name not in set(expected)]
    if missing:
        raise UserError(f"missing columns: {_few(missing)}", hint=f"the model takes: {_few(expected)}")
    if extra:
        near = difflib.get_close_matches(str(extra[0]), expected, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"the model takes: {_few(expected)}"
        raise UserError(f"columns that the model does not know: {_few(extra)}", hint=hint)


def _num_rows(columns: Columns) -> int:
    lengths: dict[int, str] = {}
    for name, array in columns.items():
        if not isinstance(array, np.ndarray) or array.ndim != 1:
            raise UserError(f"column '{name}' is not a one-dimensional array", where=name)
        lengths.setdefault(len(array), name)
    if len(lengths) > 1:
        told = ", ".join(f"'{name}' has {length}" for length, name in lengths.items())
        raise UserError(f"the columns have different numbers of rows: {told}")
    return next(iter(lengths), 0)


def _numbers(array: np.ndarray, column: Column) -> np.ndarray:
    if array.dtype.kind not in "fiub":
        raise UserError(f"column '{column.name}' takes numbers, not {array.dtype}", where=column.name)
    numbers = array.astype(np.float64, copy=False)
    # Written so that NaN, which means missing, passes.
    wrong = ~((np.abs(numbers) <= _LARGEST) | np.isnan(numbers))
    expected = "a finite number within float32's range (3.4e38)"
    if column.kind == "boolean":
        wrong = ~((numbers == 0.0) | (numbers == 1.0) | np.isnan(numbers))
        expected = "0, 1 or missing"
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UserError(f"column '{column.name}', row {row}: {numbers[row]} is not {expected}", where=column.name)
    return numbers


def _codes(array: np.ndarray, column: Column) -> np.ndarray:
    if array.dtype.kind not in "OU":
        raise UserError(f"column '{column.name}' takes text, not {array.dtype}", where=column.name)
    codes: Mapping[object, float] = {name: float(code) for code, name in enumerate(column.categories)}
    return np.array([_code(value, codes, column, row) for row, value in enumerate(array.tolist())], dtype=np.float64)


def _code(value: object, codes: Mapping[object, float], column: Column, row: int) -> float:
    if value is None:
        return CODE_MISSING
    if not isinstance(value, str):
        raise UserError(
            f"column '{column.name}', row {row}: {value!r:.80} is not text",
            where=column.name,
            hint=f"known values: {_few(list(column.categories))}",
        )
    return codes.get(value, CODE_UNSEEN)


def _few(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
