"""Holds the rows of a section's sources against all that the data step will demand of them, without storing anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datahall.core.records import Task
from datahall.data.parts import divide
from datahall.data.read import RawRows, all_columns, read_source, stack
from datahall.data.table import Table, columns_used, make_table
from datahall.spec.schema import DataSection


def rehearse(paths: Sequence[Path], section: DataSection, task: Task) -> Table:
    """Return the table that a run would make of the sources at `paths`, in the order of the application file.

    Raises DataError that names file, row and column, as the data step would.
    """
    read = [read_source(path, source.format, source.path) for path, source in zip(paths, section.sources, strict=True)]
    tables, records = [table for table, _ in read], [record for _, record in read]
    return rehearse_rows(stack(tables, records, columns_used(section, all_columns(tables))), section, task)


def rehearse_rows(raw: RawRows, section: DataSection, task: Task) -> Table:
    """Return the table that a run would make of rows that were read already. Raises DataError as `rehearse` does."""
    return divide(make_table(raw, section, task), section, task)[0]
