"""A bundle before and after the gate."""

from __future__ import annotations

from typing import ClassVar

from datahall.core.records.base import Record


class Candidate(Record, frozen=True, kw_only=True):
    """A bundle that asks to be released; `id` is `app#serial`."""

    KIND: ClassVar[str] = "candidate"
    INDEX: ClassVar[tuple[str, ...]] = ("app", "bundle", "run")

    app: str
    serial: int
    name: str
    """Name of the candidate in the application file."""
    bundle: str
    run: str


class Version(Record, frozen=True, kw_only=True):
    """A candidate that the gate passed; `id` is `app@semver`."""

    KIND: ClassVar[str] = "version"
    INDEX: ClassVar[tuple[str, ...]] = ("app", "bundle", "candidate")

    app: str
    semver: str
    candidate: str
    bundle: str
    verdict: str
    parent: str | None
    """Id of the version that was champion when this one was registered."""
    registered_at_ns: int
    revoked: bool = False
