"""Gathers what is known about an application's newest verdicts, every figure with the evidence that it rests on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from datahall.core.clock import iso
from datahall.core.errors import NotFoundError
from datahall.core.ports import Catalogue
from datahall.core.records import (
    App,
    Bundle,
    Candidate,
    Claim,
    Deployment,
    Environment,
    Exhibit,
    Figure,
    Finding,
    Measurement,
    Particulars,
    Policy,
    Run,
    Snapshot,
    Verdict,
    Version,
)
from datahall.policy.gate import GateView


class ClaimReport(msgspec.Struct, frozen=True, kw_only=True):
    """One claim about one candidate: what was demanded and why, what was measured, what the gate said."""

    claim: Claim
    finding: Finding
    figure: Figure | None
    groups: dict[str, Figure]
    look: int | None


class CandidateReport(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate: its verdict claim by claim, and how it was made."""

    name: str
    candidate: Candidate
    verdict: Verdict
    decided: str
    claims: tuple[ClaimReport, ...]
    run: Run
    bundle: Bundle
    environment: Environment
    version: str | None
    """The version that it became, if it was released."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """An application's newest look: data, candidates, and what answers now."""

    app: App
    live: str | None
    snapshot: Snapshot
    num_looks: int
    candidates: tuple[CandidateReport, ...]
    """Those that passed first, then by serial, newest first."""


Read = Callable[[str, str], bytes]
"""Returns an artifact's bytes by team and digest. Raises NotFoundError."""


def make_report(catalogue: Catalogue, app_id: str, *, num_candidates: int = 10, read: Read | None = None) -> Report:
    """Return the report of an application's newest `num_candidates` verdicts.

    Figures per group come from the artifacts that `read` opens; without it, or where they were erased, there are none.

    Raises NotFoundError where the application is unknown or the gate has not spoken about it yet.
    """
    app = catalogue.get(App, app_id)
    verdicts = {verdict.candidate: verdict for verdict in catalogue.find(Verdict, app=app_id)}
    if not verdicts:
        raise NotFoundError(f"the gate has not spoken about {app_id} yet", hint="datahall run app.yaml")
    newest = sorted(verdicts.values(), key=lambda verdict: verdict.decided_at_ns, reverse=True)[:num_candidates]
    candidates = [_candidate(catalogue, verdict, partial(read, app.team) if read else None) for verdict in newest]
    candidates.sort(key=lambda item: (item.verdict.outcome != "pass", -item.candidate.serial))
    live = catalogue.find(Deployment, app=app_id, state="live")
    view = msgspec.convert(newest[0].view, GateView)
    return Report(
        app=app,
        live=live[-1].version if live else None,
        snapshot=catalogue.get(Snapshot, view.holdout.snapshot),
        num_looks=view.holdout.num_looks,
        candidates=tuple(candidates),
    )


def _candidate(catalogue: Catalogue, verdict: Verdict, read: Callable[[str], bytes] | None) -> CandidateReport:
    candidate = catalogue.get(Candidate, verdict.candidate)
    policy = catalogue.get(Policy, verdict.policy)
    view = msgspec.convert(verdict.view, GateView)
    exhibits = {exhibit.id: exhibit for exhibit in view.exhibits}
    claims = {claim.name: claim for claim in policy.claims}
    run = catalogue.get(Run, candidate.run)
    versions: list[Any] = catalogue.find(Version, candidate=candidate.id)
    return CandidateReport(
        name=candidate.name,
        candidate=candidate,
        verdict=verdict,
        decided=iso(verdict.decided_at_ns),
        claims=tuple(
            _claim(claims[finding.claim], finding, exhibits.get(finding.evidence or ""), read)
            for finding in verdict.findings
        ),
        run=run,
        bundle=catalogue.get(Bundle, candidate.bundle),
        environment=catalogue.get(Environment, run.environment),
        version=versions[-1].id if versions else None,
    )


def _claim(claim: Claim, finding: Finding, exhibit: Exhibit | None, read: Callable[[str], bytes] | None) -> ClaimReport:
    measured = exhibit.measurement if exhibit else None
    return ClaimReport(
        claim=claim,
        finding=finding,
        figure=measured.figure if measured else None,
        groups=_groups(measured, read) if measured else {},
        look=measured.look if measured else None,
    )


def _groups(measured: Measurement, read: Callable[[str], bytes] | None) -> dict[str, Figure]:
    if not measured.particulars:
        return measured.groups
    try:
        return {} if read is None else msgspec.json.decode(read(measured.particulars), type=Particulars).groups
    except NotFoundError:  # erased with a person who was one of few
        return {}
