"""HTTP/1.1 responses as bytes (RFC 9112), and errors as JSON that says what was wrong and what to do."""

from __future__ import annotations

import http
from email.utils import formatdate

import msgspec

from datahall.core.errors import DatahallError, UnavailableError

_REASONS = {status.value: status.phrase for status in http.HTTPStatus}
_encode = msgspec.json.Encoder().encode


class Response(msgspec.Struct, frozen=True, gc=False):
    """What to tell a client; `close` ends the connection after it."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    close: bool = False


class HttpError(Exception):
    """A refusal on its way to the connection."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def json_response(value: object, *, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """Return `value` as a JSON response."""
    return Response(status, _encode(value), headers)


def refusal(
    status: int, what: str, hint: str = "", *, headers: tuple[tuple[str, str], ...] = (), close: bool = False
) -> Response:
    """Return an error: what was wrong and, where that is known, what to do about it."""
    return Response(status, _encode({"error": what, "hint": hint}), headers, close)


def from_error(error: DatahallError, *, retry_after_s: int = 1) -> Response:
    """Return what a client is told of `error`. Its `where` stays inside: it may name a path."""
    if isinstance(error, UnavailableError):
        return refusal(error.http_status, error.what, error.hint, headers=(("Retry-After", str(retry_after_s)),))
    return refusal(error.http_status, error.what, error.hint)


def render(response: Response, *, now_s: float, close: bool, head_only: bool = False) -> bytes:
    """Return the bytes on the wire."""
    lines = [
        f"HTTP/1.1 {response.status} {_REASONS.get(response.status, '')}",
        f"Date: {_date(int(now_s))}",
        "Content-Type: application/json",
        f"Content-Length: {len(response.body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        *(f"{name}: {value}" for name, value in response.headers),
    ]
    if close or response.close:
        lines.append("Connection: close")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    return head if head_only else head + response.body


class _DateCache:
    second = -1
    text = ""


def _date(second: int) -> str:
    """Return the HTTP date, written once a second."""
    if second != _DateCache.second:
        _DateCache.second, _DateCache.text = second, formatdate(second, usegmt=True)
    return _DateCache.text
