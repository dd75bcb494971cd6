"""Decides which replicas start and stop and what the route table says, so that no request is lost on the way."""

from __future__ import annotations

from typing import Literal

import msgspec

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 30.0
MAX_DOUBLINGS = 30
"""Beyond it a wait doubles no more: what has failed a thousand times would have no number for its wait."""
STEADY_S = 60.0
"""A deployment whose replicas have all been ready for so long has its failures forgotten."""


class DeploymentView(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment as the rollout sees it."""

    id: str
    app: str
    state: Literal["live", "retired"]
    num_replicas: int


class ReplicaView(msgspec.Struct, frozen=True, kw_only=True):
    """A replica that has not ended."""

    id: str
    deployment: str
    state: Literal["starting", "ready", "draining"]


class Routed(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One line of the route table: an app, whose deployment answers, and its replicas, sorted."""

    app: str
    deployment: str
    replicas: tuple[str, ...]


class RolloutView(msgspec.Struct, frozen=True, kw_only=True):
    """What is known: deployments, living replicas, the published table and who has followed it."""

    deployments: tuple[DeploymentView, ...]
    replicas: tuple[ReplicaView, ...]
    routed: tuple[Routed, ...]
    revision: int
    """Of the published table."""
    acknowledged: int
    """The lowest revision that every living gateway follows."""


class ReplicaEnded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A replica ended that nobody had asked to end."""

    deployment: str


class Tick(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Nothing happened but time."""


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """How often a deployment's replicas have died in a row, and when the next may start."""

    num_failures: int
    not_before_ns: int
    whole_since_ns: int | None = None
    """Since when all its replicas are ready; None while one is missing."""


RolloutState = dict[str, Retry]
"""Deployment id to its retries; empty at first."""


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """What to do now: `start` holds one deployment id per replica to start; `routes` None means no change."""

    start: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    routes: tuple[Routed, ...] | None = None


def decide(
    state: RolloutState, view: RolloutView, event: ReplicaEnded | Tick, now: int, draw: float
) -> tuple[RolloutState, Rollout, str]:
    """Replace strategy: new replicas are ready before they get traffic, old ones go once nobody sends to them.

    `now` is in nanoseconds; `draw` is not used: nothing here is random. A deployment that never becomes
    ready never gets traffic, and the one before it keeps its own.
    """
    assert 0.0 <= draw < 1.0, "draw is a uniform number"
    if isinstance(event, ReplicaEnded):
        state = {**state, event.deployment: _after_failure(state.get(event.deployment), now)}
    live = sorted((d for d in view.deployments if d.state == "live"), key=lambda d: d.id)
    ready = {d.id: _replicas(view, d.id, "ready") for d in view.deployments}
    # One that becomes ready and dies again, over and over, must not be started as if it were for the first time.
    wanted = {d.id: d.num_replicas for d in view.deployments}
    retries = {
        key: _watched(retry, len(ready[key]) >= wanted[key], now) for key, retry in state.items() if key in ready
    }
    state = {key: retry for key, retry in retries.items() if retry is not None}

    start: list[str] = []
    for deployment in live:
        alive = len(ready[deployment.id]) + len(_replicas(view, deployment.id, "starting"))
        retry = state.get(deployment.id)
        if alive < deployment.num_replicas and (retry is None or retry.not_before_ns <= now):
            start += [deployment.id] * (deployment.num_replicas - alive)

    routes = _routes(view, live, ready)
    changed = routes != tuple(sorted(view.routed))
    stop = () if changed or view.acknowledged < view.revision else _unneeded(view, live)
    reason = _reason(start, stop, changed)
    return state, Rollout(start=tuple(start), stop=stop, routes=routes if changed else None), reason


def _after_failure(retry: Retry | None, now: int) -> Retry:
    num_failures = (retry.num_failures if retry else 0) + 1
    wait_s = min(FIRST_RETRY_S * 2.0 ** min(num_failures - 1, MAX_DOUBLINGS), LAST_RETRY_S)
    return Retry(num_failures=num_failures, not_before_ns=now + int(wait_s * 1e9))


def _watched(retry: Retry, whole: bool, now: int) -> Retry | None:
    """Return what is remembered of a deployment's failures: nothing once it has been whole for long enough."""
    if not whole:
        return retry if retry.whole_since_ns is None else msgspec.structs.replace(retry, whole_since_ns=None)
    if retry.whole_since_ns is None:
        return msgspec.structs.replace(retry, whole_since_ns=now)
    return None if now - retry.whole_since_ns >= STEADY_S * 1e9 else retry


def _replicas(view: RolloutView, deployment: str, state: str) -> tuple[str, ...]:
    return tuple(sorted(r.id for r in view.replicas if r.deployment == deployment and r.state == state))


def _routes(view: RolloutView, live: list[DeploymentView], ready: dict[str, tuple[str, ...]]) -> tuple[Routed, ...]:
    before = {routed.app: routed for routed in view.routed}
    routes = []
    for deployment in live:
        old = before.get(deployment.app)
        has_traffic = old is not None and old.deployment == deployment.id
        # A newcomer waits until it is whole; one that already answers keeps answering with what it has left.
        if ready[deployment.id] and (has_traffic or len(ready[deployment.id]) >= deployment.num_replicas):
            routes.append(Routed(app=deployment.app, deployment=deployment.id, replicas=ready[deployment.id]))
        elif old is not None and not has_traffic:
            left = tuple(r for r in old.replicas if r in ready.get(old.deployment, ()))
            routes.append(Routed(app=old.app, deployment=old.deployment, replicas=left))
        elif has_traffic:
            routes.append(Routed(app=deployment.app, deployment=deployment.id, replicas=()))
    return tuple(sorted(routes))


def _unneeded(view: RolloutView, live: list[DeploymentView]) -> tuple[str, ...]:
    wanted = {deployment.id for deployment in live} | {routed.deployment for routed in view.routed}
    return tuple(sorted(r.id for r in view.replicas if r.deployment not in wanted and r.state != "draining"))


def _reason(start: list[str], stop: tuple[str, ...], changed: bool) -> str:
    parts = []
    if start:
        parts.append(f"{len(start)} replica(s) missing")
    if changed:
        parts.append("the set of ready replicas changed")
    if stop:
        parts.append(f"{len(stop)} replica(s) no longer routed by any gateway")
    return "; ".join(parts) or "nothing to do"
