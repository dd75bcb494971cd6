"""One act in the ledger."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from datahall.core.records.base import Record
from datahall.core.records.lease import Call, Lease

EntryKind = Literal[
    "hall.created",
    "key.issued",
    "key.revoked",
    "app.declared",
    "environment.seen",
    "step.started",
    "step.completed",
    "step.failed",
    "step.interrupted",
    "holdout.opened",
    "verdict.given",
    "version.registered",
    "version.revoked",
    "deployment.opened",
    "deployment.retired",
    "replica.started",
    "replica.changed",
    "routes.published",
    "answers.sealed",
    "answers.erased",
    "entry.void",
    "run.answered",
    "blobs.condemned",
    "blobs.pardoned",
    "artifact.erased",
    "keys.rotated",
    "keys.rewrapped",
    "keys.retired",
]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One record put in place of another.

    `old` None demands that no record has that id; otherwise the stored record must equal `old`.
    `new` None deletes. Both hold or nothing of the act is written.
    """

    new: Record | None = None
    old: Record | None = None


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody does to the catalogue; it is written with its ledger entry in one transaction."""

    kind: EntryKind
    actor: str
    app: str | None = None
    body: dict[str, Any] = {}
    changes: tuple[Change, ...] = ()
    fence: Lease | None = None
    """The lease under which this is done: once somebody else holds it, nothing of the act is written."""
    call: Call | None = None
    """The call that asked for it: if that was done before, nothing of the act is written."""


class Touched(msgspec.Struct, frozen=True, kw_only=True):
    """A record that an entry changed: the digest of its canonical JSON, or None for deleted."""

    kind: str
    id: str
    digest: str | None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One act as the ledger keeps it: the leaf is the SHA-256 over these canonical bytes (RFC 6962)."""

    FORMAT: ClassVar[int] = 1

    seq: int
    kind: EntryKind
    at_ns: int
    actor: str
    app: str | None
    body: dict[str, Any]
    touched: tuple[Touched, ...]


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A signed tree head in the C2SP tlog-checkpoint text form; `note` is the exact signed text."""

    origin: str
    size: int
    root: bytes
    note: str
