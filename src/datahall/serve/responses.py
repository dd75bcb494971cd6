"""HTTP/1.1 responses as bytes (RFC 9112), and errors as JSON that says what was wrong and what to do."""

from __future__ import annotations

import http
from email.utils import formatdate
from typing import ClassVar

import msgspec

from datahall.core.errors import DatahallError, UnavailableError

_REASONS = {status.value: status.phrase for status in http.HTTPStatus}
_encode = msgspec.json.Encoder().encode
JSON_TYPE = b"application/json"


class Response(msgspec.Struct, frozen=True, gc=False):
    """What to tell a client; `close` ends the connection after it."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    close: bool = False
    lines: bytes = b""
    """Further headers, as they go on the wire."""
    content_type: bytes = JSON_TYPE


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
    lines = response.lines
    if response.headers:
        lines += "".join([f"{name}: {value}\r\n" for name, value in response.headers]).encode("latin-1")
    if close or response.close:
        lines += b"Connection: close\r\n"
    body = response.body
    first = _first_lines(response.status, int(now_s))
    if response.content_type is not JSON_TYPE:
        first = first.replace(JSON_TYPE, response.content_type)
    return b"%bContent-Length: %d\r\n%b\r\n%b" % (first, len(body), lines, b"" if head_only else body)


class _FirstLines:
    """The lines that are alike in all responses of one second, by status."""

    second = -1
    by_status: ClassVar[dict[int, bytes]] = {}


def _first_lines(status: int, second: int) -> bytes:
    """Return status line and common headers, written once a second."""
    if second != _FirstLines.second:
        _FirstLines.second = second
        _FirstLines.by_status.clear()
    lines = _FirstLines.by_status.get(status)
    if lines is None:
        lines = (
            f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\nDate: {formatdate(second, usegmt=True)}\r\n"
            "Content-Type: application/json\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
        ).encode("latin-1")
        _FirstLines.by_status[status] = lines
    return lines
