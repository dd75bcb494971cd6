"""Makes the route table that gateways follow out of what the rollout decided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from datahall.core.errors import RefusedError
from datahall.core.records import Bundle, Deployment, KeyGrant, Replica, Route, RouteReplica, RouteTable, TeamRule
from datahall.policy.rollout import Routed

TABLE_ID = "current"


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What a table says beside its routes."""

    keys: dict[str, KeyGrant]
    """By the SHA-256 of their text."""
    teams: dict[str, TeamRule] = {}
    num_gateways: int = 1


def rules_of(table: RouteTable | None) -> Rules:
    """Return what a table says beside its routes."""
    if table is None:
        return Rules(keys={})
    return Rules(keys=table.keys, teams=table.teams, num_gateways=table.num_gateways)


def routed_by(table: RouteTable | None) -> tuple[Routed, ...]:
    """Return the lines of a table as the rollout policy sees them, sorted."""
    routes = table.routes if table else ()
    return tuple(
        sorted(
            Routed(app=route.app, deployment=route.deployment, replicas=tuple(sorted(r.id for r in route.replicas)))
            for route in routes
        )
    )


def routes_body(table: RouteTable) -> list[dict[str, str]]:
    """Return what the ledger keeps of a table for good: an answer id names its revision, so it proves what answered."""
    return [
        {
            "app": route.app,
            "team": route.team,
            "deployment": route.deployment,
            "version": route.version,
            "bundle": route.bundle,
        }
        for route in table.routes
    ]


def next_table(
    before: RouteTable | None,
    routed: Iterable[Routed],
    deployments: Mapping[str, Deployment],
    bundles: Mapping[str, Bundle],
    replicas: Mapping[str, Replica],
    rules: Rules,
    now_ns: int,
) -> RouteTable:
    """Return the table with the next revision; `bundles` and `replicas` by id.

    Raises RefusedError for a replica that runs another bundle than its deployment.
    """
    return RouteTable(
        id=TABLE_ID,
        revision=before.revision + 1 if before else 1,
        routes=tuple(_route(line, deployments[line.deployment], bundles, replicas) for line in routed),
        keys=dict(sorted(rules.keys.items())),
        published_at_ns=now_ns,
        teams=dict(sorted(rules.teams.items())),
        num_gateways=rules.num_gateways,
    )


def _route(
    line: Routed, deployment: Deployment, bundles: Mapping[str, Bundle], replicas: Mapping[str, Replica]
) -> Route:
    for name in line.replicas:
        if (replicas[name].deployment, replicas[name].bundle) != (deployment.id, deployment.bundle):
            raise RefusedError(f"the replica {name} runs something else than {deployment.id}", hint="datahall verify")
    return Route(
        app=line.app,
        team=deployment.team,
        deployment=deployment.id,
        version=deployment.version,
        manifest=bundles[deployment.bundle].manifest,
        bundle=deployment.bundle,
        replicas=tuple(RouteReplica(id=name, address=replicas[name].address) for name in line.replicas),
        protocols=deployment.protocols,
        quota=deployment.quota,
        cache_seconds=deployment.cache_seconds,
    )
