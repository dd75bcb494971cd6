"""Gathers a bundle's evidence as the gate may see it: opened, its signature judged, its ledger entry proven."""

from __future__ import annotations

from typing import Protocol

from datahall.core.errors import IntegrityError
from datahall.core.ports import Catalogue
from datahall.core.records import Evidence, EvidenceKey, Exhibit, Holdout, Policy, Record
from datahall.evaluate.exhibit import exhibit
from datahall.policy.gate import GateView


class Anchored(Protocol):
    """What the signed ledger says; the catalogue's rows are held against it."""

    def __call__(self, record: Record, /) -> bool:
        """Return whether a record is what its newest entry says and that entry lies below a signed checkpoint."""

    def ids(self, kind: str) -> frozenset[str]:
        """Return the ids of all records of one kind that ought to be there. Raises IntegrityError."""


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
    """Return all that the gate may know about one candidate now.

    Raises IntegrityError where evidence was removed, or where the count of looks is not the ledger's.
    """
    require_whole(catalogue, anchored, Evidence, EvidenceKey)
    if not anchored(holdout):
        raise IntegrityError(f"the looks at {holdout.id} are not what the ledger counted", hint="datahall verify")
    return GateView(
        policy=policy,
        candidate=candidate,
        bundle=bundle,
        champion=champion,
        holdout=holdout,
        node_class=node_class,
        exhibits=exhibits_of(catalogue, anchored, policy.app, bundle),
    )


def require_whole(catalogue: Catalogue, anchored: Anchored, *kinds: type[Record]) -> None:
    """Return only if every record of these kinds that the ledger knows is still in the catalogue.

    A row that was taken away leaves no trace where one looks for it: without this, evidence that refutes a claim
    could be lost, and the better one from an earlier look would speak again. Raises IntegrityError.
    """
    for kind in kinds:
        gone = anchored.ids(kind.KIND) - {record.id for record in catalogue.find(kind)}
        if gone:
            raise IntegrityError(f"the {kind.KIND} {min(gone)} was removed behind the ledger", hint="datahall verify")
