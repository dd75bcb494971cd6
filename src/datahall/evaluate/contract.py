"""What the evaluate job is asked and what it answers."""

from __future__ import annotations

import msgspec

from datahall.core.records import Claim, Column, Grant, Task


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate to measure: its bundle, its siblings from other seeds, and its shadow replica."""

    candidate: str
    bundle: str
    """Digest of the manifest."""
    packed: Grant
    seed_bundles: tuple[Grant, ...]
    address: str | None
    """Unix socket of the shadow replica; None where no latency claim needs one."""


class EvaluateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Measure every claim of a policy for every contender, in one look at the holdout."""

    app: str
    team: str
    task: Task
    policy: str
    claims: tuple[Claim, ...]
    target: Column
    sensitive: tuple[Column, ...]
    contenders: tuple[Contender, ...]
    champion: Contender | None
    holdout: str
    holdout_inputs: Grant
    holdout_outcomes: Grant
    train: Grant
    """For baselines only (majority class, mean)."""
    look: int
    alphas: dict[str, float]
    """Claim name to the error rate that this look may spend, as `policy.gate.spend` computed it."""
    seed: int
    node_class: str
    environment: str
    expires_at_ns: int
    signing_key: bytes
    """Raw Ed25519 private key, for this job only."""


class EvaluateResult(msgspec.Struct, frozen=True, kw_only=True):
    """Signed envelopes: (bundle digest, claim name, DSSE envelope as JSON text), and the artifacts that they name."""

    envelopes: tuple[tuple[str, str, str], ...]
    particulars: tuple[Grant, ...] = ()
