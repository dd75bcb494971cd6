"""Gathers a bundle's evidence as the gate may see it: opened, its signature judged, its ledger entry proven."""

from __future__ import annotations

from collections.abc import Callable

from datahall.core.ports import Catalogue
from datahall.core.records import Evidence, EvidenceKey, Exhibit, Holdout, Policy, Record
from datahall.evaluate.exhibit import exhibit
from datahall.policy.gate import GateView

Anchored = Callable[[Record], bool]
"""Whether a record is what its newest ledger entry says and that entry lies below a signed checkpoint."""


def exhibits_of(catalogue: Catalogue, anchored: Anchored, app: str, bundle: str) -> tuple[Exhibit, ...]:
    """Return everything that was ever signed about one bundle, sorted by id.

    A key counts only if it is itself anchored: a row that somebody wrote into the table signs nothing.
    """
    keys = {key.id: key for key in catalogue.find(EvidenceKey, app=app) if anchored(key)}
    found = catalogue.find(Evidence, bundle=bundle)
    exhibits = (exhibit(item, keys, integrated=anchored(item)) for item in found if item.app == app)
    return tuple(sorted(exhibits, key=lambda item: item.id))


def gate_view(
    catalogue: Catalogue,
    anchored: Anchored,
    *,
    policy: Policy,
    holdout: Holdout,
    candidate: str,
    bundle: str,
    champion: str | None,
    node_class: str,
) -> GateView:
    """Return all that the gate may know about one candidate now."""
    return GateView(
        policy=policy,
        candidate=candidate,
        bundle=bundle,
        champion=champion,
        holdout=holdout,
        node_class=node_class,
        exhibits=exhibits_of(catalogue, anchored, policy.app, bundle),
    )
