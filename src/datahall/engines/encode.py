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


class Encoder:
    """Encodes columns for one list of features; made once per model, since a single row's time is mostly spent here."""

    def __init__(self, features: tuple[Column, ...]) -> None:
        self._features = features
        self._names = {column.name for column in features}
        self._plain = [place for place, column in enumerate(features) if column.kind != "category"]
        self._boolean = np.array([[features[place].kind == "boolean"] for place in self._plain], dtype=bool)
        self._has_booleans = bool(self._boolean.any())
        self._codes = {
            place: {name: float(code) for code, name in enumerate(column.categories)}
            for place, column in enumerate(features)
            if column.kind == "category"
        }

    def encode(self, columns: Columns) -> np.ndarray:
        """Return a C-ordered float32 matrix of shape (rows, features) in the order of the features.

        Numbers keep NaN for missing, booleans are 0, 1 or NaN, categories are their code.

        Raises UserError, naming column and row, for missing or extra columns, differing lengths, wrong types and
        values that are infinite or beyond float32.
        """
        if columns.keys() != self._names:
            raise _names_error(columns, self._features)
        matrix = np.empty((_num_rows(columns), len(self._features)), dtype=np.float32)
        if self._plain:
            matrix[:, self._plain] = self._numbers(columns).T
        for place, codes in self._codes.items():
            matrix[:, place] = _codes(columns[self._features[place].name], codes, self._features[place].name)
        return matrix

    def encode_table(self, table: np.ndarray) -> np.ndarray:
        """Return the matrix that `encode` makes of the columns of `table`, float64 of shape (rows, features).

        For features of which none is a category: what takes `encode` a loop over columns is one conversion here.

        Raises UserError as `encode` does, and where `table` is not of that type and shape.
        """
        if self._codes:
            raise UserError("rows with categories are given as columns, not as one table")
        if table.dtype != np.float64 or table.ndim != 2 or table.shape[1] != len(self._features):
            what = f"the model takes float64 rows of {len(self._features)} values, not {table.dtype} {table.shape}"
            raise UserError(what)
        self._check(table.T)
        return table.astype(np.float32, order="C")

    def _numbers(self, columns: Columns) -> np.ndarray:
        """Return the numbers and booleans as float64 of shape (columns, rows)."""
        arrays = [columns[self._features[place].name] for place in self._plain]
        for place, array in zip(self._plain, arrays, strict=True):
            if array.dtype.kind not in "fiub":
                name = self._features[place].name
                raise UserError(f"column '{name}' takes numbers, not {array.dtype}", where=name)
        numbers = np.array(arrays, dtype=np.float64)
        self._check(numbers)
        return numbers

    def _check(self, numbers: np.ndarray) -> None:
        """Raise UserError, naming the first place, for a number of shape (columns, rows) that is not allowed."""
        largest = np.fmax.reduce(np.abs(numbers), axis=None, initial=0.0)  # fmax passes over NaN
        if largest <= _LARGEST and not self._has_booleans:
            return
        fits = np.abs(numbers) <= _LARGEST
        fits &= ~self._boolean | (numbers == 0.0) | (numbers == 1.0)
        fits |= np.isnan(numbers)
        if not fits.all():
            which, row = (int(place) for place in np.argwhere(~fits)[0])
            column = self._features[self._plain[which]]
            expected = (
                "0, 1 or missing" if column.kind == "boolean" else "a finite number within float32's range (3.4e38)"
            )
            what = f"column '{column.name}', row {row}: {numbers[which, row]} is not {expected}"
            raise UserError(what, where=column.name)


def encode(columns: Columns, features: tuple[Column, ...]) -> np.ndarray:
    """Return what `Encoder(features).encode(columns)` does, for those who encode once."""
    return Encoder(features).encode(columns)


def _names_error(columns: Columns, features: tuple[Column, ...]) -> UserError:
    expected = [column.name for column in features]
    missing = [name for name in expected if name not in columns]
    if missing:
        return UserError(f"missing columns: {_few(missing)}", hint=f"the model takes: {_few(expected)}")
    extra = [str(name) for name in columns if name not in set(expected)]
    near = difflib.get_close_matches(extra[0], expected, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"the model takes: {_few(expected)}"
    return UserError(f"columns that the model does not know: {_few(extra)}", hint=hint)


def _num_rows(columns: Columns) -> int:
    lengths: dict[int, str] = {}
    for name, array in columns.items():
        if not isinstance(array, np.ndarray) or array.ndim != 1:
            raise UserError(f"column '{name}' is not a one-dimensional array", where=name)
        lengths.setdefault(array.shape[0], name)
    if len(lengths) > 1:
        told = ", ".join(f"'{name}' has {length}" for length, name in lengths.items())
        raise UserError(f"the columns have different numbers of rows: {told}")
    return next(iter(lengths), 0)


def _codes(array: np.ndarray, codes: Mapping[str, float], name: str) -> np.ndarray:
    if array.dtype.kind not in "OU":
        raise UserError(f"column '{name}' takes text, not {array.dtype}", where=name)
    found = np.empty(len(array))
    for row, value in enumerate(array.tolist()):
        if isinstance(value, str):
            found[row] = codes.get(value, CODE_UNSEEN)
        elif value is None:
            found[row] = CODE_MISSING
        else:
            hint = f"known values: {_few(list(codes))}"
            raise UserError(f"column '{name}', row {row}: {value!r:.80} is not text", where=name, hint=hint)
    return found


def _few(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
