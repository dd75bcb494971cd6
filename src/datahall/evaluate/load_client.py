"""One keep-alive connection of the load generator: sends a request, reads its answer, and says what came of it."""

from __future__ import annotations

import asyncio
import re
from typing import Protocol, cast

import httptools

_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d{1,6})\r\n", re.IGNORECASE)
_ASKS_FOR_PATIENCE = (429, 503)


class Call:
    """One request of a load: when it was due, and how far it has come."""

    __slots__ = ("connection", "deadline_s", "due_s", "num_retries", "over", "request", "sent_s")

    def __init__(self, request: bytes, due_s: float) -> None:
        self.request, self.due_s = request, due_s
        self.sent_s = self.deadline_s = 0.0
        self.num_retries = 0
        self.over = False
        """Whether its outcome is known: an answer that comes later counts no more."""
        self.connection: ClientConnection | None = None


class Listener(Protocol):
    """Who sends calls over connections."""

    def answered(self, call: Call, status: int, retry_after_s: float) -> None:
        """Take note of an answer."""

    def free(self, connection: ClientConnection) -> None:
        """Take a connection back that can carry the next call."""

    def gone(self, connection: ClientConnection, call: Call | None) -> None:
        """Take note that a connection has ended, in the middle of `call` where there is one."""


class ClientConnection(asyncio.Protocol):
    """One request at a time; the parser tells of nothing but the end of an answer, because more would cost more."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._call: Call | None = None
        self._latest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Offer the connection."""
        self._transport = cast("asyncio.Transport", transport)
        self._listener.free(self)

    def send(self, call: Call) -> None:
        """Send a call over this free connection."""
        assert self._transport is not None
        self._call, call.connection = call, self
        self._transport.write(call.request)

    def abort(self) -> None:
        """End the connection: nobody waits for what it would still bring."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse a part of an answer."""
        self._latest = data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()

    def on_message_complete(self) -> None:
        """Say what the answer was, and offer the connection again unless the server ends it."""
        call, self._call = self._call, None
        status = self._parser.get_status_code()
        keeps = self._parser.should_keep_alive()
        if call is not None:
            call.connection = None
            self._listener.answered(call, status, self._retry_after_s(status))
        if keeps and call is not None:
            self._listener.free(self)
        else:
            self.abort()  # an answer that nobody asked for says that the server is about to close

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the protocol's signature
        """Say that the connection has ended."""
        self._transport = None
        call, self._call = self._call, None
        if call is not None:
            call.connection = None
        self._listener.gone(self, call)

    def _retry_after_s(self, status: int) -> float:
        if status not in _ASKS_FOR_PATIENCE:
            return 0.0
        found = _RETRY_AFTER.search(self._latest)
        return float(found[1]) if found else 0.0
