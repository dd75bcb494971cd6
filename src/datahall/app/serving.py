"""Waits until the hall really answers, asked the way that clients ask."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from datahall.app.supervision import SupervisorState
from datahall.core.errors import UnavailableError
from datahall.core.hall import HallPaths
from datahall.core.ports import Clock

ANSWER_SECONDS = 60.0
_POLL_S = 0.05


def await_ready(state: SupervisorState, clock: Clock) -> None:
    """Return once everything that is released answers. Raises UnavailableError where that takes over a minute."""
    with httpx.Client(base_url=state.url, timeout=5.0) as client:
        _await("the hall", lambda: client.get("/v2/health/ready"), clock)


def await_answers(paths: HallPaths, state: SupervisorState, app: str, version: str, clock: Clock) -> None:
    """Return once the gateway says that `version` of `app` is ready.

    Raises UnavailableError where that takes over a minute; what answered before still does.
    """
    key = paths.owner_key.read_text().strip()
    with httpx.Client(base_url=state.url, headers={"Authorization": f"Bearer {key}"}, timeout=5.0) as client:
        _await(version, lambda: client.get(f"/v2/models/{app}/versions/{version}/ready"), clock)


def _await(what: str, ask: Callable[[], httpx.Response], clock: Clock) -> None:
    deadline = clock.monotonic_ns() + int(ANSWER_SECONDS * 1e9)
    while clock.monotonic_ns() < deadline:
        try:
            if ask().status_code == 200:
                return
        except httpx.HTTPError:
            pass  # it does not listen yet
        clock.sleep(_POLL_S)
    raise UnavailableError(f"{what} did not answer within {ANSWER_SECONDS:.0f} s", hint="see: datahall ps")
