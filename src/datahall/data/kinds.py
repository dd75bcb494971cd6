"""Decides what a raw column holds (number, category, boolean) and turns it into that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from datahall.core.records import ColumnKind

MISSING_WORDS = ("NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "?")
"""Read as missing in a column whose other values are numbers; plain text in every other column."""

MAX_CATEGORIES = 1_000
_FEW = 30  # so many different texts are categories, however few the rows
_EXACT = 2**53  # beyond this a float64 skips whole numbers
_DATE = r"^\d{4}-\d{1,2}-\d{1,2}([T ].*)?$|^\d{1,2}[./]\d{1,2}[./]\d{2,4}$"
_WRITTEN = r"^[-+]?(\p{Sc}\s?)?(\d{1,3}([,.' ]\d{3})+|\d+)([.,]\d+)?(\s?(\p{Sc}|%))?$"  # 1,234.50 or $12 or 3 %
_SIGNS = r"[,.' %]|\p{Sc}"
_ID_NAME = r"(?i)^(id|uuid|guid|index|idx|row|row_?(id|nr|no|num(ber)?)|key|pk|unnamed.*)$|_(id|uuid|guid|key)$"


@dataclass(frozen=True)
class Typed:
    """A column in its final type: Float64, String or Boolean; `bad` are the rows whose value would not fit."""

    kind: ColumnKind
    values: pl.Series
    bad: np.ndarray


def kind_of(raw: pl.Series) -> ColumnKind:
    """Return what a raw column holds.

    Text is boolean if all of it says true or false; numbers if at least half of it reads as numbers (the rest is
    then reported as broken) and none has a leading zero, as postal codes do; else categories.
    """
    if raw.dtype == pl.Boolean:
        return "boolean"
    if raw.dtype != pl.String:
        return "number"
    texts = _texts(raw).drop_nulls()
    texts = texts.filter(~texts.is_in(MISSING_WORDS))
    if not len(texts):
        return "category"
    if texts.str.to_lowercase().is_in(("true", "false")).all():
        return "boolean"
    numbers = texts.cast(pl.Float64, strict=False).is_not_null()
    if numbers.sum() * 2 < len(texts) or texts.filter(numbers).str.contains(r"^[+-]?0\d").any():
        return "category"
    return "number"


def convert(raw: pl.Series, kind: ColumnKind) -> Typed:
    """Return `raw` as `kind`; what does not fit becomes missing and is listed in `bad`."""
    if kind == "category":
        return Typed(kind, text_of(raw), np.array([], dtype=np.int64))
    given = _texts(raw) if raw.dtype == pl.String else raw
    if raw.dtype == pl.String:
        given = given.set(given.is_in(MISSING_WORDS).fill_null(value=False), None)
    elif raw.dtype == pl.Float64:
        given = given.fill_nan(None)
    values = _numbers(given) if kind == "number" else _booleans(given)
    bad = given.is_not_null() & values.is_null()
    return Typed(kind, values.alias(raw.name), np.flatnonzero(bad.to_numpy()))


def text_of(raw: pl.Series) -> pl.Series:
    """Return `raw` as text: white space around it cut, empty text missing, 1.0 as `1`, booleans as `true`, `false`."""
    if raw.dtype == pl.String:
        return _texts(raw)
    if raw.dtype == pl.Float64:
        raw = raw.fill_nan(None)
        whole = raw.drop_nulls()
        if ((whole == whole.round()) & (whole.abs() <= _EXACT)).all():
            raw = raw.cast(pl.Int64)
    return raw.cast(pl.String)


def trouble_with(raw: pl.Series, typed: Typed, *, declared: bool) -> str | None:
    """Return why a column cannot be a feature and what to do about it, None if it can.

    A kind declared in the contract says "I know", so only what no model could use is then refused.
    """
    values = typed.values.drop_nulls()
    if not len(values):  # where all are misfits, the contract says so with their rows
        return None if len(typed.bad) else "has no value at all; leave it out with ignore"
    if typed.kind == "number":
        return _number_trouble(raw, values, declared=declared)
    return _category_trouble(values, declared=declared) if typed.kind == "category" else None


def _category_trouble(values: pl.Series, *, declared: bool) -> str | None:
    num_distinct = values.n_unique()
    if not declared and values.head(200).str.contains(_DATE).all():
        return "holds dates; turn it into a number, such as days since a fixed day, or leave it out with ignore"
    too_many = num_distinct > MAX_CATEGORIES
    texts_of_their_own = not declared and num_distinct > _FEW and num_distinct * 2 > len(values)
    head = values.head(200).str
    if (too_many or texts_of_their_own) and head.contains(_WRITTEN).all() and head.contains(_SIGNS).any():
        what = "holds numbers written for people, with separators or signs"
        return f"{what}; write them plainly, such as 1234.5, or leave it out with ignore"
    if too_many:
        return f"has {num_distinct:,} different texts; group them, or leave it out with ignore"
    if texts_of_their_own:
        what = "almost every row has a text of its own" if num_distinct < len(values) else "each row has its own text"
        return f"looks like free text or a name ({what}); leave it out with ignore, or declare kind: category"
    return None


def _number_trouble(raw: pl.Series, values: pl.Series, *, declared: bool) -> str | None:
    large = values.filter(values.is_finite() & (values.abs() > _EXACT))
    if len(large) and (raw.dtype.is_integer() or _texts(raw.cast(pl.String)).str.contains(r"^[+-]?\d{16,}$").any()):
        return "has whole numbers beyond 2^53, which no model sees exactly; leave it out with ignore"
    if declared or len(values) < len(raw) or len(values) <= _FEW or values.n_unique() < len(values):
        return None
    if not values.is_finite().all() or not (values == values.round()).all():
        return None
    named = pl.Series([raw.name]).str.contains(_ID_NAME).item()
    counted = float(values.max()) - float(values.min()) == len(values) - 1  # type: ignore[arg-type]
    if named or counted:
        return "numbers the rows, so it tells nothing about a new one; leave it out with ignore, or declare its kind"
    return None


def _texts(raw: pl.Series) -> pl.Series:
    texts = raw.str.strip_chars()
    return texts.set(texts == "", None)


def _numbers(given: pl.Series) -> pl.Series:
    if given.dtype == pl.Boolean:
        return given.cast(pl.Float64)
    values = given.cast(pl.Float64, strict=False)
    values = values.fill_nan(None)
    return values.set(values == 0, 0.0)  # -0.0 and 0.0 become the same bytes (polars skips an added zero)


def _booleans(given: pl.Series) -> pl.Series:
    if given.dtype == pl.Boolean:
        return given
    words = text_of(given).str.to_lowercase()
    yes, no = words.is_in(("true", "1", "yes")), words.is_in(("false", "0", "no"))
    return pl.select(pl.when(yes).then(True).when(no).then(False).otherwise(None)).to_series()
