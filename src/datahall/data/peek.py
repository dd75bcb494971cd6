"""Lists a source's columns without reading more of it than needed, so that a file can be checked before a run."""

from __future__ import annotations

from pathlib import Path

from datahall.core.errors import DataError
from datahall.data.formats import FORMATS
from datahall.data.read import check_file


def column_names(path: Path, format: str) -> list[str]:
    """Return the names of the columns in the file's order; for JSON the whole file is read.

    Raises DataError where the file cannot be opened or is not what `format` (csv, json, parquet) says.
    """
    check_file(path, path.name)
    try:
        return FORMATS.load(format).column_names(path)
    except OSError as error:
        raise DataError(
            f"the file cannot be read: {error.strerror}", where=path.name, hint="may you read it?"
        ) from error
