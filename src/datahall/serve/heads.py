"""What a request's head must be beyond what the parser insists on, so that no server before or behind reads another.

Each rule is one that nginx or uvicorn also has; `tests/serve/test_smuggling.py` compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import unquote

import httptools

from datahall.serve.exchange import Request
from datahall.serve.responses import HttpError, refusal

SINGLE = frozenset(
    (
        b"host",
        b"authorization",
        b"x-api-key",
        b"content-encoding",
        b"content-type",
        b"content-length",
        b"transfer-encoding",
        b"expect",
        b"inference-header-content-length",
        b"datahall-app",
    )
)
"""Headers that may come once only."""

MAX_REMEMBERED_BYTES = 512
"""Longer targets are split anew each time: anybody can send many of them, which must not add up in memory."""

_HOST = re.compile(rb"(?:[A-Za-z0-9_~-]+(?:\.[A-Za-z0-9_~-]+)*\.?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_LENGTH = re.compile(rb"[0-9]{1,19}")
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile("[\0-\x1f\x7f]")
_FOREIGN = re.compile(rb" (?:RTSP|ICE)/")
"""Names that the parser takes for HTTP's, without telling."""
_ENDS_FOREIGN = re.compile(rb" (RTSP|ICE)/[0-9.]*\r\n\Z")
_MAX_END_BYTES = 16
"""Enough of a first line's end to know the protocol in it."""


def read_head(request: Request, version: str) -> None:
    """Set path, target and length from a request's method, target and headers; `version` is the protocol's.

    Raises HttpError, which ends the connection: what follows such a head could be anything.
    """
    if version not in ("1.1", "1.0"):
        raise _refused(f"HTTP/{version} is not spoken here", "use HTTP/1.1", status=505)
    if request.method == "TRACE":
        raise _refused("TRACE would show a script the headers it must not see", "use GET", status=501)
    host = request.header(b"host")
    if host is None:
        if version == "1.1":
            raise _refused("the header 'host' is missing", "name the host that is asked")
    elif not _HOST.fullmatch(host):
        raise _refused("the header 'host' is no name with an optional port", "send the host's name alone")
    _read_framing(request, version)
    target = request.target
    split = _remembered if len(target) <= MAX_REMEMBERED_BYTES else _split_target
    request.path, request.target = split(target)


def parts_of(data: bytes, line: bytes) -> Iterator[bytes]:
    """Cut what arrived so that no part goes on after the first line of a request that could name another protocol.

    `line` is what `end_of_line` returned last. A request's first line is the last one of the part in which the parser
    finds its beginning, and of what follows it while that is not a whole line.
    """
    start = 0
    if line:
        start = data.find(b"\n") + 1 or len(data)
        yield data[:start]
    for name in _FOREIGN.finditer(data, start):
        if name.start() < start:
            continue  # the same line once more
        first = data.rfind(b"\n", start, name.start()) + 1 or start
        end = data.find(b"\n", name.end()) + 1 or len(data)
        if first > start:
            yield data[start:first]
        yield data[first:end]
        start = end
    last = data.rfind(b"\n", start) + 1 or start
    if last > start:
        yield data[start:last]
    if last < len(data):
        yield data[last:]


def end_of_line(line: bytes) -> bytes:
    """Return what to remember of a request's first line: nothing once it is whole. It may begin anywhere in `line`.

    Raises HttpError, which ends the connection, where it names a protocol other than HTTP.
    """
    if not line.endswith(b"\n"):
        return line[-_MAX_END_BYTES:]
    if (foreign := _ENDS_FOREIGN.search(line, max(0, len(line) - _MAX_END_BYTES))) is not None:
        raise _refused(f"{foreign[1].decode()} is not spoken here", "use HTTP/1.1", status=505)
    return b""


def _read_framing(request: Request, version: str) -> None:
    encoding = request.header(b"transfer-encoding")
    if encoding is not None and (version == "1.0" or encoding.lower() != b"chunked"):
        raise _refused("the only transfer encoding is 'chunked', in HTTP/1.1", "send Content-Length, or chunks")
    length = request.header(b"content-length")
    if length is not None:
        if not _LENGTH.fullmatch(length):
            raise _refused("the header 'content-length' is no number of bytes", "send it in digits")
        request.content_length = int(length)
    expect = request.header(b"expect")
    if expect is not None and expect.lower() != b"100-continue":
        raise _refused("the only expectation is '100-continue'", "leave the header 'expect' out", status=417)


def _split_target(target: bytes) -> tuple[str, bytes]:
    """Return a target's path, decoded, and what of it goes on to control."""
    try:
        url = httptools.parse_url(target)
        path = unquote((url.path or b"").decode("ascii"), errors="strict")
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError) as error:
        raise _refused("the target is not a URL") from error
    if not path.startswith("/"):
        raise _refused("the target has no path")
    if url.userinfo is not None or b"#" in target:
        raise _refused("the target has a user or a fragment in it", "send the path and the query alone")
    if b"%" in url.path:
        _check_escapes(url.path, path)
    if "/.." in path and ".." in path.split("/"):
        raise _refused("the path leads upwards", "send the path that is meant, without '..'")
    return path, (url.path or b"/") + (b"?" + url.query if url.query else b"")


_remembered = lru_cache(maxsize=256)(_split_target)


def _check_escapes(raw: bytes, path: str) -> None:
    if _BAD_PERCENT.search(raw):
        raise _refused("the path has a '%' without two hexadecimal digits after it", "write '%25' for a '%'")
    if _CONTROL.search(path):
        raise _refused("the path has a control character in it")


def _refused(what: str, hint: str = "", *, status: int = 400) -> HttpError:
    return HttpError(refusal(status, what, hint, close=True))
