"""Tells from the first lines of a CSV file whether its first line names the columns, or is a row like the others."""

from __future__ import annotations

import csv
import io
from itertools import islice
from pathlib import Path

from datahall.core.errors import DataError

_HEAD_BYTES = 1 << 20
_NUM_ROWS = 200


def doubt_header(path: Path) -> str | None:
    """Return what makes the first line look like a row, None where nothing does.

    Raises DataError where every column says so: a name that is a fraction over numbers, or a word that comes back
    below it. Whole numbers alone raise only doubt, for years and positions are names too.
    """
    names, *rows = _records(path) or [[]]
    rows = [row for row in rows if len(row) == len(names)]
    if not rows:
        return None
    columns = [[row[index].strip() for row in rows] for index in range(len(names))]
    sure = [_is_value(name.strip(), column) for name, column in zip(names, columns, strict=True)]
    whole = [_is_whole(name.strip()) and _are_numbers(column) for name, column in zip(names, columns, strict=True)]
    seems = [a or b for a, b in zip(sure, whole, strict=True)]
    if all(seems) and any(sure):
        what = "the first line is a row like the others, not the names of the columns"
        example = ",".join(f"column{number}" for number in range(1, min(len(names), 3) + 1))
        dots = ",..." if len(names) > 3 else ""
        raise DataError(what, where=f"{path.name}:1", hint=f"put a line of names before it, such as: {example}{dots}")
    if (any(sure) or _is_no_series(names)) and sum(seems) * 2 >= len(names):
        shown = ", ".join(name.strip() for name, odd in zip(names, seems, strict=True) if odd)[:60]
        return f"the first line may be a row and not names ({shown}): if so, put a line of names before it"
    return None


def _records(path: Path) -> list[list[str]]:
    """Return the first records; none where the file is no CSV, which its reader says better."""
    try:
        with path.open("rb") as file:
            text = file.read(_HEAD_BYTES).decode("utf-8-sig", errors="replace")
        reader = csv.reader(io.StringIO(text, newline=""))
        return list(islice((record for record in reader if record), _NUM_ROWS))
    except (OSError, csv.Error):
        return []


def _is_value(name: str, column: list[str]) -> bool:
    number = _number(name)
    if number is not None:
        return not number.is_integer() and _are_numbers(column)
    return bool(name) and name in column


def _is_whole(name: str) -> bool:
    number = _number(name)
    return number is not None and number.is_integer()


def _are_numbers(column: list[str]) -> bool:
    return sum(_number(value) is not None for value in column) * 2 >= len(column)


def _is_no_series(names: list[str]) -> bool:
    """Whether the names that are whole numbers do not count up by ones, as positions and years would."""
    numbers = [number for name in names if (number := _number(name)) is not None]
    return numbers != [numbers[0] + step for step in range(len(numbers))] if numbers else False


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None
