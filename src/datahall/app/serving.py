"""Waits until a version really answers, asked the way that clients ask."""

from __future__ import annotations

import httpx

from datahall.app.supervision import SupervisorState
from datahall.core.errors import UnavailableError
from datahall.core.hall import HallPaths
from datahall.core.ports import Clock

ANSWER_SECONDS = 60.0
_POLL_S = 0.05


def await_answers(paths: HallPaths, state: SupervisorState, app: str, version: str, clock: Clock) -> None:
    """Return once the gateway says that `version` of `app` is ready.

    Raises UnavailableError where that takes more than a minute; what answered before still does.
    """
    key = paths.owner_key.read_text().strip()
    deadline = clock.monotonic_ns() + int(ANSWER_SECONDS * 1e9)
    with httpx.Client(base_url=state.url, headers={"Authorization": f"Bearer {key}"}, timeout=5.0) as client:
        while clock.monotonic_ns() < deadline:
            try:
                said = client.get(f"/v2/models/{app}/versions/{version}/ready")
            except httpx.HTTPError:  # not listening yet
                said = None
            if said is not None and said.status_code == 200:
                return
            clock.sleep(_POLL_S)
    raise UnavailableError(f"{version} did not answer within {ANSWER_SECONDS:.0f} s", hint="see: datahall ps")
