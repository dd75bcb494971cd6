"""One request's rows between protocol and replica, and many requests' rows as one batch of tensors."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from datahall.core.records import Column

TABLE = ""
"""Name of the one matrix of shape (rows, features) that stands for all columns where none is a category."""


class Rows(msgspec.Struct, frozen=True, gc=False):
    """The checked rows of one request: as lists of numbers where every column is one, as columns otherwise.

    Lists are kept as they were decoded, because one conversion of a whole batch costs a fraction of one a request.
    """

    num_rows: int
    values: Sequence[Sequence[float | None]] | None = None
    """`num_rows` sequences in the order of the features; None, true and false become NaN, 1.0 and 0.0."""
    columns: Mapping[str, np.ndarray] | None = None
    """Every column by its name, where at least one is a category."""


def is_table(features: Sequence[Column]) -> bool:
    """Return whether rows of these features travel as one matrix."""
    return all(feature.kind != "category" for feature in features)


def join(many: Sequence[Rows]) -> dict[str, np.ndarray]:
    """Return the tensors of one batch, rows in the order given: `{TABLE: float64 (rows, features)}`, or columns."""
    first = many[0].columns
    if first is None:
        return {TABLE: _matrix([row for one in many for row in one.values or ()])}
    if len(many) == 1:
        return dict(first)
    columns = [one.columns for one in many if one.columns is not None]
    return {name: np.concatenate([one[name] for one in columns]) for name in first}


def _matrix(rows: list[Sequence[float | None]]) -> np.ndarray:
    """Return the rows as float64; None becomes NaN."""
    width = len(rows[0])
    pack = struct.Struct(f"<{width}d").pack  # half the time of numpy's own way, which looks at each value's type first
    try:
        raw = b"".join([pack(*row) for row in rows])
    except (struct.error, OverflowError):  # a missing value, or an integer that only numpy's way refuses by name
        return np.array(rows, dtype=np.float64)
    return np.frombuffer(raw, dtype="<f8").reshape(len(rows), width)


def to_columns(features: Sequence[Column], arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Return a batch's tensors as columns by name, which is what a predictor takes."""
    table = arrays.get(TABLE)
    if table is None:
        return arrays
    return {feature.name: table[:, index] for index, feature in enumerate(features)}
