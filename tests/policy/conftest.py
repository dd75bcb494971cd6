"""Views for the gate, good in every respect until a test says otherwise."""

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from datahall.core.records import Claim, Exhibit, Figure, Holdout, Measurement, Policy
from datahall.policy.gate import GateView, decide, spend

DAY_NS = 86_400 * 10**9
NOW = 1_000 * DAY_NS


@dataclass(frozen=True)
class Case:
    """Builds claims, exhibits and views around one application."""

    bundle: str = "b" * 64
    policy_id: str = "pol_1"
    now: int = NOW

    def claim(self, kind: str = "accuracy", **changes: Any) -> Claim:
        base = Claim(
            kind=kind, name=kind, metric="accuracy", direction="at_least", bound=0.9, confidence=0.95, reason="because"
        )
        return msgspec.structs.replace(base, **changes)

    def figure(self, lower: float | None = 0.92, upper: float | None = 0.98, **changes: Any) -> Figure:
        base = Figure(
            estimate=((lower or 0.0) + (upper or 1.0)) / 2,
            lower=lower,
            upper=upper,
            alpha=0.025,
            num=500,
            method="test",
        )
        return msgspec.structs.replace(base, **changes)

    def measurement(self, claim: Claim, figure: Figure | None, **changes: Any) -> Measurement:
        base = Measurement(
            app="tumours",
            claim=claim.name,
            kind=claim.kind,
            metric=claim.metric,
            policy=self.policy_id,
            holdout="hold_1",
            look=1,
            num_candidates=1,
            champion=None,
            figure=figure,
            node_class="linux-x86_64",
            environment="env_1",
            measured_at_ns=NOW - DAY_NS,
            expires_at_ns=NOW + DAY_NS,
        )
        if figure is not None and "look" in changes and figure.alpha == 0.025:
            alpha = spend(claim.confidence, changes["look"], changes.get("num_candidates", 1))
            base = msgspec.structs.replace(base, figure=msgspec.structs.replace(figure, alpha=alpha))
        return msgspec.structs.replace(base, **changes)

    def exhibit(self, measurement: Measurement, **changes: Any) -> Exhibit:
        base = Exhibit(
            id="evd_1", bundle=self.bundle, measurement=measurement, key_id="key", signature="good", integrated=True
        )
        return msgspec.structs.replace(base, **changes)

    def view(self, claims: list[Claim], exhibits: list[Exhibit], **changes: Any) -> GateView:
        base = GateView(
            policy=Policy(id=self.policy_id, app="tumours", claims=tuple(claims), evidence_days=30.0),
            candidate="tumours#1",
            bundle=self.bundle,
            champion=None,
            holdout=Holdout(
                id="hold_1", app="tumours", snapshot="snap_1", inputs="i", outcomes="o", num_rows=500, num_looks=3
            ),
            node_class="linux-x86_64",
            exhibits=tuple(exhibits),
        )
        return msgspec.structs.replace(base, **changes)

    def ask(self, view: GateView, now: int = NOW) -> Any:
        """Return the gate's decision."""
        return decide(None, view, None, now, 0.0)[1]

    def judge(self, claim: Claim, figure: Figure | None, **changes: Any) -> Any:
        """Return the finding on one claim with one good exhibit."""
        measurement = self.measurement(claim, figure, **changes)
        return self.ask(self.view([claim], [self.exhibit(measurement)])).findings[0]


@pytest.fixture(scope="session")
def case():
    return Case()
