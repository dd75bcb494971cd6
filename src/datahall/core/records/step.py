"""A durable step of a lifecycle: what was asked, how it ended, what came of it."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from datahall.core.records.base import Record

StepState = Literal["running", "done", "failed", "interrupted"]


class Step(Record, frozen=True, kw_only=True):
    """A step named by its key: the digest of all that determines its outputs.

    A step that is done is never run again; its `outputs` (role to record id) are read instead.
    """

    KIND: ClassVar[str] = "step"
    INDEX: ClassVar[tuple[str, ...]] = ("app", "state")

    app: str
    stage: str
    name: str
    state: StepState
    outputs: dict[str, str]
    parts: dict[str, str] = msgspec.field(default_factory=dict)
    """What the key was made of: part name to digest; a later plan compares them to say why it runs again."""
    reason: str = ""
    started_at_ns: int
    ended_at_ns: int = 0
