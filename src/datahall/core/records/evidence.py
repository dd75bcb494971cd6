"""A signed statement that supports or refutes one claim about one bundle."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from datahall.core.records.base import Record


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A measured number with what a gate needs to bound it at any confidence.

    `lower` and `upper` are one-sided bounds, each at the confidence `1 - alpha` that the gate demanded of
    this look. `num_needed` estimates the rows at which the claim could be settled, where that is known.
    """

    estimate: float
    lower: float | None
    upper: float | None
    alpha: float
    num: int
    method: str
    p_value: float | None = None
    num_needed: int | None = None


class Particulars(msgspec.Struct, frozen=True, kw_only=True):
    """What a measurement found besides its figure: per group or part, and how it came about."""

    groups: dict[str, Figure]
    details: dict[str, Any]


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """The in-toto predicate `https://datahall.dev/evidence/v1`: one claim, measured once.

    The gate decides on `figure`. Figures per group or part, for people to read, name values of people's rows, so they
    stand in an encrypted artifact (Particulars); evidence from before holds them in `groups` itself.
    """

    app: str
    claim: str
    kind: str
    metric: str
    policy: str
    holdout: str
    look: int
    num_candidates: int
    """How many candidates were measured in the same look (Holm's correction)."""
    champion: str | None
    figure: Figure | None
    """None where it could not be measured; `problem` says why."""
    problem: str = ""
    groups: dict[str, Figure] = {}
    details: dict[str, Any] = {}
    """What the gate needs besides: `p_values` of all candidates of the look."""
    particulars: str = ""
    """Digest of the JSON artifact with the Particulars; empty where there are none."""
    node_class: str
    environment: str
    measured_at_ns: int
    expires_at_ns: int


class Evidence(Record, frozen=True, kw_only=True):
    """A stored DSSE envelope around an in-toto Statement; `id` is `evd_` and the envelope's digest."""

    KIND: ClassVar[str] = "evidence"
    INDEX: ClassVar[tuple[str, ...]] = ("app", "bundle", "step")

    app: str
    bundle: str
    claim: str
    step: str
    envelope: str
    """The DSSE envelope as JSON text, exactly as it was signed."""
    key_id: str


class EvidenceKey(Record, frozen=True, kw_only=True):
    """The public half of a short-lived key that one evaluate job was given; `id` is the key id.

    Only its own bundles' evidence counts, and only what it signed before `expires_at_ns`.
    """

    KIND: ClassVar[str] = "evidence_key"
    INDEX: ClassVar[tuple[str, ...]] = ("app", "step")

    app: str
    step: str
    public_key: bytes
    bundles: tuple[str, ...]
    holdout: str
    look: int
    issued_at_ns: int
    expires_at_ns: int


class Exhibit(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence as the gate sees it: what it says, and what was checked about it before.

    `bundle` is the subject's digest inside the signed statement, not the row's column.
    """

    id: str
    bundle: str
    measurement: Measurement
    key_id: str
    signature: Literal["good", "bad", "missing", "unknown_key", "expired_key", "foreign_key"]
    integrated: bool
    """Whether its ledger entry lies in the tree below a signed checkpoint, unchanged."""
