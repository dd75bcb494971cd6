"""Finds the section that stands at a path, by the types of the schema."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from datahall.spec.kinds import Section


def section_in(annotation: Any) -> tuple[type[Section] | None, str]:
    """Return the section that an annotation holds, and how: `one`, `list` or `map`; None where it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, "one"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return section_in(arguments[0])
    if origin in {Union, UnionType}:
        found = [section_in(item) for item in arguments if item is not NoneType]
        return next((item for item in found if item[0] is not None), (None, "one"))
    if origin is tuple and arguments:
        return section_in(arguments[0])[0], "list"
    if origin is dict:
        return section_in(arguments[1])[0], "map"
    return None, "one"


def section_at(root: type[Section], path: tuple[str | int, ...]) -> type[Section] | None:
    """Return the section whose keys may stand at `path` below `root`, None where no section stands there."""
    section: type[Section] | None = root
    parts = list(path)
    while parts and section is not None:
        field = section.model_fields.get(str(parts.pop(0)))
        if field is None:
            return None
        section, how = section_in(field.annotation)
        if how in {"list", "map"}:
            if not parts:
                return None
            parts.pop(0)
    return section


def type_text(annotation: Any) -> str:
    """Return an annotation in the words of the reference page."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0])
    if origin is Literal:
        return " or ".join(str(item) for item in arguments)
    if origin in {Union, UnionType}:
        return " or ".join(dict.fromkeys(type_text(item) for item in arguments if item is not NoneType))
    if origin in {tuple, dict}:
        return f"list of {type_text(arguments[0])}" if origin is tuple else f"{type_text(arguments[1])} by name"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "section"
    return {int: "whole number", float: "number", bool: "true or false", str: "text"}.get(annotation, str(annotation))
