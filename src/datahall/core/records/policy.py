"""What a bundle must prove before it may answer anybody."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from datahall.core.records.base import Record


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One demand: a figure, the bound that its confidence bound must meet, and why that bound.

    `direction` is `at_least` for figures where more is better and `at_most` for the others.
    """

    kind: str
    name: str
    """Unique in the policy: the kind, and what it is about, such as `fairness/sex`."""
    metric: str
    direction: Literal["at_least", "at_most"]
    bound: float
    confidence: float
    reason: str
    settings: dict[str, Any] = {}


class Policy(Record, frozen=True, kw_only=True):
    """A named set of claims; `id` is `pol_` and the digest of the rest."""

    KIND: ClassVar[str] = "policy"
    INDEX: ClassVar[tuple[str, ...]] = ("app",)

    app: str
    claims: tuple[Claim, ...]
    evidence_days: float
    """Evidence older than this proves nothing."""
    node_class: str | None = None
    """If set, latency must have been measured on this class of machine."""
