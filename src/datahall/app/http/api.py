"""The routes of control: plans, lifecycles, status, provenance and keys."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from datahall.app.calls import HEADER, REPLAYED, Once
from datahall.app.control import Control
from datahall.app.events import Broke, Event, Notify
from datahall.app.http.guard import answer, body_of, install_errors, key_of, once_named
from datahall.app.jobs import Cancel
from datahall.core.errors import DatahallError, RepeatedError, SpecError, UserError
from datahall.core.ports import Catalogue, Clock
from datahall.core.records import KeyGrant, Priority
from datahall.security.access import PERMISSIONS, authorize

Handler = Callable[[Request], Awaitable[Response]]


class FileBody(msgspec.Struct, forbid_unknown_fields=True):
    """Names an application file on the hall's machine."""

    file: str


class KeyBody(msgspec.Struct, forbid_unknown_fields=True):
    """Asks for an API key."""

    name: str
    scopes: tuple[str, ...]
    team: str = "main"
    days: float | None = None
    priority: Priority = "normal"


class RotateBody(msgspec.Struct, forbid_unknown_fields=True):
    """Asks for a new master key."""

    retire: bool = False


class BackupBody(msgspec.Struct, forbid_unknown_fields=True):
    """Names the file that a backup is to be, on the hall's machine."""

    file: str
    replace: bool = False


class Api:
    """What each route does, once its caller may."""

    def __init__(self, control: Control) -> None:
        self._control = control

    async def healthz(self, request: Request) -> Response:
        """Say that control is there."""
        del request
        return answer({"status": "ok"})

    async def plan(self, request: Request) -> Response:
        """Say what a run of an application file would do."""
        body = await body_of(request, FileBody)
        return answer(await asyncio.to_thread(self._control.plan, Path(body.file)))

    async def run(self, request: Request) -> Response:
        """Run an application's lifecycle, an event a line; a caller who leaves stops it."""
        body = await body_of(request, FileBody)
        return _streamed(partial(self._control.run, Path(body.file), once=request.state.once))

    async def status(self, request: Request) -> Response:
        """Show the hall at a glance, as far as the key's team goes."""
        return answer(await asyncio.to_thread(self._control.status, _team_of(request)))

    async def provenance(self, request: Request) -> Response:
        """Follow an answer back to its origins."""
        asked = request.path_params["answer_id"]
        return answer(await asyncio.to_thread(self._control.provenance, asked, _team_of(request)))

    async def report(self, request: Request) -> Response:
        """Show what is proven about an application."""
        return answer(await asyncio.to_thread(self._control.report, request.path_params["app"], _team_of(request)))

    async def list_keys(self, request: Request) -> Response:
        """List every key that was issued, without its text."""
        del request
        return answer(await asyncio.to_thread(self._control.keys))

    async def issue_key(self, request: Request) -> Response:
        """Issue a key; its text is in this one answer."""
        body = await body_of(request, KeyBody)
        issue = partial(self._control.issue_key, priority=body.priority, once=request.state.once)
        made = await asyncio.to_thread(issue, body.name, body.scopes, body.team, body.days)
        return answer(made, status=201)

    async def revoke_key(self, request: Request) -> Response:
        """Make a key worthless."""
        revoke = partial(self._control.revoke_key, request.path_params["key_id"], once=request.state.once)
        return answer(await asyncio.to_thread(revoke))

    async def rotate_keys(self, request: Request) -> Response:
        """Wrap every data key under a new master key; `retire` destroys the old ones."""
        body = await body_of(request, RotateBody)
        rotate = partial(self._control.rotate_keys, retire=body.retire, once=request.state.once)
        return answer(await asyncio.to_thread(rotate))

    async def backup(self, request: Request) -> Response:
        """Back the hall up into a file of its machine, an event a line; a caller who leaves stops it."""
        if HEADER in request.headers:
            raise UserError(
                f"a backup takes no {HEADER}: each call makes one anew", where=HEADER, hint="leave the header out"
            )
        body = await body_of(request, BackupBody)
        file = Path(body.file)
        if not file.is_absolute():
            raise UserError("a backup needs an absolute path", where=body.file[:200])
        return _streamed(partial(self._control.backup, file, body.replace))


class ApiRoute(NamedTuple):
    """One route: no route exists without the permission that it needs."""

    method: str
    path: str
    permission: str
    handler: str
    """Name of a method of Api."""
    mutates: bool = False
    """Whether it changes something: then it honours an idempotency key."""
    status: int = 200
    """What it answers with when all went well."""
    media_type: str = "application/json"


