"""Waits until the hall really answers, asked the way that clients ask."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from datahall.app.supervision import SupervisorState
from datahall.core.errors import UnavailableError
from datahall.core.hall import HallPaths
from datahall.core.ports import Clock
from datahall.security.keys import KeyRing
from datahall.serve.table import FileRouteSource

ANSWER_SECONDS = 60.0
_POLL_S = 0.05


def await_answers(paths: HallPaths, state: SupervisorState, deployment: str, version: str, clock: Clock) -> None:
    """Return once the gateway follows a table in which `deployment` has replicas, and reaches them.

    Raises UnavailableError where that takes over a minute; what answered before still does.
    """
    keys = KeyRing.open(paths.keys)
    source = FileRouteSource(paths.routes, {keys.signer.key_id: keys.signer.public_key}, keys.routes_key)
    wanted: list[int] = []  # revisions of the tables in which it has replicas

    def answers() -> bool:
        table = source.poll()
        if table is not None:
            routed = any(route.deployment == deployment and route.replicas for route in table.routes)
            wanted[:] = [table.revision] if routed else []
        said = client.get("/readyz")
        return bool(wanted) and said.status_code == 200 and int(said.json()["revision"]) >= wanted[0]

    with httpx.Client(base_url=state.url, timeout=5.0) as client:
        _await(version, answers, clock)


def _await(what: str, holds: Callable[[], bool], clock: Clock) -> None:
    deadline = clock.monotonic_ns() + int(ANSWER_SECONDS * 1e9)
    while clock.monotonic_ns() < deadline:
        try:
            if holds():
                return
        except httpx.HTTPError:
            pass  # it does not listen yet
        clock.sleep(_POLL_S)
    raise UnavailableError(f"{what} did not answer within {ANSWER_SECONDS:.0f} s", hint="see: datahall ps")
