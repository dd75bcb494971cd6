"""What a lifecycle tells whoever watches it, as lines of JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from datahall.core.jobs import Progress


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    """Base of the events; on the wire the field `event` names the class."""


class PlannedLine(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a plan for people: what will happen and why."""

    key: str
    stage: str
    name: str
    action: Literal["runs", "reused"]
    why: str
    expected_s: float | None = None
    """How long it took the last time, if it ever ran."""


class Planned(Event, frozen=True, kw_only=True, tag="planned"):
    """The plan, before anything runs."""

    app: str
    lines: tuple[PlannedLine, ...]


class StepBegan(Event, frozen=True, kw_only=True, tag="step_began"):
    """A step runs now."""

    name: str


class StepProgressed(Event, frozen=True, kw_only=True, tag="step_progressed"):
    """How far the running step is."""

    name: str
    progress: Progress


class StepEnded(Event, frozen=True, kw_only=True, tag="step_ended"):
    """A step is done, or was done before (`reused`), or had nothing to do (`skipped`)."""

    name: str
    how: Literal["ran", "reused", "skipped"]
    summary: str = ""
    took_s: float = 0.0


class Judged(Event, frozen=True, kw_only=True, tag="judged"):
    """The gate's verdict over one candidate."""

    candidate: str
    name: str
    outcome: str
    reason: str
    findings: tuple[dict[str, Any], ...]


class Ended(Event, frozen=True, kw_only=True, tag="ended"):
    """The lifecycle is over: what is released now, or why nothing is."""

    app: str
    outcome: Literal["released", "unchanged", "refused"]
    version: str | None
    champion: str | None
    deployment: str | None
    reason: str


class BackedUp(Event, frozen=True, kw_only=True, tag="backed_up"):
    """A backup is in place: the moment of the hall's life that it is, and where the keys lie that alone open it.

    `num_signed` of the `num_entries` lie below the signed checkpoint that the backup names. `damaged` has a line for each
    object that was damaged or missing in the hall, so that the backup lacks it.
    """

    file: str
    id: str
    origin: str
    at: str
    num_entries: int
    num_signed: int
    num_objects: int
    size_bytes: int
    took_s: float
    keys: str
    damaged: tuple[str, ...] = ()


class Broke(Event, frozen=True, kw_only=True, tag="broke"):
    """The lifecycle ended with an error; the fields of a DatahallError and its class's name."""

    error: str
    what: str
    where: str = ""
    hint: str = ""
    problems: tuple[dict[str, Any], ...] = ()


AnyEvent = Planned | StepBegan | StepProgressed | StepEnded | Judged | Ended | BackedUp | Broke
Notify = Callable[[Event], None]
"""What the walk calls for every event."""
