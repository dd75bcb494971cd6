"""Guesses from a file's names and values what an application over it would say, and gives a reason for each guess."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl

from datahall.core.errors import DataError
from datahall.core.records import Source, Task
from datahall.data.formats.base import RawTable
from datahall.data.header import doubt_header
from datahall.data.kinds import Typed, convert, kind_of, text_of, trouble_with
from datahall.data.read import check_file, read_source, stack
from datahall.data.rehearse import rehearse_rows
from datahall.data.table import (
    MAX_CLASSES,
    MAX_GROUPS,
    columns_used,
    find_breaches,
    type_columns,
    useless_features,
)
from datahall.spec.schema import FORMATS, DataSection

MAX_ROWS = 10_000
_FEW_ROWS = 200
_WAY_ON = "turn dates into numbers (days since a fixed day), write numbers plainly (1234.5), or bring another column"
_MAX_BAD_SHARE = 0.1  # of a column; with more of it the column is left out, with less the rows are
_MAX_WHOLE_CLASSES = 20  # more different numbers than this are a quantity, not classes

_TARGETS = [
    "target",
    "label",
    "class",
    "y",
    "outcome",
    "diagnosis",
    "approved",
    "default",
    "defaulted",
    "churn",
    "churned",
    "survived",
    "fraud",
    "is_fraud",
    "response",
    "result",
    "species",
    "quality",
    "digit",
    "price",
    "sales",
    "revenue",
    "cost",
    "demand",
    "salary",
    "score",
    "rating",
]
_PERSONS = [
    "patient",
    "customer",
    "client",
    "person",
    "subject",
    "user",
    "member",
    "applicant",
    "borrower",
    "employee",
    "student",
    "citizen",
    "account",
    "household",
]
_SENSITIVE = [
    "sex",
    "gender",
    "race",
    "ethnicity",
    "ethnic_group",
    "religion",
    "nationality",
    "disability",
    "age_group",
    "age_band",
    "marital_status",
    "sexual_orientation",
    "pregnant",
    "migrant",
    "region_of_birth",
    "age",
]
_PERSON = re.compile(rf"(?:^|_)(?:{'|'.join(_PERSONS)})s?(?:_?(?:id|no|nr|num|number|key|code))?$")
_ID = re.compile(r"(?:^|_)(?:id|uuid|guid)$")


@dataclass
class Guess:
    """What was guessed, one sentence of why for each guess, and notes on what a run would stumble over."""

    target: str
    task: Task
    subject: str | None = None
    sensitive: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    on_broken: Literal["stop", "drop"] = "stop"
    reasons: list[str] = field(default_factory=list)


def guess(path: Path) -> Guess:
    """Look at up to 10,000 rows, evenly spaced over the file, and return what an application file could say.

    The guess is then held against every row, as a run would do it: what no model can use is ignored, rows that would
    stop the run are dropped by `on_broken`, and what remains wrong becomes a note.

    Raises DataError where the file cannot be read, has no line of names, or holds nothing to learn from.
    """
    kind = FORMATS.get(path.suffix.lower(), "csv")
    check_file(path, path.name)
    doubt = doubt_header(path) if kind == "csv" else None
    table, source = read_source(path, kind, path.name)
    frame = table.frame.gather_every(-(-table.frame.height // MAX_ROWS))
    if len(table.columns) < 2 or not frame.width:
        raise DataError("there is one column only", where=path.name, hint="a target and one feature are the least")
    reasons = [f"note: {doubt}"] if doubt else []
    subject = _subject(frame, reasons)
    sensitive = _sensitive(frame, subject, reasons)
    taken = {subject, *sensitive}
    typed = {name: convert(frame[name], kind_of(frame[name])) for name in frame.columns if name not in taken}
    target = _target(frame, typed, reasons)
    task = _task(typed.pop(target), target, reasons)
    ignore = _ignore(frame, typed, reasons)
    for name, error in table.refused.items():
        reasons.append(f"ignore: {name}, because {error.what}")
    found = Guess(target, task, subject, sensitive, (*ignore, *table.refused), reasons=reasons)
    _hold_against_rows(found, table, source)
    return found


def _hold_against_rows(found: Guess, table: RawTable, source: Source) -> None:
    """Correct the guess by every row of the table. Raises DataError where nothing is left to learn from."""
    section = _section(found, source.name)
    raw = stack([table], [source], columns_used(section, table.columns))
    typed = type_columns(raw, section, found.task)
    features = set(section.features_of(tuple(raw.frame.columns)))
    troubles = useless_features(raw, typed, section)
    troubles |= _misfits({name: typed[name] for name in raw.frame.columns if name in features - set(troubles)})
    for name, trouble in troubles.items():
        found.reasons.append(f"ignore: {name}, because it {trouble.split(';')[0]}")
    found.ignore += tuple(troubles)
    if not features - set(troubles):
        lines = [reason.removeprefix("ignore: ") for reason in found.reasons if reason.startswith("ignore: ")]
        what = f"beside {found.target} no column is left that a model could learn from"
        raise DataError(what, where=source.name, hint="\n  ".join([*lines, _WAY_ON]))
    section = _section(found, source.name)
    raw = stack([table], [source], columns_used(section, table.columns))
    if breaches := find_breaches(type_columns(raw, section, found.task), section):
        found.on_broken = "drop"
        num_rows = len({int(row) for breach in breaches for row in breach.rows})
        rules = ", ".join(f"{breach.column} {breach.rule} in {len(breach.rows):,}" for breach in breaches[:8])
        found.reasons.append(
            f"on_broken: drop, because a run would stop at {num_rows:,} of {source.num_rows:,} rows: {rules}"
        )
    try:
        num_rows = rehearse_rows(raw, _section(found, source.name), found.task).num_rows
    except DataError as error:
        found.reasons.append(f"note: a run would stop at these rows: {error.what}; {' '.join(error.hint.split())}")
        return
    if num_rows < _FEW_ROWS:
        found.reasons.append(f"note: {num_rows} rows are few: the gate will hardly be sure of anything, and say so")


def _section(found: Guess, name: str) -> DataSection:
    said: dict[str, Any] = {"sources": [{"path": name, "format": "csv"}], "target": found.target}
    said |= {"subject": found.subject, "sensitive": found.sensitive, "ignore": found.ignore}
    return DataSection.model_validate({**said, "on_broken": found.on_broken})


def _misfits(typed: dict[str, Typed]) -> dict[str, str]:
    """Return the columns of which so much does not fit that dropping those rows would cost more than the column."""
    return {
        name: f"has {len(column.bad):,} values that are no {column.kind}"
        for name, column in typed.items()
        if len(column.bad) > _MAX_BAD_SHARE * len(column.values)
    }


def _subject(frame: pl.DataFrame, reasons: list[str]) -> str | None:
    """Prefer a column named after a person; else an id whose values come back."""
    for name in frame.columns:
        num_distinct = frame[name].n_unique()
        if _PERSON.search(_plain(name)) and num_distinct > MAX_GROUPS and not _is_measure(frame[name]):
            reasons.append(f"subject: {name}, because its name says whose data a row is")
            return name
    for name in frame.columns:
        num_distinct = frame[name].n_unique()
        if _ID.search(_plain(name)) and MAX_GROUPS < num_distinct < frame.height and not _is_measure(frame[name]):
            reasons.append(
                f"subject: {name}, because it is an id whose {num_distinct:,} values come back in other rows"
            )
            return name
    return None


def _sensitive(frame: pl.DataFrame, subject: str | None, reasons: list[str]) -> tuple[str, ...]:
    found = []
    for name in frame.columns:
        if name == subject or not set(_parts(name)) & set(_SENSITIVE):
            continue
        if text_of(frame[name]).drop_nulls().n_unique() > MAX_GROUPS:
            reasons.append(
                f"{name} sounds sensitive but has too many values for groups: make bands of it, then list it"
            )
            continue
        reasons.append(f"sensitive: {name}, because of its name; models do not see it, fairness is measured over it")
        found.append(name)
    return tuple(found)


def _target(frame: pl.DataFrame, typed: dict[str, Typed], reasons: list[str]) -> str:
    """Take the first known name that can be a target, a whole name before a part of one; else the last column."""
    usable = [name for name in frame.columns if name in typed and _can_be_target(typed[name])]
    for wanted in _TARGETS:
        for name in usable:
            if _plain(name) == wanted:
                reasons.append(f"target: {name}, because of its name")
                return name
    for wanted in _TARGETS:
        for name in usable:
            if len(wanted) > 1 and _plain(name).endswith(f"_{wanted}"):
                reasons.append(f"target: {name}, because its name ends in '{wanted}'")
                return name
    if not usable:
        raise DataError(
            "no column could be a target",
            where="target",
            hint=f"a target is a number, or one of at most {MAX_CLASSES} classes; name it yourself in the application file",
        )
    plain = [name for name in usable if trouble_with(frame[name], typed[name], declared=False) is None] or usable
    reasons.append(f"target: {plain[-1]}, the last column that could be one (no name told more)")
    return plain[-1]


def _can_be_target(column: Typed) -> bool:
    num_distinct = column.values.drop_nulls().n_unique()
    return 2 <= num_distinct <= (MAX_CLASSES if column.kind == "category" else len(column.values))


def _task(column: Typed, name: str, reasons: list[str]) -> Task:
    values = column.values.drop_nulls()
    if column.kind == "number":
        whole = bool((values == values.round()).all())
        if not whole or values.n_unique() > _MAX_WHOLE_CLASSES:
            reasons.append(f"task: regression, because {name} has {values.n_unique():,} different numbers")
            return "regression"
    reasons.append(f"task: classification, because {name} has {values.n_unique()} different values")
    return "classification"


def _ignore(frame: pl.DataFrame, typed: dict[str, Typed], reasons: list[str]) -> tuple[str, ...]:
    found = []
    for name, column in typed.items():
        trouble = trouble_with(frame[name], column, declared=False)
        if trouble is None and column.values.n_unique() == 1:
            trouble = "has the same value in every row"
        if trouble is None and _ID.search(_plain(name)) and column.values.n_unique() == frame.height:
            trouble = "is an id of its own in every row"
        if trouble:
            reasons.append(f"ignore: {name}, because it {trouble.split(';')[0]}")
            found.append(name)
    return tuple(found)


def _is_measure(series: pl.Series) -> bool:
    """Whether the values are fractions, which name nobody."""
    typed = convert(series, kind_of(series))
    return typed.kind == "number" and not bool((typed.values == typed.values.round()).all())


def _plain(name: str) -> str:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


def _parts(name: str) -> list[str]:
    """Return the words of a name and the name itself as the last: `applicant_sex` is about `sex`."""
    plain = _plain(name)
    return [*plain.split("_"), plain]
