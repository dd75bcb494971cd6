"""An object that nothing may refer to any more."""

from __future__ import annotations

from typing import ClassVar

from datahall.core.records.base import Record


class Garbage(Record, frozen=True, kw_only=True):
    """An object of the blob store that is condemned: no act can name it from now on, so it can be removed at leisure.

    `id` is `team/object`. The record stays when the object is gone, for a writer may come back to it however late.
    """

    KIND: ClassVar[str] = "garbage"
    INDEX: ClassVar[tuple[str, ...]] = ("team",)

    team: str
    object: str
    size_bytes: int = 0
