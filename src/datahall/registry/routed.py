"""What an answer's id proves when its record is gone: the routes of its revision, and so the versions it can be from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from datahall.core.clock import iso
from datahall.core.errors import DatahallError, NotFoundError
from datahall.core.ports import Catalogue
from datahall.core.records import Deployment, Entry, Record, RouteTable, Version
from datahall.registry.exhibits import Anchored
from datahall.registry.provenance import Link, Provenance, chain_from, follow

_TABLE_ID = "current"  # the one table that there is


class RoutedLine(msgspec.Struct, frozen=True, kw_only=True):
    """Where one application's answers came from under one revision of the routes."""

    app: str
    team: str
    deployment: str
    version: str
    bundle: str


class IdFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What an id says once it has been opened, and so proven."""

    id: str
    gateway: str
    sequence: int
    route_revision: int
    at_ns: int


def routes_at(catalogue: Catalogue, revision: int) -> tuple[Entry, tuple[RoutedLine, ...]]:
    """Return the entry that published a revision of the routes, and its lines. Raises NotFoundError."""
    for entry in reversed(catalogue.touching(RouteTable.KIND, _TABLE_ID)):
        if entry.kind == "routes.published" and entry.body.get("revision") == revision and "routes" in entry.body:
            return entry, msgspec.convert(tuple(entry.body["routes"]), tuple[RoutedLine, ...])
    raise NotFoundError(f"the ledger does not tell what revision {revision} of the routes was")


def trace_id(
    catalogue: Catalogue,
    anchored: Anchored,
    facts: IdFacts,
    state: Literal["lost", "erased"],
    *,
    sees: Callable[[str], bool],
    proven: Callable[[Entry], bool],
) -> Provenance:
    """Return where an answer came from as far as its id alone tells.

    The id's revision names one version of each application that had traffic then: with one application the version is
    known, with several it is one of those shown. `sees` says of a team whether it may be told of, `proven` of an entry
    whether it lies under a signed checkpoint. Raises NotFoundError where no team that may be told of had a route.
    """
    entry, lines = routes_at(catalogue, facts.route_revision)
    shown = [line for line in lines if sees(line.team)]
    if not shown:
        raise NotFoundError("this is not an answer id of this key's team", where=facts.id[:80])
    links, problems = [_answer_link(facts, state), _routes_link(entry, facts, shown, proven)], []
    problems += [f"routes {link.id}: {link.problem}" for link in links if link.problem]
    for line in shown:
        found, wrong, records = follow(anchored, chain_from(catalogue, line.deployment, line.version, line.bundle))
        links += found
        problems += wrong + list(_misfits(line, records))
    return Provenance(
        answer=facts.id,
        verified=not problems and all(link.proven for link in links),
        sealed=False,
        record=state,
        links=tuple(links),
        problems=tuple(problems),
    )


def _answer_link(facts: IdFacts, state: str) -> Link:
    told = {
        "record": state,
        "at": iso(facts.at_ns),
        "gateway": facts.gateway,
        "sequence": facts.sequence,
        "route_revision": facts.route_revision,
    }
    return Link(noun="answer", id=facts.id, facts=told, proven=True)


def _routes_link(entry: Entry, facts: IdFacts, lines: list[RoutedLine], proven: Callable[[Entry], bool]) -> Link:
    told = {"published": iso(entry.at_ns), "versions": [line.version for line in lines]}
    problem = ""
    try:
        holds = proven(entry)
        problem = "" if holds else "it is not in the signed ledger yet"
    except DatahallError as error:
        holds, problem = False, error.what
    return Link(noun="routes", id=f"revision {facts.route_revision}", facts=told, proven=holds, problem=problem)


def _misfits(line: RoutedLine, records: Iterable[Record]) -> Iterable[str]:
    """Yield what does not fit the line that the ledger holds."""
    for record in records:
        if getattr(record, "bundle", line.bundle) != line.bundle:
            yield f"{record.KIND} {record.id} is about another bundle than the routes"
        if isinstance(record, Deployment) and record.version != line.version:
            yield f"deployment {record.id} runs another version"
        if isinstance(record, Version) and record.id != line.version:
            yield f"version {record.id} is not the one of the routes"
