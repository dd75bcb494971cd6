"""Lists every key of the application file, from the schema itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

from pydantic.fields import FieldInfo

from datahall.core.errors import UserError
from datahall.core.registry import Registry
from datahall.spec.fields import section_in, type_text
from datahall.spec.kinds import Kinds, Section
from datahall.spec.schema import AppSpec

S = TypeVar("S", bound=Section)

_PLACE = {"list": "[]", "map": ".<name>"}


class KeyDoc(NamedTuple):
    """One key: where it stands, what it takes, what it is when left out, and what it means."""

    path: str
    type: str
    default: str
    description: str


def describe(kinds: Kinds | None = None) -> Iterator[KeyDoc]:
    """Yield every key in the order of the schema; with `kinds`, then those of each model and each claim.

    Kinds whose extra is not installed are passed over. Keys of kinds read `train.candidates.<name>.depth (model: forest)` and `evaluate.claims[].floor (kind: accuracy)`.
    """
    yield from _keys(AppSpec, "")
    if kinds is None:
        return
    for name, model in _installed(kinds.models):
        yield from _keys(model, "train.candidates.<name>.", f" (model: {name})")
    for name, claim in _installed(kinds.claims):
        yield from _keys(claim, "evaluate.claims[].", f" (kind: {name})")


def _installed(registry: Registry[type[S]]) -> Iterator[tuple[str, type[S]]]:
    for name in registry.names:
        try:
            yield name, registry.load(name)
        except UserError:  # an extra that is not installed has no keys to show
            continue


def _keys(section: type[Section], at: str, suffix: str = "") -> Iterator[KeyDoc]:
    for name, field in section.model_fields.items():
        if field.description is None:  # filled in by the loader, not written in a file
            continue
        path = f"{at}{name}"
        yield KeyDoc(f"{path}{suffix}", type_text(field.annotation), _default(field), field.description)
        inner, how = section_in(field.annotation)
        if inner is not None:
            yield from _keys(inner, f"{path}{_PLACE.get(how, '')}.", suffix)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    if isinstance(value, Section) or value is None or value in ((), {}):
        return ""
    if isinstance(value, tuple):
        return f"[{', '.join(str(item) for item in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
