"""A split that no train job can read, and how often it has been looked at."""

from __future__ import annotations

from typing import ClassVar

from datahall.core.records.base import Record


class Holdout(Record, frozen=True, kw_only=True):
    """The holdout of one snapshot; `id` is `hold_` and the digest of its two artifacts.

    A look is one opening of the outcomes for any number of candidates at once. The count is raised in the act
    that hands out the grant, before any figure exists, so a crash cannot hide a look.
    """

    KIND: ClassVar[str] = "holdout"
    INDEX: ClassVar[tuple[str, ...]] = ("app", "snapshot")

    app: str
    snapshot: str
    inputs: str
    outcomes: str
    num_rows: int
    num_looks: int
