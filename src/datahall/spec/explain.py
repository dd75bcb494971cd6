"""Says what a person should change where pydantic says what it could not validate."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from datahall.core.errors import Problem
from datahall.spec.fields import section_at
from datahall.spec.kinds import Section
from datahall.spec.tree import KeyPath, Tree, without_keys

_TYPES = {
    "bool_type": "true or false",
    "dict_type": "keys with values",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "keys with values",
    "string_type": "text",
    "tuple_type": "a list",
}
_LIMITS = {"greater_than": ("more than", "gt"), "greater_than_equal": ("at least", "ge")} | {
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def nearest(word: object, choices: Iterable[str]) -> str:
    """Return the choice that `word` was probably meant to be, or nothing."""
    if not isinstance(word, str):
        return ""
    options = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(word.lower(), options, n=1, cutoff=0.6)
    return options[found[0]] if found else ""


def one_of(choices: Iterable[str]) -> str:
    """Return `choices` as "one of: a, b, c"."""
    names = [without_keys(choice) for choice in choices]  # choices may be the columns of any file
    return names[0] if len(names) == 1 else f"one of: {', '.join(names)}"


def show(value: Any) -> str:
    """Return a value the way that a message names it."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {quote(value)}"
    if isinstance(value, dict):
        return "keys with values"
    if isinstance(value, list | tuple):
        return "a list"
    return f"{value}"


def quote(text: str) -> str:
    """Return `text` in quotes, cut where it is long and with API keys masked."""
    text = without_keys(text)
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def explain(
    error: ValidationError, tree: Tree, value: Any, *, root: type[Section], at: KeyPath = (), keys: tuple[str, ...] = ()
) -> list[Problem]:
    """Return the problems behind `error`, which arose when `value`, standing at `at`, was read as a `root`.

    `keys` are allowed beside the fields of `root`. Each path is marked in `tree.bad`; one that already is bad, or lies
    in something bad, gets no second problem.
    """
    found: dict[KeyPath, list[tuple[Any, bool]]] = {}
    for detail in error.errors(include_url=False):
        if detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]:
            continue  # pydantic counts the good items only, and the bad ones have problems of their own
        path, at_key = _path_of(detail, value)
        found.setdefault(path, []).append((detail, at_key))
    problems = []
    for path, details in found.items():
        full = (*at, *path)
        if tree.is_bad(full):
            continue
        tree.bad.add(full)
        detail, at_key = details[0]
        what, expected, near = _words(detail, path, root, keys)
        if len(details) > 1:  # a value that fits no member of a union
            expected = " or ".join(dict.fromkeys(_TYPES.get(item["type"], item["msg"]) for item, _ in details))
        problems.append(tree.problem(full, what, expected=expected, nearest=near, at_key=at_key))
    return problems


def _path_of(detail: Any, value: Any) -> tuple[KeyPath, bool]:
    """Return the path of a pydantic error, without the tags that unions and keys add to it."""
    path: list[str | int] = []
    located = list(detail["loc"])
    at_key = detail["type"] in {"missing", "extra_forbidden"} or located[-1:] == ["[key]"]
    for number, part in enumerate(located):
        inside = (isinstance(value, dict) and part in value) or (
            isinstance(value, list) and isinstance(part, int) and part < len(value)
        )
        if inside:
            value = value[part]
            path.append(part)
        elif detail["type"] == "missing" and number == len(located) - 1:
            path.append(part)
    return tuple(path), at_key


def _words(detail: Any, path: KeyPath, root: type[Section], keys: tuple[str, ...]) -> tuple[str, str, str]:
    """Return what is wrong, what was expected, and the nearest spelling."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        section = section_at(root, path[:-1])
        names = sorted({*(section.model_fields if section else ()), *(keys if len(path) == 1 else ())})
        return "is not a key", one_of(names), nearest(path[-1], names)
    if kind == "missing":
        return "is missing", _description(root, path), ""
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        return f"is {show(value)}", one_of(choices), nearest(value, choices)
    if kind in _LIMITS:
        words, name = _LIMITS[kind]
        return f"is {show(value)}", f"{words} {context[name]:g}", ""
    if kind == "model_type" and (section := section_at(root, path)) is not None:
        return f"is {show(value)}", f"{_TYPES[kind]}: {', '.join(sorted(section.model_fields))}", ""
    if kind in _TYPES:
        return f"is {show(value)}", _expected_type(kind, value), ""
    return _other(kind, value, context, detail["msg"])


def _expected_type(kind: str, value: Any) -> str:
    if kind == "string_type" and isinstance(value, int | float):
        return f'text; write "{show(value)}" in quotes if that is meant'
    return _TYPES[kind]


def _other(kind: str, value: Any, context: dict[str, Any], message: str) -> tuple[str, str, str]:
    if kind == "datahall":
        return message, str(context.get("expected", "")), ""
    if kind == "too_short":
        return "is empty", f"at least {context['min_length']}", ""
    if kind == "string_too_short":
        return "is empty", "text", ""
    if kind == "string_too_long":
        return f"has {len(value)} characters", f"{context['max_length']} at most", ""
    return message.removeprefix("Value error, ")[:200], "", ""


def _description(root: type[Section], path: KeyPath) -> str:
    section = section_at(root, path[:-1])
    field = section.model_fields.get(str(path[-1])) if section else None
    text = (field.description or "") if field else ""
    return text[:1].lower() + text[1:].removesuffix(".")


def plain(model: BaseModel) -> dict[str, Any]:
    """Return a section as plain data, the way that JSON would carry it."""
    data: dict[str, Any] = model.model_dump(mode="json")
    return data
