"""What control and a job process say to each other, one JSON line a message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a job is: `done` of `total` units, a line for people, and figures by name."""

    done: float
    total: float
    message: str = ""
    figures: dict[str, float] = {}


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job ended without a result; the fields of a DatahallError, and its class's name."""

    error: str
    what: str
    where: str = ""
    hint: str = ""


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line from a job: progress, then exactly one result or failure."""

    progress: Progress | None = None
    failure: Failure | None = None
    result: Any = None


Report = Callable[[Progress], None]
"""What a stage calls to say how far it is."""
