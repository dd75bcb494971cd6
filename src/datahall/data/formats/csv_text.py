"""Reads CSV as RFC 4180 says: commas, a header, doubled quotation marks; nothing crooked is guessed straight."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from datahall.core.errors import DataError
from datahall.data.formats.base import Format, RawTable, check_names

_QUOTE, _COMMA, _NEWLINE, _RETURN = 0x22, 0x2C, 0x0A, 0x0D
_BOM = b"\xef\xbb\xbf"
_MAX_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class _Records:
    """Where each record that is not blank begins and ends, on which line, and of how many fields it is."""

    starts: np.ndarray
    ends: np.ndarray
    lines: np.ndarray
    num_fields: np.ndarray


def read(data: bytes, name: str) -> RawTable:
    """Return every field as text, null where it is empty; blank lines do not count.

    Raises DataError for bytes that are not UTF-8, stray quotation marks, and records that are longer or shorter
    than the header.
    """
    data = data.removeprefix(_BOM).rstrip(b"\r\n")
    _check_text(data, name)
    records = _records(data, name)
    if not len(records.starts):
        raise DataError("the file is empty", where=name, hint="the first line must name the columns")
    names = _header(data[records.starts[0] : records.ends[0]], name)
    _check_lengths(records, len(names), name)
    if len(records.starts) == 1:
        raise DataError("there is a header but not one row", where=name, hint="add rows, or leave the file out")
    return RawTable(name, _fields(data, records, names, name), records.lines[1:], "line")


def column_names(path: Path) -> list[str]:
    """Return the names in the first line, of which at most 1 MiB is read."""
    with path.open("rb") as file:
        head = file.read(_MAX_HEADER_BYTES + 1).removeprefix(_BOM).lstrip(b"\r\n")
    if not head:
        raise DataError("the file is empty", where=path.name, hint="the first line must name the columns")
    line = head
    for end in (position for position, byte in enumerate(head) if byte == _NEWLINE):
        if head.count(b'"', 0, end) % 2 == 0:
            line = head[:end]
            break
    if len(line) > _MAX_HEADER_BYTES:
        raise DataError("the first line is longer than 1 MiB", where=path.name, hint="is this a CSV file?")
    _check_text(line, path.name)
    return _header(line, path.name)


def _check_text(data: bytes, name: str) -> None:
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        raise DataError("the text is in UTF-16", where=name, hint="save the file as UTF-8")
    if data[:4] in {b"PAR1", b"PK\x03\x04"}:
        hint = "say format: parquet" if data[:3] == b"PAR" else "export the sheet as CSV in your spreadsheet program"
        raise DataError("this is not a CSV file", where=name, hint=hint)
    zero = data.find(b"\x00")
    if zero >= 0:
        what = "there is a zero byte, so this is not text"
        raise DataError(what, where=f"{name}:{_line_of(data, zero)}", hint="is this a CSV file?")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"byte 0x{data[error.start]:02x} is not UTF-8"
        raise DataError(what, where=f"{name}:{_line_of(data, error.start)}", hint="save the file as UTF-8") from error


def _line_of(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def _records(data: bytes, name: str) -> _Records:
    """Find the records in a few passes of numpy: a separator counts where the quotation marks before it pair up."""
    view = np.frombuffer(data, dtype=np.uint8)
    newlines = np.flatnonzero(view == _NEWLINE)
    commas = np.flatnonzero(view == _COMMA)
    quotes = np.flatnonzero(view == _QUOTE)
    ends = newlines
    if len(quotes):
        _check_quotes(view, quotes, data, name)
        ends = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
        commas = commas[np.searchsorted(quotes, commas) % 2 == 0]
    if b"\r" in data:
        _check_returns(view, quotes, data, name)
    if len(view) and (not len(ends) or ends[-1] != len(view) - 1):
        ends = np.append(ends, len(view))
    starts = np.append(0, ends[:-1] + 1) if len(ends) else ends
    num_fields = np.searchsorted(commas, ends) - np.searchsorted(commas, starts) + 1
    lines = np.searchsorted(newlines, starts) + 1
    length = ends - starts
    blank = (length == 0) | ((length == 1) & (view[np.minimum(starts, len(view) - 1)] == _RETURN))
    return _Records(starts[~blank], ends[~blank], lines[~blank], num_fields[~blank])


def _check_quotes(view: np.ndarray, quotes: np.ndarray, data: bytes, name: str) -> None:
    """Raise DataError unless each mark opens at a field's start, closes at its end, or is doubled inside."""
    opening, closing = quotes[0::2], quotes[1::2]
    before = view[np.maximum(opening - 1, 0)]
    good_open = (opening == 0) | np.isin(before, (_COMMA, _NEWLINE, _QUOTE))
    after = view[np.minimum(closing + 1, len(view) - 1)]
    good_close = (closing == len(view) - 1) | np.isin(after, (_COMMA, _NEWLINE, _RETURN, _QUOTE))
    bad = np.concatenate([opening[~good_open], closing[~good_close]])
    hint = "a field with quotation marks, commas or line breaks stands in quotation marks, with inner ones doubled"
    if len(bad):
        where = f"{name}:{_line_of(data, int(bad.min()))}"
        raise DataError("a quotation mark stands inside a field", where=where, hint=hint)
    if len(quotes) % 2:
        where = f"{name}:{_line_of(data, int(quotes[-1]))}"
        raise DataError("a quotation mark is never closed", where=where, hint=hint)


