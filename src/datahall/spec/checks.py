"""Checks what no single key can tell: keys that contradict each other, and columns that a table does not have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from datahall.core.errors import Problem
from datahall.spec.explain import nearest, one_of, quote, show
from datahall.spec.schema import SEARCH_METRICS
from datahall.spec.tree import KeyPath, Tree

LATENCY_CLAIM = "latency"
"""The kind of claim whose evidence holds for one class of machine."""


def contradictions(tree: Tree) -> list[Problem]:
    """Return the problems between keys of the raw file; keys that are already bad are passed over."""
    return [*_sources(tree), *_roles(tree), *_contracts(tree), *_split(tree), *_train(tree), *_protocols(tree)]


def missing_columns(tree: Tree, columns: tuple[str, ...]) -> list[Problem]:
    """Return the problems of names in the file that are no column of a table with `columns`, or no feature of it."""
    target, contracts, candidates = (
        tree.get(*path) for path in (("data", "target"), ("data", "columns"), ("train", "candidates"))
    )
    named = [*_names(tree, "data", "sensitive"), *_names(tree, "data", "ignore")]
    for key in ("subject", "target"):
        if isinstance(name := tree.get("data", key), str):
            named.insert(0, (("data", key), name))
    problems = [_no_column(tree, path, name, columns) for path, name in named if name not in columns]
    problems += [
        _no_column(tree, ("data", "columns", name), name, columns, at_key=True)
        for name in (contracts if isinstance(contracts, dict) else {})
        if name not in columns and not tree.is_bad(("data", "columns", name))
    ]
    seen = [name for path, name in named if path[1] == "sensitive"] if tree.get("data", "use_sensitive") is True else []
    hidden = {name for _, name in named} - set(seen)
    features = tuple(name for name in columns if name not in hidden)
    if not problems and not features and target is not None:
        what, expected = "leaves no column for models to see", "a column that is not hidden"
        problems.append(tree.problem(("data",), what, expected=expected, at_key=True))
    for candidate in candidates if isinstance(candidates, dict) else {}:
        for path, feature in _names(tree, "train", "candidates", candidate, "columns"):
            if feature not in features:
                problems.append(_no_column(tree, path, feature, features))
    return problems


def without_effect(tree: Tree, candidates: dict[str, Any], claims: list[dict[str, Any]]) -> list[Problem]:
    """Return the problems of keys that are right in themselves, but change nothing with these candidates and claims."""
    problems = []
    bad = [path[:2] for path in tree.bad]
    searches = any(candidate["search"] is not None for candidate in candidates.values())
    if tree.get("train", "metric") is not None and not searches and ("train", "candidates") not in bad:
        expected = "search: {trials: ...} in a candidate, or no metric"
        problems.append(tree.problem(("train", "metric"), "has no effect: no candidate searches", expected=expected))
    measured = any(claim["kind"] == LATENCY_CLAIM for claim in claims)
    if tree.get("evaluate", "node_class") is not None and not measured and ("evaluate", "claims") not in bad:
        what = "has no effect: no claim measures latency"
        expected = f"a claim of kind {LATENCY_CLAIM}, or no node_class"
        problems.append(tree.problem(("evaluate", "node_class"), what, expected=expected))
    return problems


def _names(tree: Tree, *path: str) -> list[tuple[KeyPath, str]]:
    """Return the names in the list at `path`; what stands there may be anything, for a kind unknown checks nothing."""
    if not isinstance(tree.get(*path), list):
        return []
    return [(at, name) for at, name in tree.items(*path) if isinstance(name, str)]


def _no_column(tree: Tree, path: KeyPath, name: str, columns: tuple[str, ...], *, at_key: bool = False) -> Problem:
    shown = one_of(columns) if 0 < len(columns) <= 12 else f"one of the {len(columns)} that there are"
    return tree.problem(
        path, f"there is no column {quote(name)}", expected=shown, nearest=nearest(name, columns), at_key=at_key
    )


def _sources(tree: Tree) -> Iterator[Problem]:
    seen: set[str] = set()
    for path, source in tree.items("data", "sources"):
        name = source if isinstance(source, str) else tree.get(*path, "path")
        if name is None:
            continue
        if name in seen:
            yield tree.problem(path, f"names {quote(name)} a second time", expected="each file once")
        seen.add(name)


def _roles(tree: Tree) -> Iterator[Problem]:
    """A column has one role: a second one would silently win or lose."""
    roles: dict[str, str] = {}
    places: list[tuple[KeyPath, Any]] = [
        (("data", key), tree.get("data", key)) for key in ("target", "subject") if tree.get("data", key) is not None
    ]
    places += [*tree.items("data", "sensitive"), *tree.items("data", "ignore")]
    for path, column in places:
        role = f"data.{path[1]}"
        first = roles.get(column)
        if first == role:
            yield tree.problem(path, f"names {quote(column)} a second time", expected="each column once")
        elif first is not None:
            yield tree.problem(path, f"{quote(column)} already is {first}", expected="another column")
        roles.setdefault(column, role)


def _contracts(tree: Tree) -> Iterator[Problem]:
    for name in tree.get("data", "columns", default={}):
        at: KeyPath = ("data", "columns", name)
        low, high, values = (tree.get(*at, key) for key in ("min", "max", "values"))
        kind = tree.get(*at, "kind")
        if low is not None and high is not None and low > high:
            yield tree.problem((*at, "min"), f"is {low:g}, more than max ({high:g})", expected=f"{high:g} at most")
        for key, limit in (("min", low), ("max", high)):
            if limit is not None and kind in {"category", "boolean"}:
                yield tree.problem((*at, key), f"is given for a {kind}", expected="kind: number, or no limit")
            elif limit is not None and values is not None:
                yield tree.problem((*at, key), "is given beside values", expected="a range or a list of values")
        if kind == "boolean" and values is not None:
            yield tree.problem((*at, "values"), "is given for a boolean", expected="kind: category, or no values")
        yield from _values(tree, at, kind)


def _values(tree: Tree, at: KeyPath, kind: str | None) -> Iterator[Problem]:
    seen: list[Any] = []
    for path, value in tree.items(*at, "values"):
        if kind == "number" and (isinstance(value, bool) or not isinstance(value, int | float)):
            yield tree.problem(path, f"is {show(value)}", expected="numbers, as kind says")
        elif any(value == other and type(value) is type(other) for other in seen):
            yield tree.problem(path, f"names {show(value)} a second time", expected="each value once")
        seen.append(value)


def _split(tree: Tree) -> Iterator[Problem]:
    at = ("data", "split")
    holdout, validation = tree.get(*at, "holdout", default=0.3), tree.get(*at, "validation", default=0.2)
    if tree.is_bad((*at, "holdout")) or tree.is_bad((*at, "validation")) or holdout + validation < 1:
        return
    key = "holdout" if tree.get(*at, "holdout") is not None else "validation"
    yield tree.problem(
        (*at, key),
        f"holdout ({holdout:g}) and validation ({validation:g}) leave no rows to train on",
        expected="a sum below 1",
    )


def _train(tree: Tree) -> Iterator[Problem]:
    task, metric = tree.get("task"), tree.get("train", "metric")
    if task not in SEARCH_METRICS:
        return
    if metric is not None and metric not in SEARCH_METRICS[task]:
        choices = SEARCH_METRICS[task]
        yield tree.problem(
            ("train", "metric"),
            f"there is no search metric {quote(metric)} for {task}",
            expected=one_of(choices),
            nearest=nearest(metric, choices),
        )
    if task == "regression" and tree.get("train", "threshold") is not None:
        yield tree.problem(("train", "threshold"), "is given for a regression", expected="task: classification")


def _protocols(tree: Tree) -> Iterator[Problem]:
    seen: set[str] = set()
    for path, protocol in tree.items("serve", "protocols"):
        if protocol in seen:
            yield tree.problem(path, f"names {protocol} a second time", expected="each protocol once")
        seen.add(protocol)
