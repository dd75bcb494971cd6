"""What a format reader gives: a raw table whose every row knows where it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from datahall.core.errors import DataError

RESERVED_PREFIX = "__"


@dataclass(frozen=True)
class RawTable:
    """One source as it was read: columns are String, Boolean, Int64, UInt64 or Float64, nothing else.

    `places` has shape (rows,): the line of the file on which each row begins, or its number counted from 1, as
    `unit` says.
    """

    name: str
    frame: pl.DataFrame
    places: np.ndarray
    unit: Literal["line", "row"]
    refused: Mapping[str, DataError] = field(default_factory=dict)
    """Columns that hold no plain values, and why: no trouble as long as the application ignores them."""

    @property
    def columns(self) -> list[str]:
        """The names of all columns, the refused ones last."""
        return [*self.frame.columns, *self.refused]

    def place(self, index: int) -> str:
        """Return where row `index` is, for people: `visits.csv:17`, or `visits.parquet, row 17`."""
        number = int(self.places[index])
        return f"{self.name}:{number}" if self.unit == "line" else f"{self.name}, row {number}"


@dataclass(frozen=True)
class Format:
    """How one kind of file is read; both raise DataError with the place of what is wrong."""

    read: Callable[[bytes, str], RawTable]
    """From the whole file's bytes and its name."""
    column_names: Callable[[Path], list[str]]
    """Without reading more of the file than it must."""


def check_names(names: Sequence[str], where: str) -> None:
    """Raise DataError where a column has no name, shares it with another, or has one that the hall needs itself."""
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if not name.strip():
            hint = "name it in the file; pandas writes such a column unless told to_csv(..., index=False)"
            raise DataError(f"column {number} has no name", where=where, hint=hint)
        if name in seen:
            raise DataError(f"two columns are called '{name}'", where=where, hint="rename one of them in the file")
        if name.startswith(RESERVED_PREFIX):
            raise DataError(f"column '{name}' begins with two underscores", where=where, hint="rename it in the file")
        seen.add(name)
    if not names:
        raise DataError("there are no columns", where=where, hint="the first line must name the columns")
