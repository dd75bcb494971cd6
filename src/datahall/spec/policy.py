"""Turns the claims of an application file into the policy that the gate decides on."""

from __future__ import annotations

from datahall.core.canonical import digest_of
from datahall.core.records import Claim, Policy
from datahall.spec.schema import AppSpec


def policy_of(spec: AppSpec) -> Policy:
    """Return the policy of a loaded application; equal claims, in any order, give the same id."""
    claims = tuple(
        Claim(
            kind=claim.kind,
            name=claim.name,
            metric=claim.metric or "",
            direction=claim.direction,
            bound=claim.bound,
            confidence=claim.confidence,
            reason=claim.reason or "",
            settings=dict(claim.settings),
        )
        for claim in sorted(spec.evaluate.claims, key=lambda claim: claim.name)
    )
    assert claims, "a loaded application has at least one claim"
    body = {
        "app": spec.name,
        "claims": claims,
        "evidence_days": spec.evaluate.evidence_days,
        "node_class": spec.evaluate.node_class,
    }
    return Policy(
        id=f"pol_{digest_of(body)}",
        app=spec.name,
        claims=claims,
        evidence_days=spec.evaluate.evidence_days,
        node_class=spec.evaluate.node_class,
    )
