"""An application as its file describes it."""

from __future__ import annotations

from typing import ClassVar, Literal

from datahall.core.records.base import Record

Task = Literal["classification", "regression"]


class App(Record, frozen=True, kw_only=True):
    """The newest accepted description of one application; `id` is its name."""

    KIND: ClassVar[str] = "app"
    INDEX: ClassVar[tuple[str, ...]] = ("team",)

    team: str
    task: Task
    spec_digest: str
    spec_text: str
    policy: str
    """Id of the policy that its candidates must satisfy."""
    declared_at_ns: int
