"""Holds what an application file says about its sources against the files themselves, as far as these can be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from datahall.core.errors import DataError, Problem
from datahall.spec.checks import missing_columns
from datahall.spec.schema import FORMATS
from datahall.spec.tree import KeyPath, Tree

ColumnsOf = Callable[[Path, str], Sequence[str]]
"""Lists the columns of a file in a format; raises DataError where it cannot."""


@dataclass(frozen=True)
class _Named:
    """A source that the file names well enough to look for it."""

    at: KeyPath
    path: Path
    format: str | None


def source_problems(tree: Tree, folder: Path, columns_of: ColumnsOf) -> tuple[list[Problem], list[DataError]]:
    """Return the problems of sources and of names that are no column of theirs, and each error of `columns_of`.

    Works on the raw file, so it looks at sources and columns even where other keys have problems; each error is also
    among the problems, for whoever lists all of them.
    """
    problems: list[Problem] = []
    errors: list[DataError] = []
    tables: list[Sequence[str]] = []
    for source in _named(tree, folder):
        if why := _why_no_file(source.path):
            expected = "a file; paths are relative to the application file"
            problems.append(tree.problem(source.at, why, expected=expected))
        elif source.format is not None:
            try:
                tables.append(columns_of(source.path, source.format))
            except DataError as error:
                errors.append(error)
                said = " ".join(f"{error.where}: {error.what} ({error.hint})".split())
                problems.append(tree.problem(source.at, f"cannot be used: {said}"))
    if tables:
        # a run demands each column of each source, so what none of these has is wrong whatever the others hold
        columns = tuple(dict.fromkeys(name for table in tables for name in table))
        problems += missing_columns(tree, columns)
    return problems, errors


def _named(tree: Tree, folder: Path) -> Iterator[_Named]:
    for at, source in tree.items("data", "sources"):
        path = source if isinstance(source, str) else tree.get(*at, "path")
        if isinstance(path, str) and path:
            said = None if isinstance(source, str) else tree.get(*at, "format")
            format_ = said if said is not None else FORMATS.get(PurePosixPath(path).suffix.lower())
            yield _Named(at, (folder / path).absolute(), format_)


def _why_no_file(path: Path) -> str | None:
    if os.path.isfile(path):  # noqa: PTH113  (unlike Path.is_file it says no to names that are too long)
        return None
    if os.path.isdir(path):  # noqa: PTH112  (as above)
        return "is a directory"
    try:
        path.lstat()
    except FileNotFoundError:
        return f"there is no file {path}"
    except (OSError, ValueError) as error:
        return f"cannot be opened: {getattr(error, 'strerror', None) or error}"
    return "is no regular file"