ROUTES: Final = (
    ApiRoute("GET", "/api/v1/healthz", "public", "healthz"),
    ApiRoute("POST", "/api/v1/plan", "admin", "plan"),
    ApiRoute("POST", "/api/v1/runs", "admin", "run", mutates=True, media_type="application/x-ndjson"),
    ApiRoute("GET", "/api/v1/status", "read", "status"),
    ApiRoute("GET", "/api/v1/answers/{answer_id}/provenance", "read", "provenance"),
    ApiRoute("GET", "/api/v1/apps/{app}/report", "read", "report"),
    ApiRoute("GET", "/api/v1/keys", "admin", "list_keys"),
    ApiRoute("POST", "/api/v1/keys", "admin", "issue_key", mutates=True, status=201),
    ApiRoute("POST", "/api/v1/master-keys", "admin", "rotate_keys", mutates=True),
    ApiRoute("POST", "/api/v1/backups", "admin", "backup"),
    ApiRoute("DELETE", "/api/v1/keys/{key_id}", "admin", "revoke_key", mutates=True),
)
"""Every route of control. Plans and runs read files of this machine by path, and backups write one: they take `admin`."""


def make_api(control: Control, catalogue: Catalogue, clock: Clock) -> FastAPI:
    """Return the control API over ROUTES."""
    app = FastAPI(title="Datahall control", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    install_errors(app)
    api = Api(control)
    for route in ROUTES:
        handler = getattr(api, route.handler)
        handler = _guarded(route, _once(route, handler, control) if route.mutates else handler, catalogue, clock)
        app.add_route(route.path, handler, methods=[route.method], name=route.handler)
    return app


def _team_of(request: Request) -> str:
    """Return the team of the key that came with a request; there is one on every route that is not public."""
    grant: KeyGrant = request.state.grant
    return grant.team


def _guarded(route: ApiRoute, handler: Handler, catalogue: Catalogue, clock: Clock) -> Handler:
    assert route.permission in PERMISSIONS, f"{route.path} needs a permission that exists"

    async def guarded(request: Request) -> Response:
        if route.permission != "public":
            request.state.grant = await asyncio.to_thread(key_of, request, catalogue, clock.now_ns())
            authorize(request.state.grant, route.permission)
        return await handler(request)

    guarded.permission = route.permission  # type: ignore[attr-defined]
    return guarded


def _once(route: ApiRoute, handler: Handler, control: Control) -> Handler:
    """Give a call that was made before its answer again, and do nothing."""

    async def replayed(once: Once) -> Response | None:
        said = await asyncio.to_thread(control.calls.answered, once)
        if said is None:
            return None
        return Response(said, status_code=route.status, media_type=route.media_type, headers={REPLAYED: "true"})

    async def guarded(request: Request) -> Response:
        once = request.state.once = await once_named(request, request.state.grant)
        if once is not None and (before := await replayed(once)) is not None:
            return before
        try:
            return await handler(request)
        except RepeatedError:  # another of the same calls was faster
            assert once is not None, "only a call with a key can be repeated"
            before = await replayed(once)
            assert before is not None, "what repeats a call has its answer"
            return before

    return guarded


Work = Callable[[Notify, Cancel], object]
"""What takes long and tells what happens: a lifecycle, a backup."""
_FAILED: Final = "control failed at it, and cannot say why"


def _streamed(work: Work) -> Response:
    return StreamingResponse(_stream(work), media_type="application/x-ndjson")


async def _stream(long_work: Work) -> AsyncIterator[bytes]:
    """Do `long_work` in a thread and yield its events; a caller who leaves stops it."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Event | None] = asyncio.Queue()
    cancel = Cancel()

    def notify(event: Event) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    def work() -> None:
        try:
            long_work(notify, cancel)
        except DatahallError as error:
            notify(broke(error))
        except Exception:  # a mistake of ours: its traceback goes into the log, but whoever follows must hear the end
            notify(Broke(error="UnavailableError", what=_FAILED, hint="see: datahall logs control"))
            raise
        finally:
            loop.call_soon_threadsafe(events.put_nowait, None)

    worker = threading.Thread(target=work, name="long-work", daemon=True)
    worker.start()
    try:
        while (event := await events.get()) is not None:
            yield msgspec.json.encode(event) + b"\n"
    finally:
        cancel.ask()


def broke(error: DatahallError) -> Broke:
    """Return an error as the last event of a lifecycle."""
    problems = tuple(problem.as_dict() for problem in error.problems) if isinstance(error, SpecError) else ()
    return Broke(error=type(error).__name__, what=error.what, where=error.where, hint=error.hint, problems=problems)
