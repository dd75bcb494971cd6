"""Reads an application's sources into one raw table whose every row still knows its file and line."""

from __future__ import annotations

import difflib
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from datahall.core.canonical import digest_bytes
from datahall.core.errors import DataError
from datahall.core.records import Source
from datahall.data.formats import FORMATS
from datahall.data.formats.base import RawTable

MAX_SOURCE_BYTES = 4 << 30
_REFUSED_SUFFIXES = {
    **dict.fromkeys((".pkl", ".pickle", ".joblib", ".npy", ".npz"), "a pickle can run code: save it as Parquet"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "export the sheet as CSV in your spreadsheet program"),
    **dict.fromkeys((".gz", ".zip", ".zst", ".bz2", ".xz"), "unpack it first"),
}


@dataclass(frozen=True)
class RawRows:
    """The rows of all sources, one below the other, in raw types."""

    frame: pl.DataFrame
    tables: tuple[RawTable, ...]
    sources: tuple[Source, ...]

    def place(self, index: int) -> str:
        """Return the file and line (or row) of row `index`, for people."""
        for table in self.tables:
            if index < len(table.places):
                return table.place(index)
            index -= len(table.places)
        raise IndexError(index)


def read_source(path: Path, format: str, name: str) -> tuple[RawTable, Source]:
    """Read one file whole; `name` is how the application file calls it.

    Raises DataError for what cannot be opened, is too large (4 GiB), or is not what its format says.
    """
    data = _bytes(path, name)
    table = FORMATS.load(format).read(data, name)
    digest = digest_bytes(data)
    return table, Source(name=name, digest=digest, size_bytes=len(data), num_rows=len(table.places))


def stack(tables: Sequence[RawTable], sources: Sequence[Source], columns: Sequence[str]) -> RawRows:
    """Put the tables' `columns` one below the other, matched by name; mixed types become text.

    Raises DataError naming the file and the nearest spelling where a table lacks a column, and a refused column's
    own error.
    """
    for column in columns:  # the first file's columns come first, so a later file is said to differ from it
        for table in tables:
            if column in table.refused:
                raise table.refused[column]
            if column not in table.columns:
                near = difflib.get_close_matches(column, table.columns, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(table.columns[:20])}"
                raise DataError(f"there is no column '{column}'", where=table.name, hint=hint)
    frames = [table.frame.select(columns) for table in tables]
    for column in columns:
        dtypes = {frame.schema[column] for frame in frames}
        if len(dtypes) > 1:
            frames = [frame.with_columns(pl.col(column).cast(pl.String)) for frame in frames]
    return RawRows(pl.concat(frames, rechunk=True), tuple(tables), tuple(sources))


def all_columns(tables: Sequence[RawTable]) -> tuple[str, ...]:
    """Return the names of all columns of all tables, in the order in which they first appear."""
    return tuple(dict.fromkeys(column for table in tables for column in table.columns))


def show(value: object) -> str:
    """Return a cell as an error message shows it, at most 40 characters long."""
    if isinstance(value, np.generic):
        value = value.item()
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def check_file(path: Path, name: str) -> None:
    """Raise DataError where `path` is no regular file, cannot be seen, is too large, or of a kind never read."""
    if hint := _REFUSED_SUFFIXES.get(path.suffix.lower()):
        raise DataError(f"'{path.suffix}' files are not read", where=name, hint=hint)
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        hint = f"looked for it at {path.absolute()}"
        raise DataError(f"the file cannot be opened: {reason}", where=name, hint=hint) from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise DataError(f"this is {kind}", where=name, hint="name the file with the rows")
    if status.st_size > MAX_SOURCE_BYTES:
        what = f"the file has {status.st_size:,} bytes; at most {MAX_SOURCE_BYTES:,} are read"
        raise DataError(what, where=name, hint="split it into several sources, or take a sample")


def _bytes(path: Path, name: str) -> bytes:
    check_file(path, name)
    try:
        return path.read_bytes()
    except OSError as error:
        hint = "check who may read it: ls -l"
        raise DataError(f"the file cannot be read: {error.strerror}", where=name, hint=hint) from error
