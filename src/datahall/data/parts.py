"""Divides a table's rows into train, validation and holdout, and refuses parts on which nothing could be proven."""

from __future__ import annotations

import numpy as np
import polars as pl

from datahall.core.errors import DataError
from datahall.core.records import Task
from datahall.data.split import PARTS, Units, assign, order, units_of_rows, units_of_subjects
from datahall.data.table import Table
from datahall.spec.schema import DataSection

_MIN_ROWS_FOR_SHARES = 200


def divide(table: Table, section: DataSection, task: Task) -> tuple[Table, np.ndarray]:
    """Return the table in the order that does not depend on its files, and each row's part as an index into PARTS.

    Raises DataError where a part is empty, far from its share, or lacks a class.
    """
    units = _units(table, section)
    table, units = _sorted(table, units)
    parts = assign(units, holdout=section.split.holdout, validation=section.split.validation)
    _check_parts(table, units, parts, section, classes=task == "classification")
    return table, parts


def _units(table: Table, section: DataSection) -> Units:
    if table.subjects is not None:
        return units_of_subjects(table.subjects, section.split.seed)
    return units_of_rows(table.features, section.split.seed)


def _sorted(table: Table, units: Units) -> tuple[Table, Units]:
    """Put the rows into the order that does not depend on the files, so that equal rows make equal parts."""
    content = table.features.rename({name: f"feature\x1f{name}" for name in table.features.columns})
    groups = table.groups.rename({name: f"group\x1f{name}" for name in table.groups.columns})
    everything = content.with_columns(table.target.alias("target"), *groups)
    places = order(units, everything)
    rows = pl.Series(places)
    subjects = table.subjects.gather(rows) if table.subjects is not None else None
    moved = Table(
        table.features[places],
        table.kinds,
        table.target.gather(rows),
        table.groups[places] if table.groups.width else table.groups,
        subjects,
        table.num_dropped,
    )
    return moved, Units(units.names[places])


def _check_parts(table: Table, units: Units, parts: np.ndarray, section: DataSection, *, classes: bool) -> None:
    sizes = units.sizes()
    whose = "data subjects" if table.subjects is not None else "different rows"
    split = section.split
    asked = {"holdout": split.holdout, "validation": split.validation, "train": 1 - split.holdout - split.validation}
    hint = "bring more rows, or change the shares or the seed in data.split"
    for index, part in enumerate(PARTS):
        chosen = parts == index
        if not chosen.any():
            raise DataError(f"no row falls into the {part} part", where="data.split", hint=hint)
        if table.num_rows >= _MIN_ROWS_FOR_SHARES and not 0.5 < chosen.mean() / asked[part] < 2:
            what = (
                f"the {part} part gets {chosen.mean():.0%} of the rows instead of {asked[part]:.0%}: there are only "
                f"{len(sizes):,} {whose}, the largest has {sizes.max():,} rows, and none may be on both sides"
            )
            apart = (
                "" if table.subjects is not None else "; where each row is a case of its own, name its id as subject"
            )
            raise DataError(what, where="data.split", hint=hint + apart)
        lacking = (
            set(table.target.unique()) - set(table.target.filter(pl.Series(chosen)).unique()) if classes else set()
        )
        if lacking:
            shown = ", ".join(f"'{label}'" for label in sorted(lacking)[:8])
            raise DataError(f"the {part} part has no row of class {shown}", where="data.split", hint=hint)
