"""The holdout as the claims see it: inputs and outcomes of the same rows, in the same order."""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from datahall.core.errors import IntegrityError, UserError
from datahall.core.ports import Columns
from datahall.core.records import Column
from datahall.data.frames import ROW, SUBJECT, load_columns, load_series

MAX_GROUPS = 8
"""A sensitive number with more distinct values is cut into four groups of like size."""


@dataclass(frozen=True)
class Rows:
    """The rows of a holdout; `truth` and each column have shape (rows,), in the order of the inputs."""

    truth: np.ndarray
    groups: dict[str, np.ndarray]
    """Sensitive column to the group name of every row."""
    clusters: np.ndarray | None
    """Subject number per row where subjects are declared: their rows are not independent."""
    inputs: bytes

    @property
    def num(self) -> int:
        """How many rows there are."""
        return int(self.truth.size)

    def columns(self, features: tuple[Column, ...]) -> Columns:
        """Return the inputs that a bundle with these features takes.

        Raises UserError where the holdout lacks one of them, as when a champion knew a column that is gone since.
        """
        known = pl.read_parquet_schema(io.BytesIO(self.inputs))
        missing = [column.name for column in features if column.name not in known]
        if missing:
            raise UserError(f"the holdout has no column '{missing[0]}', which the model needs")
        return load_columns(self.inputs, features)


def load_rows(inputs: bytes, outcomes: bytes, *, target: Column, sensitive: tuple[Column, ...]) -> Rows:
    """Return the holdout from its two Parquet parts, matched by row number.

    Raises IntegrityError where the parts do not hold the same rows, each once.
    """
    number = Column(name=ROW, kind="number")
    order, place = load_series(inputs, number), load_series(outcomes, number)
    if order.size == 0 or np.unique(order).size != order.size or not np.array_equal(np.sort(order), np.sort(place)):
        raise IntegrityError("the holdout's inputs and outcomes are not about the same rows")
    at = np.argsort(place)[np.searchsorted(np.sort(place), order)]
    clusters = None
    if SUBJECT in pl.read_parquet_schema(io.BytesIO(outcomes)):
        subjects = load_series(outcomes, Column(name=SUBJECT, kind="category"))[at]
        clusters = np.unique(subjects.astype(str), return_inverse=True)[1]
    return Rows(
        truth=load_series(outcomes, target)[at],
        groups={column.name: _groups(load_series(outcomes, column)[at], column) for column in sensitive},
        clusters=clusters,
        inputs=inputs,
    )


def _groups(values: np.ndarray, column: Column) -> np.ndarray:
    """Return a group name for every row: the value itself, a quarter of the range of a number, or `(missing)`."""
    if column.kind == "category":
        return np.array(["(missing)" if value is None else str(value) for value in values], dtype=object)
    known = values[~np.isnan(values)]
    if column.kind == "boolean":
        names = {0.0: "false", 1.0: "true"}
        return np.array([names.get(value, "(missing)") for value in values], dtype=object)
    if np.unique(known).size <= MAX_GROUPS:
        return np.array(["(missing)" if np.isnan(value) else f"{value:g}" for value in values], dtype=object)
    edges = np.unique(np.quantile(known, [0.0, 0.25, 0.5, 0.75, 1.0]))
    part = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, edges.size - 2)
    names_of = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    return np.array(
        ["(missing)" if np.isnan(value) else names_of[number] for value, number in zip(values, part, strict=True)],
        dtype=object,
    )
