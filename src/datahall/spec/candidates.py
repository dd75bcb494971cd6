"""Completes the candidates of an application file: their models' settings, and some where the file names none."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from datahall.core.errors import UserError
from datahall.core.records import Task
from datahall.spec.explain import explain, nearest, one_of, quote
from datahall.spec.kinds import Kinds, ModelConfig
from datahall.spec.tree import KeyPath, Tree

COMMON = ("model", "search")
"""The keys that every candidate has."""

NO_SEARCH = "none"
"""What `search` says where settings are fitted as they stand."""


def complete_candidates(given: dict[str, Any], tree: Tree, kinds: Kinds, *, task: Task | None) -> dict[str, Any]:
    """Return the candidates with the settings that they name; the problems of those that have some are reported to `tree`.

    `given` are the candidates as they stand at `train.candidates`; what is already bad there is passed over.
    """
    done: dict[str, Any] = {}
    for name, candidate in given.items():
        at: KeyPath = ("train", "candidates", name)
        if tree.is_bad(at) or not isinstance(candidate, dict):
            continue
        config = _config(candidate, (*at, "model"), tree, kinds, task)
        if config is None:
            continue
        settings = {key: value for key, value in candidate.items() if key not in COMMON}
        try:
            full = config.model_validate(settings)
        except ValidationError as error:
            tree.problems += explain(error, tree, settings, root=config, at=at, keys=COMMON)
            continue
        _report_misfits(full, at, tree, task)
        search = candidate.get("search")
        done[name] = {
            "model": candidate["model"],
            "search": None if search == NO_SEARCH else search,
            "settings": full.model_dump(mode="json", exclude_unset=True),
        }
    return done


def default_candidates(kinds: Kinds, *, task: Task) -> dict[str, Any]:
    """Return the candidates of an application that names none."""
    done: dict[str, Any] = {}
    for model in kinds.models.names:
        if not _fits(kinds, model, task):
            continue
        config = kinds.models.load(model)
        default = config.default(task)
        if default is None:
            continue
        settings = {key: value for key, value in default.items() if key not in COMMON}
        config.model_validate(settings)
        done[model] = {"model": model, "search": default.get("search"), "settings": settings}
    return done


def _report_misfits(config: ModelConfig, at: KeyPath, tree: Tree, task: Task | None) -> None:
    for key, why in (config.misfits(task) if task is not None else {}).items():
        if key in config.model_fields_set:
            tree.report((*at, key), why)


def _config(
    candidate: dict[str, Any], path: KeyPath, tree: Tree, kinds: Kinds, task: Task | None
) -> type[ModelConfig] | None:
    model = candidate.get("model")
    if not isinstance(model, str) or tree.is_bad(path):
        return None
    if model not in kinds.models:
        names = kinds.models.names
        tree.report(path, f"there is no model {quote(model)}", expected=one_of(names), nearest=nearest(model, names))
        return None
    try:
        config = kinds.models.load(model)
    except UserError as error:
        tree.report(path, error.what, expected=error.hint)
        return None
    if (missing := config.missing()) is not None:
        package, extra = missing
        what = f"the model '{model}' needs the package '{package}', which is not installed"
        tree.report(path, what, expected=f"pip install 'datahall[{extra}]', or another model")
        return None
    if task is not None and task not in config.TASKS:
        fitting = [name for name in kinds.models.names if _fits(kinds, name, task)]
        what = f"'{model}' is a model for {' and '.join(config.TASKS)}"
        tree.report(path, what, expected=one_of(fitting) if fitting else f"a model for {task}")
        return None
    return config


def _fits(kinds: Kinds, model: str, task: Task) -> bool:
    try:
        return task in kinds.models.load(model).TASKS
    except UserError:  # an extra that is not installed is neither default nor suggestion
        return False
