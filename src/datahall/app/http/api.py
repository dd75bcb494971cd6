"""The routes of control: plans, lifecycles, status, provenance and keys."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from datahall.app.control import Control
from datahall.app.events import Broke, Event
from datahall.app.http.guard import answer, body_of, install_errors, key_of, permission
from datahall.app.jobs import Cancel
from datahall.core.errors import DatahallError, SpecError
from datahall.core.ports import Catalogue, Clock
from datahall.security.access import authorize


class FileBody(msgspec.Struct, forbid_unknown_fields=True):
    """Names an application file on the hall's machine."""

    file: str


class KeyBody(msgspec.Struct, forbid_unknown_fields=True):
    """Asks for an API key."""

    name: str
    scopes: tuple[str, ...]
    team: str = "main"
    days: float | None = None


def make_api(control: Control, catalogue: Catalogue, clock: Clock) -> FastAPI:
    """Return the control API. Every function below says which permission its route needs."""
    app = FastAPI(title="Datahall control", docs_url=None, redoc_url=None, openapi_url=None)
    install_errors(app)

    @permission("public")
    async def healthz(request: Request) -> Response:
        del request
        return answer({"status": "ok"})

    @permission("run")
    async def plan(request: Request) -> Response:
        body = await body_of(request, FileBody)
        return answer(await asyncio.to_thread(control.plan, Path(body.file)))

    @permission("run")
    async def run(request: Request) -> Response:
        body = await body_of(request, FileBody)
        return StreamingResponse(_stream(control, Path(body.file)), media_type="application/x-ndjson")

    @permission("read")
    async def status(request: Request) -> Response:
        del request
        return answer(await asyncio.to_thread(control.status))

    @permission("read")
    async def provenance(request: Request) -> Response:
        return answer(await asyncio.to_thread(control.provenance, request.path_params["answer_id"]))

    @permission("read")
    async def report(request: Request) -> Response:
        return answer(await asyncio.to_thread(control.report, request.path_params["app"]))

    @permission("admin")
    async def list_keys(request: Request) -> Response:
        del request
        return answer(await asyncio.to_thread(control.keys))

    @permission("admin")
    async def make_key(request: Request) -> Response:
        body = await body_of(request, KeyBody)
        return answer(
            await asyncio.to_thread(control.issue_key, body.name, body.scopes, body.team, body.days), status=201
        )

    @permission("admin")
    async def revoke_key(request: Request) -> Response:
        return answer(await asyncio.to_thread(control.revoke_key, request.path_params["key_id"]))

    for method, path, function in (
        ("GET", "/api/v1/healthz", healthz),
        ("POST", "/api/v1/plan", plan),
        ("POST", "/api/v1/runs", run),
        ("GET", "/api/v1/status", status),
        ("GET", "/api/v1/answers/{answer_id}/provenance", provenance),
        ("GET", "/api/v1/apps/{app}/report", report),
        ("GET", "/api/v1/keys", list_keys),
        ("POST", "/api/v1/keys", make_key),
        ("DELETE", "/api/v1/keys/{key_id}", revoke_key),
    ):
        _add(app, method, path, function, catalogue, clock)
    return app


def _add(app: FastAPI, method: str, path: str, function: Any, catalogue: Catalogue, clock: Clock) -> None:
    needed: str = function.permission

    async def guarded(request: Request) -> Response:
        if needed != "public":
            authorize(await asyncio.to_thread(key_of, request, catalogue, clock.now_ns()), needed)
        response: Response = await function(request)
        return response

    guarded.permission = needed  # type: ignore[attr-defined]
    app.add_route(path, guarded, methods=[method], name=function.__name__)


async def _stream(control: Control, file: Path) -> AsyncIterator[bytes]:
    """Run a lifecycle in a thread and yield its events; a caller who leaves stops it."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Event | None] = asyncio.Queue()
    cancel = Cancel()

    def notify(event: Event) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    def work() -> None:
        try:
            control.run(file, notify, cancel)
        except DatahallError as error:
            notify(broke(error))
        finally:
            loop.call_soon_threadsafe(events.put_nowait, None)

    worker = threading.Thread(target=work, name="lifecycle", daemon=True)
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
