"""The operations of a hall that another process holds, asked for over its Unix socket."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from datahall.app.calls import HEADER
from datahall.app.control import KeyStatus, NewKey, Rotated, Status
from datahall.app.events import AnyEvent, BackedUp, Broke, Ended, Event, Notify, Planned
from datahall.app.jobs import Cancel
from datahall.core import errors
from datahall.core.clock import SystemClock
from datahall.core.ports import Clock
from datahall.core.records import Priority
from datahall.registry.provenance import Provenance
from datahall.registry.report import Report

T = TypeVar("T")
E = TypeVar("E", bound=Event)
_LONGEST_S = 30.0
_RETRY_S = (0.2, 0.5, 1.0, 2.0, None)
"""How long to wait for a control that ended: its supervisor starts it again within seconds."""
_CUT_OFF = (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
"""What a control that ended looks like. One that is slow does not: it is at work on what was asked."""


class RemoteControl:
    """Talks to the control process; fulfils Operations."""

    def __init__(self, socket: Path, key: str, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._client = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket)),
            base_url="http://control",
            headers={"Authorization": f"Bearer {key}"},
            timeout=_LONGEST_S,
        )

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def plan(self, file: Path) -> Planned:
        """Return what a run of this application file would do."""
        return self._ask("POST", "/api/v1/plan", Planned, {"file": str(file.absolute())})

    def run(self, file: Path, notify: Notify, cancel: Cancel) -> Ended:
        """Take the application through its lifecycle over there; leaving stops it."""
        return self._follow("/api/v1/runs", {"file": str(file.absolute())}, Ended, notify, cancel)

    def backup(self, file: Path, replace: bool, notify: Notify, cancel: Cancel) -> BackedUp:
        """Write all of the hall but its keys into a file; leaving stops it."""
        body = {"file": str(file.absolute()), "replace": replace}
        return self._follow("/api/v1/backups", body, BackedUp, notify, cancel)

    def status(self) -> Status:
        """Return the hall at a glance."""
        return self._ask("GET", "/api/v1/status", Status)

    def provenance(self, answer_id: str) -> Provenance:
        """Return the proven way of an answer back to its origins."""
        return self._ask("GET", f"/api/v1/answers/{_quoted(answer_id)}/provenance", Provenance)

    def report(self, app: str) -> Report:
        """Return what is proven about an application."""
        return self._ask("GET", f"/api/v1/apps/{_quoted(app)}/report", Report)

    def issue_key(
        self, name: str, scopes: tuple[str, ...], team: str, days: float | None, *, priority: Priority = "normal"
    ) -> NewKey:
        """Issue an API key."""
        body = {"name": name, "scopes": list(scopes), "team": team, "days": days, "priority": priority}
        return self._ask("POST", "/api/v1/keys", NewKey, body)

    def keys(self) -> tuple[KeyStatus, ...]:
        """Return every key that was issued."""
        return self._ask("GET", "/api/v1/keys", tuple[KeyStatus, ...])

    def revoke_key(self, key_id: str) -> KeyStatus:
        """Make a key worthless, now."""
        return self._ask("DELETE", f"/api/v1/keys/{_quoted(key_id)}", KeyStatus)

    def rotate_keys(self, *, retire: bool) -> Rotated:
        """Wrap every data key under a new master key."""
        return self._ask("POST", "/api/v1/master-keys", Rotated, {"retire": retire}, longest_s=None)

    def _follow(self, path: str, body: dict[str, Any], last: type[E], notify: Notify, cancel: Cancel) -> E:
        """Tell every event of what control does, and return the one of class `last`."""
        with (
            _words(),
            self._client.stream("POST", path, json=body, timeout=httpx.Timeout(_LONGEST_S, read=None)) as said,
        ):
            if said.status_code != 200:
                said.read()
                raise _error(said)
            with cancel.calling(said.close):
                for line in said.iter_lines():
                    event: AnyEvent = msgspec.json.decode(line, type=AnyEvent)
                    if isinstance(event, Broke):
                        raise _rebuilt(event)
                    notify(event)
                    if isinstance(event, last):
                        return event
        raise errors.UnavailableError("control ended before it was done", hint="run it again")

    def _ask(
        self,
        method: str,
        path: str,
        kind: type[T],
        body: dict[str, Any] | None = None,
        *,
        longest_s: float | None = _LONGEST_S,
    ) -> T:
        """Ask control, and ask again if it ends meanwhile: the idempotency key lets no call have two effects."""
        headers, timeout = {HEADER: uuid.uuid4().hex}, httpx.Timeout(_LONGEST_S, read=longest_s)
        with _words():
            for pause_s in _RETRY_S:
                try:
                    said = self._client.request(method, path, json=body, headers=headers, timeout=timeout)
                    break
                except _CUT_OFF:
                    if pause_s is None:
                        raise
                    self._clock.sleep(pause_s)
        if said.status_code >= 400:
            raise _error(said)
        return msgspec.json.decode(said.content, type=kind)


def _quoted(name: str) -> str:
    """Return a name as one part of a path, whatever somebody typed."""
    return quote(name, safe="")


@contextmanager
def _words() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise errors.UnavailableError(
            f"control does not answer: {error or type(error).__name__}", hint="see: datahall logs control"
        ) from error


def _error(said: httpx.Response) -> errors.DatahallError:
    try:
        body = msgspec.json.decode(said.content, type=dict[str, Any])
    except msgspec.DecodeError:
        return errors.UnavailableError(f"control answered {said.status_code}")
    event = Broke(
        error=body.get("kind", ""),
        what=body.get("error", ""),
        hint=body.get("hint", ""),
        problems=tuple(body.get("problems", ())),
    )
    return _rebuilt(event)


def _rebuilt(event: Broke) -> errors.DatahallError:
    """Return the error that was raised over there, so that exit codes and words are the same here."""
    if event.problems:
        return errors.SpecError(tuple(errors.Problem(**problem) for problem in event.problems))
    kind = getattr(errors, event.error, None)
    if not (isinstance(kind, type) and issubclass(kind, errors.DatahallError)):
        kind = errors.UnavailableError
    return kind(event.what, where=event.where, hint=event.hint)
