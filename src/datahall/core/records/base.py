"""What every record of the catalogue has in common."""

from __future__ import annotations

from typing import ClassVar, TypeVar

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A frozen row of the catalogue, named by `id`.

    `KIND` names its table, `INDEX` the fields by which it can be found. A record is never changed:
    an act replaces it by another with the same id.

    Fields at their default are not written: a field that a later version adds with a default leaves the digests of
    all records before it as they were.
    """

    KIND: ClassVar[str]
    INDEX: ClassVar[tuple[str, ...]] = ()

    id: str

    def excluded_by(self) -> tuple[tuple[str, str], ...]:
        """Return the records (kind, id) beside which this one cannot be written: the act is refused if one is there."""
        return ()


def noun_of(kind: type[Record]) -> str:
    """Return what people call a kind of record: `API key` for `api_key`."""
    return _NOUNS.get(kind.KIND, kind.KIND.replace("_", " "))


_NOUNS = {"api_key": "API key", "app": "application"}

R = TypeVar("R", bound=Record)
