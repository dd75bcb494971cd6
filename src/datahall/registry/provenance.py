"""Follows an answer back to its origins, and proves every link against the signed ledger."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from datahall.core.clock import iso
from datahall.core.errors import DatahallError, NotFoundError
from datahall.core.ports import Catalogue
from datahall.core.records import (
    Answer,
    Bundle,
    Candidate,
    Deployment,
    Environment,
    Evidence,
    Record,
    Replica,
    Run,
    Snapshot,
    Verdict,
    Version,
)
from datahall.registry.exhibits import Anchored
from datahall.registry.segments import segments_holding


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One station on the way back: what it is, the facts about it, and whether the ledger holds it."""

    noun: str
    id: str
    facts: dict[str, Any]
    proven: bool
    problem: str = ""


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """The whole way of one answer, nearest link first; `verified` only if every link is proven and they fit."""

    answer: str
    verified: bool
    sealed: bool
    """Whether the answer's own record lies under the ledger; its id proves version and bundle before that."""
    record: Literal["kept", "lost", "erased"] = "kept"
    """Whether the answer's own record is still there; else the links follow what its id alone proves."""
    links: tuple[Link, ...]
    problems: tuple[str, ...]


def trace(catalogue: Catalogue, anchored: Anchored, answer: Answer, segment_root: str | None) -> Provenance:
    """Return where an answer came from.

    `segment_root` is the Merkle root recomputed from the sealed segment that holds the answer's record, None while
    that segment is still being written. Never raises for a broken chain: `problems` says what is wrong.
    """
    found, problems, records = follow(anchored, _chain(catalogue, answer))
    links = [_answer_link(answer), *found]
    problems += _misfits(answer, records)
    sealed = False
    if segment_root is not None:
        sealed, problem = _sealed(catalogue, anchored, answer, segment_root)
        problems += [problem] if problem else []
    return Provenance(
        answer=answer.id,
        verified=not problems and all(link.proven for link in links),
        sealed=sealed,
        links=tuple(links),
        problems=tuple(problems),
    )


Chain = Iterator[tuple[Record, dict[str, Any]]]


def follow(anchored: Anchored, chain: Chain) -> tuple[list[Link], list[str], list[Record]]:
    """Return the links of a chain up to where it breaks, what is wrong with them, and their records."""
    links: list[Link] = []
    problems: list[str] = []
    records: list[Record] = []
    try:
        for record, facts in chain:
            records.append(record)
            links.append(_link(anchored, record, facts))
    except NotFoundError as error:
        problems.append(f"a link is missing: {error.what}")
    except DatahallError as error:
        problems.append(f"a link was changed: {error.what}")
    return links, problems + [f"{link.noun} {link.id}: {link.problem}" for link in links if link.problem], records


def _chain(catalogue: Catalogue, answer: Answer) -> Chain:
    replica = catalogue.get(Replica, answer.replica)
    yield replica, {"machine": replica.node_class, "isolation": replica.isolation, "pid": replica.pid}
    yield from chain_from(catalogue, answer.deployment, answer.version, answer.bundle)


def chain_from(catalogue: Catalogue, deployment_id: str, version_id: str, bundle_id: str) -> Chain:
    """Yield what a deployment came from, each record with the facts to show about it. Raises DatahallError."""
    deployment = catalogue.get(Deployment, deployment_id)
    yield deployment, {"version": deployment.version, "opened": iso(deployment.opened_at_ns)}
    version = catalogue.get(Version, version_id)
    yield version, {"number": version.semver, "parent": version.parent, "registered": iso(version.registered_at_ns)}
    verdict = catalogue.get(Verdict, version.verdict)
    yield verdict, {"outcome": verdict.outcome, "policy": verdict.policy, "reason": verdict.reason}
    for finding in verdict.findings:
        if finding.evidence is not None:
            evidence = catalogue.get(Evidence, finding.evidence)
            yield evidence, {"claim": finding.claim, "outcome": finding.outcome, "found": finding.reason}
    candidate = catalogue.get(Candidate, version.candidate)
    yield candidate, {"name": candidate.name, "serial": candidate.serial}
    bundle = catalogue.get(Bundle, bundle_id)
    yield bundle, {"engine": bundle.manifest.engine, "threshold": bundle.manifest.threshold}
    run = catalogue.get(Run, candidate.run)
    yield (
        run,
        {
            "model": run.candidate,
            "code": run.code_digest,
            "seeds": list(run.seeds),
            "parameters": run.parameters,
            "started": iso(run.started_at_ns),
        },
    )
    environment = catalogue.get(Environment, run.environment)
    yield (
        environment,
        {
            "python": environment.python,
            "packages": len(environment.packages),
            "datahall": environment.datahall_digest,
        },
    )
    snapshot = catalogue.get(Snapshot, run.snapshot)
    yield (
        snapshot,
        {
            "rows": snapshot.num_rows,
            "sources": {source.name: source.digest for source in snapshot.sources},
            "recipe": snapshot.recipe_digest,
        },
    )


def _answer_link(answer: Answer) -> Link:
    facts = {
        "at": iso(answer.at_ns),
        "app": answer.app,
        "principal": answer.principal,
        "gateway": answer.gateway,
        "route_revision": answer.route_revision,
        "rows": answer.num_rows,
        "latency_us": answer.latency_us,
        "input": answer.input_digest.hex(),
        "output": answer.output_digest.hex(),
    }
    if answer.cached_from:
        facts["cached_from"] = answer.cached_from
    # Its id carries a MAC that was opened before anybody came here: that is its proof until its segment is sealed.
    return Link(noun="answer", id=answer.id, facts=facts, proven=True)


def _link(anchored: Anchored, record: Record, facts: dict[str, Any]) -> Link:
    try:
        proven = anchored(record)
    except DatahallError as error:
        return Link(noun=record.KIND, id=record.id, facts=facts, proven=False, problem=error.what)
    problem = "" if proven else "it is not in the signed ledger yet"
    return Link(noun=record.KIND, id=record.id, facts=facts, proven=proven, problem=problem)


def _misfits(answer: Answer, records: list[Record]) -> list[str]:
    """Return what does not fit: each link must name the one before it."""
    by_kind = {record.KIND: record for record in records}
    problems = [
        f"{record.KIND} {record.id} is about another bundle than the answer"
        for record in records
        if getattr(record, "bundle", answer.bundle) != answer.bundle
    ]
    replica, deployment = by_kind.get("replica"), by_kind.get("deployment")
    if isinstance(replica, Replica) and replica.deployment != answer.deployment:
        problems.append(f"replica {replica.id} belongs to another deployment")
    if isinstance(deployment, Deployment) and deployment.version != answer.version:
        problems.append(f"deployment {deployment.id} runs another version")
    return problems


def _sealed(catalogue: Catalogue, anchored: Anchored, answer: Answer, root: str) -> tuple[bool, str]:
    segment = next(segments_holding(catalogue, answer.gateway, answer.sequence, answer.at_ns), None)
    if segment is None:
        return False, ""
    if segment.root != root:
        return False, f"answer segment {segment.id} was altered after it was sealed"
    try:
        return anchored(segment), ""
    except DatahallError as error:
        return False, f"answer segment {segment.id}: {error.what}"
