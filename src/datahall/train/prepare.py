"""The first step of every fitted pipeline: fill gaps, scale numbers, spread categories; fitted on training rows only."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np

from datahall.core.errors import UserError
from datahall.core.records import Column
from datahall.engines.encode import CODE_MISSING


def build_preparation(features: tuple[Column, ...], columns: tuple[str, ...] | None, *, scaled: bool) -> Any:
    """Return an unfitted ColumnTransformer over the encoded matrix, restricted to `columns` where given.

    Numbers: the training median for missing values. Booleans: the commoner value. Categories: one column each, all
    zero for a category that training never saw; a nullable column has one more, for missing.

    Raises UserError for a name in `columns` that is no feature, or for none at all.
    """
    from sklearn.compose import ColumnTransformer  # noqa: PLC0415  (heavy, only to fit)

    chosen = chosen_places(features, columns)
    groups = {kind: [i for i in chosen if features[i].kind == kind] for kind in ("number", "boolean", "category")}
    steps: list[tuple[str, Any, list[int]]] = []
    if groups["number"]:
        steps.append(("numbers", _numbers(scaled=scaled), groups["number"]))
    if groups["boolean"]:
        steps.append(("booleans", _filled("most_frequent"), groups["boolean"]))
    if groups["category"]:
        steps.append(("categories", _spread([features[i] for i in groups["category"]]), groups["category"]))
    return ColumnTransformer(steps, remainder="drop", sparse_threshold=0.0)


def chosen_places(features: tuple[Column, ...], columns: tuple[str, ...] | None) -> list[int]:
    """Return where the features in `columns` stand, all of them for None.

    Raises UserError for a name that is no feature, or for none at all.
    """
    names = [column.name for column in features]
    for name in columns or ():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"features are: {', '.join(names[:10])}"
            raise UserError(f"'{name}' is no feature of this table", where="columns", hint=hint)
    chosen = [i for i, name in enumerate(names) if columns is None or name in columns]
    if not chosen:
        raise UserError("a model needs at least one feature", where="columns")
    return chosen


def _filled(strategy: str) -> Any:
    from sklearn.impute import SimpleImputer  # noqa: PLC0415  (heavy, only to fit)

    # keep_empty_features: a column without a single value becomes 0, rather than shifting all columns behind it.
    return SimpleImputer(strategy=strategy, keep_empty_features=True)


def _numbers(*, scaled: bool) -> Any:
    if not scaled:
        return _filled("median")
    from sklearn.pipeline import Pipeline  # noqa: PLC0415  (heavy, only to fit)
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415  (as above)

    return Pipeline([("fill", _filled("median")), ("scale", StandardScaler())])


def _spread(columns: list[Column]) -> Any:
    from sklearn.preprocessing import OneHotEncoder  # noqa: PLC0415  (heavy, only to fit)

    # A column that has no missing values in training gets no weight for them: it would be a random one in a network.
    codes = [np.arange(CODE_MISSING if column.nullable else 0.0, len(column.categories)) for column in columns]
    return OneHotEncoder(categories=codes, handle_unknown="ignore", sparse_output=False)
