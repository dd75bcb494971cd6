"""What the gate decided, and why."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from datahall.core.records.base import Record

Outcome = Literal["pass", "fail", "insufficient"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The gate's word on one claim; `evidence` is the exhibit on which it rests, if any."""

    claim: str
    outcome: Outcome
    reason: str
    evidence: str | None = None
    value: float | None = None
    """The confidence bound that was compared."""
    num_needed: int | None = None


class Verdict(Record, frozen=True, kw_only=True):
    """The decision over one candidate under one policy, with the view it was taken on.

    `view` is the plain data of a `policy.gate.GateView`: asked again on it, the gate answers the same.
    """

    KIND: ClassVar[str] = "verdict"
    INDEX: ClassVar[tuple[str, ...]] = ("app", "candidate", "bundle")

    app: str
    candidate: str
    bundle: str
    policy: str
    outcome: Outcome
    reason: str
    findings: tuple[Finding, ...]
    view: dict[str, Any]
    view_digest: str
    decided_at_ns: int
