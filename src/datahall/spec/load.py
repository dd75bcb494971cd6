"""Reads an application file and answers with the application, or with every problem at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from datahall.core.errors import Problem, SpecError
from datahall.core.records import Task
from datahall.spec import candidates, claims
from datahall.spec.checks import contradictions, without_effect
from datahall.spec.explain import explain, nearest, plain, show
from datahall.spec.kinds import Kinds
from datahall.spec.read import decode, read_text
from datahall.spec.schema import HEAD, SEARCH_METRICS, AppSpec
from datahall.spec.sources import ColumnsOf, source_problems
from datahall.spec.tree import Tree, grow

PROBLEM_LIMIT = 100
"""More problems than this are counted, not listed."""


@dataclass(frozen=True)
class Loaded:
    """An application file without problems of its own."""

    spec: AppSpec
    text: str
    folder: Path
    """Where relative paths of sources start."""
    tree: Tree

    @property
    def source_paths(self) -> tuple[Path, ...]:
        """The absolute path of each source, in the order of the file."""
        return tuple((self.folder / source.path).absolute() for source in self.spec.data.sources)


def load(path: Path, kinds: Kinds, *, columns_of: ColumnsOf | None = None) -> Loaded:
    """Return the application that the file at `path` describes.

    With `columns_of`, its sources are looked for and the columns that it names are held against theirs.

    Raises SpecError with every problem, each with file:line:column, the key, what was expected and the nearest
    valid spelling. No file, however made, raises anything else or takes time that grows faster than its size; only
    where nothing is wrong but that `columns_of` cannot read a source, its DataError is raised.
    """
    text = read_text(path, str(path))
    return parse(text, kinds, file=str(path), folder=path.absolute().parent, columns_of=columns_of)


def parse(
    text: str | bytes,
    kinds: Kinds,
    *,
    file: str = "app.yaml",
    folder: Path = Path(),
    columns_of: ColumnsOf | None = None,
) -> Loaded:
    """Return the application that `text` describes, as `load` does for a file called `file` in `folder`."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    text = decode(data, file)
    tree = grow(text, file)
    tree.problems += _problems_at_head(tree)
    if tree.is_bad(()):
        raise _error(tree)
    spec = _spec(tree, kinds)
    if columns_of is not None:
        problems, errors = source_problems(tree, folder, columns_of)
        if len(errors) == 1 and len(problems) == 1 and not tree.problems:
            raise errors[0]
        tree.problems += problems
    if tree.problems or spec is None:
        raise _error(tree)
    return Loaded(spec, text, folder, tree)


def _problems_at_head(tree: Tree) -> list[Problem]:
    """Return what forbids reading on: a file that is empty, is a list, or speaks a later language."""
    if tree.problems and tree.is_bad(()):
        return []
    value = tree.value
    expected = f"keys with values, the first being 'datahall: {HEAD}'"
    if value is None:
        problem = tree.problem((), "is empty", expected=expected)
    elif not isinstance(value, dict):
        # Not its words: whatever this file is, it is no application's, and may hold a secret.
        problem = tree.problem((), "is text" if isinstance(value, str) else f"is {show(value)}", expected=expected)
    elif isinstance(head := value.get("datahall"), int) and head != HEAD and head is not True:
        what = f"is version {head} of the application file"
        problem = tree.problem(("datahall",), what, expected=f"{HEAD}, the version that this Datahall understands")
    else:
        return []
    tree.bad.add(())
    return [problem]


def _spec(tree: Tree, kinds: Kinds) -> AppSpec | None:
    """Return the whole application, or None with the reasons in `tree.problems`."""
    raw = _without_settings(tree.value)
    shape: AppSpec | None = None
    try:
        shape = AppSpec.model_validate(raw)
    except ValidationError as error:
        tree.problems += explain(error, tree, raw, root=AppSpec)
    tree.problems += contradictions(tree)
    # a misspelt task still tells which bounds are possible
    task = cast("Task | None", tree.get("task") or nearest(tree.value.get("task"), SEARCH_METRICS) or None)
    full_candidates = _candidates(tree, kinds, task)
    full_claims = _claims(tree, kinds, task)
    if task is not None:
        tree.problems += without_effect(tree, full_candidates, full_claims)
    if shape is None or tree.problems:
        return None
    whole = plain(shape)
    whole["train"]["candidates"] = full_candidates
    whole["evaluate"]["claims"] = full_claims
    return AppSpec.model_validate(whole)


def _candidates(tree: Tree, kinds: Kinds, task: Task | None) -> dict[str, Any]:
    given = tree.get("train", "candidates")
    if given is not None:
        return candidates.complete_candidates(given, tree, kinds, task=task)
    return {} if task is None else candidates.default_candidates(kinds, task=task)


def _claims(tree: Tree, kinds: Kinds, task: Task | None) -> list[dict[str, Any]]:
    given = tree.get("evaluate", "claims")
    sensitive = tuple(name for _, name in tree.items("data", "sensitive"))
    if given is not None:
        return claims.complete_claims(given, tree, kinds, task=task, sensitive=sensitive)
    return [] if task is None else claims.default_claims(kinds, task=task, sensitive=sensitive)


def _without_settings(value: dict[str, Any]) -> dict[str, Any]:
    """Return the file's values without the keys that models and claims read themselves."""
    raw = dict(value)
    train, evaluate = raw.get("train"), raw.get("evaluate")
    if isinstance(train, dict) and isinstance(train.get("candidates"), dict):
        kept = {name: _only(item, candidates.COMMON) for name, item in train["candidates"].items()}
        for item in kept.values():
            if isinstance(item, dict) and item.get("search") == candidates.NO_SEARCH:
                item["search"] = None
        raw["train"] = {**train, "candidates": kept}
    if isinstance(evaluate, dict) and isinstance(evaluate.get("claims"), list):
        raw["evaluate"] = {**evaluate, "claims": [_only(item, claims.COMMON) for item in evaluate["claims"]]}
    return raw


def _only(item: Any, keys: tuple[str, ...]) -> Any:
    return {key: item[key] for key in keys if key in item} if isinstance(item, dict) else item


def _error(tree: Tree) -> SpecError:
    problems = sorted(tree.problems, key=_position)
    if len(problems) > PROBLEM_LIMIT:
        rest = f"has {len(problems) - PROBLEM_LIMIT} more problems, not listed here"
        last = problems[PROBLEM_LIMIT]
        problems = [
            *problems[:PROBLEM_LIMIT],
            Problem(file=tree.file, line=last.line, column=last.column, key="(file)", what=rest),
        ]
    return SpecError(tuple(problems))


def _position(problem: Problem) -> tuple[int, int, str]:
    return problem.line, problem.column, problem.key