def _check_returns(view: np.ndarray, quotes: np.ndarray, data: bytes, name: str) -> None:
    """Raise DataError where a carriage return outside quotation marks is not the first half of a line's end."""
    returns = np.flatnonzero(view == _RETURN)
    returns = returns[np.searchsorted(quotes, returns) % 2 == 0]
    stray = returns[view[np.minimum(returns + 1, len(view) - 1)] != _NEWLINE]
    if len(stray):
        where = f"{name}:{_line_of(data, int(stray[0]))}"
        hint = "save it with line feeds (Unix), or with both (Windows)"
        raise DataError("a carriage return stands alone", where=where, hint=hint)


def _header(line: bytes, name: str) -> list[str]:
    names = next(csv.reader(io.StringIO(line.decode("utf-8"), newline=""), strict=True))
    for separator, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and separator in names[0]:
            raise DataError(f"the columns are separated by {word}", where=name, hint="save it with commas")
    check_names(names, name)
    return names


def _check_lengths(records: _Records, expected: int, name: str) -> None:
    wrong = np.flatnonzero(records.num_fields != expected)
    if not len(wrong):
        return
    first = int(wrong[0])
    count = int(records.num_fields[first])
    more = f" ({len(wrong)} such rows)" if len(wrong) > 1 else ""
    raise DataError(
        f"the row has {count} field{'s' * (count != 1)}, the header {expected}{more}",
        where=f"{name}:{int(records.lines[first])}",
        hint="a comma inside a field needs quotation marks around the field",
    )


def _fields(data: bytes, records: _Records, names: list[str], name: str) -> pl.DataFrame:
    """Let polars cut the records; the scan before has settled how many there are."""
    body = memoryview(data)[records.ends[0] + 1 : records.ends[-1]]
    if int(records.lines[-1] - records.lines[0]) != len(records.lines) - 1:  # blank lines or line breaks in fields
        body = memoryview(b"\n".join(data[s:e] for s, e in zip(records.starts[1:], records.ends[1:], strict=True)))
    try:
        frame = pl.read_csv(
            bytes(body),
            has_header=False,
            schema=dict.fromkeys(names, pl.String),
            empty_string_is_null=True,
        )
    except pl.exceptions.PolarsError as error:
        raise DataError(f"the file cannot be read: {str(error).splitlines()[0]}", where=name) from error
    if frame.height != len(records.starts) - 1:
        what = f"{frame.height} rows were read where the file has {len(records.starts) - 1}"
        raise DataError(what, where=name, hint="look for stray carriage returns in the file")
    return frame


CSV = Format(read, column_names)
