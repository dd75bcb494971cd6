"""Who may call a route: a declared permission, checked against the caller's key before anything else happens."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from datahall.app.calls import HEADER, Once, once_of
from datahall.core.errors import DatahallError, SpecError, UnavailableError, UserError
from datahall.core.ports import Catalogue
from datahall.core.records import ApiKey, KeyGrant
from datahall.security.access import authenticate, hash_key, key_grants, key_text

MAX_BODY_BYTES = 1 << 20
T = TypeVar("T")


def key_of(request: Request, catalogue: Catalogue, now_ns: int) -> KeyGrant:
    """Return what the key that a request carries may do.

    Raises UnauthenticatedError for none, an unknown, a revoked or an expired one.
    """
    text = key_text(request.headers.get("authorization"), request.headers.get("x-api-key"))
    found = catalogue.find(ApiKey, sha256=hash_key(text)) if text else []
    return authenticate(text, key_grants(found, now_ns), now_ns)


async def body_of(request: Request, kind: type[T]) -> T:
    """Return a request's JSON body as `kind`. Raises UserError that says what is wrong with it."""
    try:
        return msgspec.json.decode(await _bytes_of(request), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"the body is not what this route takes: {error}") from error


async def once_named(request: Request, grant: KeyGrant) -> Once | None:
    """Return what names a call that must have one effect however often it is made, None where it carries no key."""
    key = request.headers.get(HEADER)
    if key is None:
        return None
    return once_of(key, grant.key_id, request.method, request.url.path, await _bytes_of(request))


async def _bytes_of(request: Request) -> bytes:
    """Return a request's body, read once. Raises UserError for one that is too large."""
    if not hasattr(request.state, "body"):
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > MAX_BODY_BYTES:
                raise UserError(f"the body is larger than {MAX_BODY_BYTES} bytes")
        request.state.body = bytes(data)
    body: bytes = request.state.body
    return body


def answer(value: Any, status: int = 200) -> Response:
    """Return a JSON response."""
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


def install_errors(app: FastAPI) -> None:
    """Answer every DatahallError with its status and words, and never with a traceback."""

    @app.exception_handler(DatahallError)
    async def _said(request: Request, error: DatahallError) -> JSONResponse:
        del request
        body: dict[str, Any] = {"error": error.what, "kind": type(error).__name__, "hint": error.hint}
        if isinstance(error, SpecError):
            body["problems"] = [problem.as_dict() for problem in error.problems]
        headers = {"Retry-After": "1"} if isinstance(error, UnavailableError) else None
        return JSONResponse(body, status_code=error.http_status, headers=headers)

    @app.exception_handler(HTTPException)
    async def _nowhere(request: Request, error: HTTPException) -> JSONResponse:
        """Say in the house's own form that a path or a method is not there."""
        del request
        body = {"error": error.detail, "kind": "NotFoundError" if error.status_code == 404 else "UserError", "hint": ""}
        return JSONResponse(body, status_code=error.status_code, headers=dict(error.headers or {}))
