"""Passing one request on to control and its answer back, byte by byte and without holding either whole."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, cast

from datahall.serve.responses import Response, refusal

_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade", b"expect", b"transfer-encoding")
)
_OURS = frozenset((b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-real-ip"))


class Client(Protocol):
    """The connection for which control is asked."""

    def write(self, data: bytes) -> None:
        """Send a part of the answer."""

    def spliced(self, failure: Response | None) -> None:
        """The answer is complete, or there is none but `failure`."""

    def balance(self) -> None:
        """`choked` has changed."""


class Splice(asyncio.Protocol):
    """One request to control, on a connection of its own that ends with it.

    What control says is passed on untouched once `activate` is called, that is, when it is this answer's turn.
    """

    def __init__(
        self, client: Client, method: str, target: bytes, headers: list[tuple[bytes, bytes]], peer: Any
    ) -> None:
        self._client: Client | None = client
        self._chunked = any(name == b"transfer-encoding" for name, _ in headers)
        self._waiting = bytearray(_head(method, target, headers, peer, chunked=self._chunked))
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._active = False
        self._held = bytearray()
        self._over = False
        self._failure: Response | None = None
        self.choked = False
        """Whether the client should not be read from: control does not take what it sends."""
        self.started = False
        """Whether a part of the answer has been passed on."""

    def start(self, address: str) -> None:
        """Connect to control."""
        self._task = asyncio.get_running_loop().create_task(self._connect(address))

    def activate(self) -> None:
        """Pass on what control says from now on, and what it has said."""
        if self._active:
            return
        self._active = True
        if self._held and self._client is not None:
            self.started = True
            self._client.write(bytes(self._held))
            self._held.clear()
        self.resume()
        if self._over:
            self._end()

    def send(self, body: bytes) -> None:
        """Pass on a part of the request's body."""
        data = b"%x\r\n%b\r\n" % (len(body), body) if self._chunked else body
        if self._transport is not None:
            self._transport.write(data)
        else:
            self._waiting += data
            self._choke(len(self._waiting) > 65536)

    def finish(self) -> None:
        """The request is complete."""
        if self._chunked:
            self._chunked = False
            self._write_last(b"0\r\n\r\n")

    def pause(self) -> None:
        """The client does not read: neither do we."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on."""
        if self._transport is not None and self._active and not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        """The client has left."""
        self._client = None
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send what has gathered."""
        self._transport = cast("asyncio.Transport", transport)
        if self._client is None:
            self._transport.abort()
            return
        self._transport.write(bytes(self._waiting))
        self._waiting.clear()
        if not self._active:
            self._transport.pause_reading()
        self._choke(False)

    def data_received(self, data: bytes) -> None:
        """Pass on a part of the answer."""
        if self._client is None:
            return
        if self._active:
            self.started = True
            self._client.write(data)
        else:
            self._held += data

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the protocol's signature
        """The answer is over."""
        self._transport = None
        if not self.started and not self._held:
            self._failure = _down()
        self._over = True
        if self._active:
            self._end()

    def pause_writing(self) -> None:
        """Control does not take what is sent."""
        self._choke(True)

    def resume_writing(self) -> None:
        """It does again."""
        self._choke(False)

    async def _connect(self, address: str) -> None:
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: self, address)
        except OSError:
            self._failure, self._over = _down(), True
            self._active = True  # an answer of ours keeps its place in the order by itself
            self._end()

    def _end(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.spliced(self._failure)

    def _choke(self, choked: bool) -> None:
        if choked != self.choked:
            self.choked = choked
            if self._client is not None:
                self._client.balance()

    def _write_last(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)
        else:
            self._waiting += data


def _head(method: str, target: bytes, headers: list[tuple[bytes, bytes]], peer: Any, *, chunked: bool) -> bytes:
    lines = [b"%b %b HTTP/1.1" % (method.encode("latin-1"), target)]
    named = {token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")}
    dropped = _HOP_BY_HOP | _OURS | named - {b"host", b"content-length", b"authorization", b"x-api-key"}
    lines += [b"%b: %b" % header for header in headers if header[0] not in dropped]
    if chunked:
        lines.append(b"transfer-encoding: chunked")
    if isinstance(peer, tuple):
        lines.append(b"x-forwarded-for: " + str(peer[0]).encode("latin-1"))
    lines += [b"connection: close", b"", b""]
    return b"\r\n".join(lines)


def _down() -> Response:
    return refusal(
        503,
        "the control process is not there",
        "answers are given all the same; see: datahall ps",
        headers=(("Retry-After", "2"),),
        close=True,
    )
