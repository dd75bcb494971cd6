"""Completes the claims of an application file: metric, bound, reason, one for each sensitive column."""

from __future__ import annotations

from typing import Any, cast

from pydantic import ValidationError

from datahall.core.errors import UserError
from datahall.core.records import Task
from datahall.spec.explain import explain, nearest, one_of, plain, quote
from datahall.spec.kinds import ClaimConfig, Kinds
from datahall.spec.schema import ClaimSection
from datahall.spec.tree import KeyPath, Tree

COMMON = ("kind", "metric", "at_least", "at_most", "confidence", "reason")
"""The keys that every claim has."""


def complete_claims(
    given: list[Any], tree: Tree, kinds: Kinds, *, task: Task | None, sensitive: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Return the claims with everything filled in; the problems of those that cannot be are reported to `tree`.

    `given` are the claims as they stand at `evaluate.claims`; what is already bad there is passed over.
    """
    done: list[dict[str, Any]] = []
    names: dict[str, int] = {}
    for number, claim in enumerate(given):
        at: KeyPath = ("evaluate", "claims", number)
        if tree.is_bad(at) or not isinstance(claim, dict):
            continue
        config = _config(claim, (*at, "kind"), tree, kinds)
        if config is None:
            continue
        for complete in _Claim(claim, at, tree, config=config, task=task, sensitive=sensitive).complete():
            name = complete["name"]
            if name in names:
                first = tree.place(("evaluate", "claims", names[name]))
                tree.report(
                    at, f"makes the claim {name} a second time", expected=f"one; the first is in line {first.line}"
                )
                continue
            names[name] = number
            done.append(complete)
    return done


def default_claims(kinds: Kinds, *, task: Task, sensitive: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the claims of an application that states none."""
    done: list[dict[str, Any]] = []
    for kind in kinds.claims.names:
        config = kinds.claims.load(kind)
        default = config.default(task) if task in config.TASKS else None
        if default is None or (config.PER_SENSITIVE and not sensitive):
            continue
        tree, claim = Tree("(default claims)"), {"kind": kind, **default}
        done += _Claim(claim, (kind,), tree, config=config, task=task, sensitive=sensitive).complete()
        assert not tree.problems, f"the default claim of {kind} does not hold: {tree.problems[0]}"
    return done


def _config(claim: dict[str, Any], path: KeyPath, tree: Tree, kinds: Kinds) -> type[ClaimConfig] | None:
    kind = claim.get("kind")
    if not isinstance(kind, str) or tree.is_bad(path):
        return None
    if kind not in kinds.claims:
        names = kinds.claims.names
        tree.report(path, f"there is no claim {quote(kind)}", expected=one_of(names), nearest=nearest(kind, names))
        return None
    try:
        return kinds.claims.load(kind)
    except UserError as error:
        tree.report(path, error.what, expected=error.hint)
        return None


class _Claim:
    """One claim on its way from the file to completeness."""

    def __init__(
        self,
        given: dict[str, Any],
        at: KeyPath,
        tree: Tree,
        *,
        config: type[ClaimConfig],
        task: Task | None,
        sensitive: tuple[str, ...],
    ) -> None:
        self.given, self.at, self.tree = given, at, tree
        self.config, self.task, self.sensitive = config, task, sensitive
        self.kind: str = given["kind"]

    def complete(self) -> list[dict[str, Any]]:
        """Return the claim, or one for each sensitive column; nothing where a problem was found."""
        before = len(self.tree.problems)
        settings = {key: value for key, value in self.given.items() if key not in COMMON}
        config = self._settings(settings)
        if self.task is None:
            return []
        if self.task not in self.config.TASKS:
            self._problem("kind", f"is a claim for {' and '.join(self.config.TASKS)}", f"one that suits {self.task}")
            return []
        self._take_default(self.task)
        metric = self._metric(self.task)
        base = None if metric is None else self._bound(metric)
        columns = self._columns(settings)
        if config is not None and metric is not None:
            for key, why in config.misfits(self.task, metric).items():
                if key in config.model_fields_set:
                    self._problem(key, why, "")
        if base is None or len(self.tree.problems) > before or any(self._is_bad(key) for key in COMMON):
            return []
        return [self._one(base, settings, column) for column in columns]

    def _settings(self, settings: dict[str, Any]) -> ClaimConfig | None:
        try:
            return self.config.model_validate(settings)
        except ValidationError as error:
            self.tree.problems += explain(error, self.tree, settings, root=self.config, at=self.at, keys=COMMON)
            return None

    def _take_default(self, task: Task) -> None:
        """Let a claim without a bound demand what the default claim of its kind demands, if the metric is the same."""
        default = self.config.default(task)
        stated = {key: value for key, value in self.given.items() if value is not None}
        if default is None or stated.keys() & {"at_least", "at_most"}:
            return
        metric = default.get("metric", self.config.DEFAULT_METRIC[task])
        if stated.get("metric", metric) == metric:
            self.given = {key: default[key] for key in COMMON if key in default} | stated

    def _metric(self, task: Task) -> str | None:
        metric = self.given.get("metric")
        if metric is None:
            return self.config.DEFAULT_METRIC[task]
        fitting = [name for name in self.config.METRICS if task in self.config.METRIC_TASKS.get(name, (task,))]
        if self._is_bad("metric"):
            return None
        if metric in fitting:
            return cast("str", metric)
        what = f"there is no metric {quote(metric)} for {self.kind} in {task}"
        self._problem("metric", what, one_of(fitting), nearest(metric, fitting))
        return None

    def _bound(self, metric: str) -> dict[str, Any] | None:
        """Return the claim with metric, its one bound, and its reason."""
        direction = self.config.METRICS[metric]
        other = "at_most" if direction == "at_least" else "at_least"
        claim = {key: self.given[key] for key in COMMON if self.given.get(key) is not None} | {"metric": metric}
        if self._is_bad(direction) or self._is_bad(other):
            return None
        if claim.get(other) is not None:
            if claim.get(direction) is not None:
                self._problem(other, f"stands beside {direction}", "one bound")
            else:
                self._problem(other, f"bounds {metric} on the wrong side", f"{direction}: {claim[other]}")
            return None
        low, high = self.config.bound_limits(metric)
        if direction not in claim:
            self._problem("", "has no bound", f"{direction} with a number between {low:g} and {high:g}, and a reason")
            return None
        if not low <= claim[direction] <= high:
            self._problem(direction, f"is {claim[direction]:g}, which {metric} never is", f"{low:g} to {high:g}")
        if "reason" not in claim and not self._is_bad("reason"):
            self._problem("reason", "is missing", f"why {metric} should be {direction.replace('_', ' ')} that")
        return claim

    def _columns(self, settings: dict[str, Any]) -> tuple[str | None, ...]:
        """Return the columns that the claim is about, one None where it is about the whole."""
        if not self.config.PER_SENSITIVE:
            return (None,)
        column = settings.get("column")
        if column is None:
            if not self.sensitive and not self.tree.is_bad(("data", "sensitive")):
                self._problem("kind", "needs a sensitive column", "data.sensitive to name one")
            return self.sensitive
        if column not in self.sensitive and not self._is_bad("column"):
            self._problem(
                "column",
                f"{quote(column)} is not among data.sensitive",
                one_of(self.sensitive or ("data.sensitive",)),
                nearest(column, self.sensitive),
            )
        return (column,)

    def _one(self, base: dict[str, Any], settings: dict[str, Any], column: str | None) -> dict[str, Any]:
        assert self.task is not None, "a claim is completed for a task"
        parts = [self.kind]
        if base["metric"] != self.config.DEFAULT_METRIC[self.task]:
            parts.append(base["metric"])
        if column is not None:
            parts.append(column)
            settings = {**settings, "column": column}
        full = plain(self.config.model_validate(settings))
        claim = ClaimSection.model_validate({**base, "name": "/".join(parts), "settings": full})
        return plain(claim)

    def _is_bad(self, key: str) -> bool:
        return self.tree.is_bad((*self.at, key))

    def _problem(self, key: str, what: str, expected: str, near: str = "") -> None:
        path = (*self.at, key) if key else self.at
        self.tree.report(path, what, expected=expected, nearest=near)
