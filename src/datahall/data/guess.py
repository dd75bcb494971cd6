"""Guesses from a file's names and values what an application over it would say, and gives a reason for each guess."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from datahall.core.errors import DataError
from datahall.core.records import Task
from datahall.data.kinds import Typed, convert, kind_of, text_of, trouble_with
from datahall.data.read import read_source
from datahall.data.table import MAX_CLASSES, MAX_GROUPS
from datahall.spec.schema import FORMATS

MAX_ROWS = 10_000
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


_KEYS = ("task", "target", "subject", "sensitive", "ignore")
_YAML_WORDS = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")  # YAML 1.1 reads these as other types


@dataclass
class Guess:
    """What was guessed, and one sentence of why for each guess."""

    target: str
    task: Task
    subject: str | None = None
    sensitive: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    reasons: list[str] = field(default_factory=list)


def guess(path: Path) -> Guess:
    """Look at up to 10,000 rows, evenly spaced over the file, and return what an application file could say.

    Raises DataError where the file cannot be read or has fewer than two columns.
    """
    suffix = path.suffix.lower()
    table, _ = read_source(path, FORMATS.get(suffix, "csv"), path.name)
    frame = table.frame.gather_every(-(-table.frame.height // MAX_ROWS))
    if len(table.columns) < 2 or not frame.width:
        raise DataError("there is one column only", where=path.name, hint="a target and one feature are the least")
    reasons: list[str] = []
    subject = _subject(frame, reasons)
    sensitive = _sensitive(frame, subject, reasons)
    taken = {subject, *sensitive}
    typed = {name: convert(frame[name], kind_of(frame[name])) for name in frame.columns if name not in taken}
    target = _target(frame, typed, reasons)
    task = _task(typed.pop(target), target, reasons)
    ignore = _ignore(frame, typed, reasons)
    for name, error in table.refused.items():
        reasons.append(f"ignore: {name}, because {error.what}")
    return Guess(target, task, subject, sensitive, (*ignore, *table.refused), reasons)


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
        raise DataError("no column could be a target", where="target", hint="name it yourself in the application file")
    reasons.append(f"target: {usable[-1]}, the last column that could be one (no name told more)")
    return usable[-1]


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


def app_file(source: Path, folder: Path, guessed: Guess) -> str:
    """Return the text of an application file in `folder` over the file `source` that says what was guessed, and why.

    Both paths are absolute. The source is named relative to the folder where it lies below it or beside it.
    """
    why = {word: [reason for reason in guessed.reasons if reason.startswith(f"{word}:")] for word in _KEYS}
    path = os.path.relpath(source, folder)
    place = path if path.count("..") <= 1 else str(source)
    suffix = source.suffix.lower()
    origin = _quote(place) if suffix in FORMATS else f"{{path: {_quote(place)}, format: csv}}"
    lines = [
        "# Guessed from the names and values of the columns: read it before you trust it.",
        "datahall: 1",
        f"name: {_app_name(source.stem)}",
        *_comments(why["task"]),
        f"task: {guessed.task}",
        "data:",
        f"  sources: [{origin}]",
        *_comments(why["target"], "  "),
        f"  target: {_quote(guessed.target)}",
    ]
    if guessed.subject:
        lines += [*_comments(why["subject"], "  "), f"  subject: {_quote(guessed.subject)}"]
    for key, names in (("sensitive", guessed.sensitive), ("ignore", guessed.ignore)):
        if names:
            lines += [*_comments(why[key], "  "), f"  {key}: [{', '.join(map(_quote, names))}]"]
    return "\n".join(lines) + "\n"


def _comments(reasons: list[str], indent: str = "") -> list[str]:
    return [f"{indent}# {' '.join(reason.partition(': ')[2].split())}" for reason in reasons]


def _quote(text: str) -> str:
    """Write text so that YAML reads it back as text, whatever it looks like; plain words stay plain."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", text) and text.lower() not in _YAML_WORDS:
        return text
    quoted = json.dumps(text, ensure_ascii=False)  # its escapes are YAML's, but for pairs of surrogates
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in quoted)


def _app_name(stem: str) -> str:
    name = re.sub(r"[^a-z0-9_]+", "-", stem.lower()).strip("-_")[:63]
    return name if name[:1].isalpha() else f"app-{name}".rstrip("-")[:63]
