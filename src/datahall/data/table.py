"""Turns raw rows into the typed table of an application: features, target, groups, and whose row each is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from datahall.core.errors import DataError
from datahall.core.records import Column, ColumnKind, Task
from datahall.data.kinds import Typed, convert, kind_of, text_of, trouble_with
from datahall.data.read import RawRows
from datahall.data.rules import Breach, breaches_of, contract_error
from datahall.spec.schema import ColumnContract, DataSection

MIN_CLASS_ROWS = 10
MAX_CLASSES = 100
MAX_GROUPS = 20


@dataclass(frozen=True)
class Table:
    """The rows that keep the contract, in final types; `groups` holds the sensitive columns as text.

    `subjects` is the subject of each row as text, None where the application declares no subject.
    """

    features: pl.DataFrame
    kinds: dict[str, ColumnKind]
    target: pl.Series
    groups: pl.DataFrame
    subjects: pl.Series | None
    num_dropped: int

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.target)


def columns_used(section: DataSection, available: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that must be read: all but the ignored ones that have no contract either."""
    named = [section.target, *([section.subject] if section.subject else []), *section.sensitive, *section.columns]
    features = section.features_of(tuple(available))
    return tuple(dict.fromkeys([*features, *named, *(name for name in section.ignore if name not in available)]))


def make_table(raw: RawRows, section: DataSection, task: Task) -> Table:
    """Type every column, check the contract, and leave broken rows out where the application says so.

    Raises DataError that lists every column that no model can use, or shows the rows that break the contract.
    """
    features = section.features_of(tuple(raw.frame.columns))
    typed = type_columns(raw, section, task)
    _refuse_useless(raw, typed, features, section)
    breaches = find_breaches(typed, section)
    if breaches and section.on_broken == "stop":
        raise contract_error(breaches, raw)
    keep = np.ones(raw.frame.height, dtype=bool)
    for breach in breaches:
        keep[breach.rows] = False
    if not keep.any():
        raise contract_error(breaches, raw)
    mask = pl.Series(keep)
    values = {name: column.values.filter(mask) for name, column in typed.items()}
    table = Table(
        features=pl.DataFrame([values[name] for name in features]),
        kinds={name: typed[name].kind for name in features},
        target=values[section.target],
        groups=pl.DataFrame([text_of(values[name]) for name in section.sensitive]),
        subjects=values[section.subject] if section.subject else None,
        num_dropped=int((~keep).sum()),
    )
    _check_target(table, task)
    _check_groups(table)
    return table


def type_columns(raw: RawRows, section: DataSection, task: Task) -> dict[str, Typed]:
    """Return every column that was read in its final type."""
    return {name: _typed(raw.frame[name], name, section, task) for name in raw.frame.columns}


def find_breaches(typed: dict[str, Typed], section: DataSection) -> list[Breach]:
    """Return what breaks the contract; target and subject may never be missing."""
    needed = {section.target, section.subject}
    return [
        breach
        for name, column in typed.items()
        for breach in breaches_of(name, column, _contract(section, name), required=name in needed)
    ]


def useless_features(raw: RawRows, typed: dict[str, Typed], section: DataSection) -> dict[str, str]:
    """Return the features that no model can use: why, and after a semicolon what to do about it."""
    troubles = {}
    for name in section.features_of(tuple(raw.frame.columns)):
        declared = _contract(section, name).kind is not None
        if trouble := trouble_with(raw.frame[name], typed[name], declared=declared):
            troubles[name] = trouble
    return troubles


def column_of(name: str, kind: ColumnKind, everywhere: pl.Series, seen: pl.Series) -> Column:
    """Return the Column: categories from the `seen` values, nullable where any value `everywhere` is missing."""
    categories = tuple(sorted(seen.drop_nulls().unique())) if kind == "category" else ()
    return Column(name=name, kind=kind, categories=categories, nullable=everywhere.null_count() > 0)


def _typed(raw: pl.Series, name: str, section: DataSection, task: Task) -> Typed:
    if name == section.subject:
        return convert(raw, "category")
    if name == section.target:
        return _typed_target(raw, task)
    return convert(raw, _contract(section, name).kind or kind_of(raw))


def _typed_target(raw: pl.Series, task: Task) -> Typed:
    if task == "regression":
        return convert(raw, "number")
    kind = kind_of(raw)
    if kind == "category":
        return convert(raw, kind)
    found = convert(raw, kind)  # through the kind, so that 1, 1.0 and "1" are one class
    text = text_of(found.values)
    if len(found.bad):  # a label that is no number is a class like any other
        text = text_of(raw)
    return Typed("category", text, np.array([], dtype=np.int64))


def _contract(section: DataSection, name: str) -> ColumnContract:
    return section.columns.get(name) or ColumnContract()


def _refuse_useless(raw: RawRows, typed: dict[str, Typed], features: Sequence[str], section: DataSection) -> None:
    troubles = [f"column '{name}' {trouble}" for name, trouble in useless_features(raw, typed, section).items()]
    for name, contract in section.columns.items():
        if (contract.min is not None or contract.max is not None) and typed[name].kind != "number":
            troubles.append(f"column '{name}' holds no numbers, so min and max cannot be checked")
    if not features:
        troubles.append("no column is left for the models: all are target, subject, sensitive or ignored")
    if len(troubles) == 1:
        what, _, hint = troubles[0].partition("; ")
        raise DataError(what, where=raw.tables[0].name, hint=hint)
    if troubles:
        hint = "\n  ".join(troubles[:20])
        raise DataError(f"{len(troubles)} columns cannot be used", where=raw.tables[0].name, hint=hint)


def _check_target(table: Table, task: Task) -> None:
    name, where = table.target.name, "data.target"
    distinct = table.target.n_unique()
    if distinct < 2:
        raise DataError(f"every row has the same '{name}', so there is nothing to learn", where=where)
    if task == "regression":
        return
    if distinct > MAX_CLASSES:
        hint = "for a number to be predicted say task: regression; else group the classes"
        raise DataError(f"'{name}' has {distinct:,} different classes; at most {MAX_CLASSES}", where=where, hint=hint)
    counts = dict(table.target.value_counts(sort=True).iter_rows())
    small = sorted(label for label, count in counts.items() if count < MIN_CLASS_ROWS)
    if small:
        shown = ", ".join(f"'{label}' ({counts[label]})" for label in small[:8])
        raise DataError(
            f"{len(small)} of {distinct} classes of '{name}' have fewer than {MIN_CLASS_ROWS} rows",
            where=where,
            hint=f"bring more rows, or merge or leave out rare classes: {shown}",
        )


def _check_groups(table: Table) -> None:
    for group in table.groups:
        if group.drop_nulls().n_unique() > MAX_GROUPS:
            raise DataError(
                f"the sensitive column '{group.name}' has {group.n_unique():,} different values",
                where="data.sensitive",
                hint=f"fairness is measured over at most {MAX_GROUPS} groups: put it into bands, such as age 18-29",
            )
