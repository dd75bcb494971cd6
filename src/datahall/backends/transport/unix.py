"""Reaching replicas on this machine over their Unix sockets: the gateway's link, and a blocking answerer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from datahall.core.errors import DatahallError, UnavailableError, UserError
from datahall.core.ports import Done, Outcome
from datahall.serve.frames import Frame, FrameError, FrameReader, Header, encode

PING_SECONDS = 0.5
SILENT_SECONDS = 2.0
"""A replica that is stopped while it has nothing to do is found out at the next ping after that: within 3 s."""
MAX_TEXT = 500
"""Characters of an error that are passed on: each request of the batch gets them."""
_RETRY_SECONDS = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)


def outcome(frame: Frame) -> Outcome:
    """Return what a `result` or `error` frame says."""
    header = frame.header
    if header.kind == "result":
        return frame.arrays
    text, hint = header.text[:MAX_TEXT], header.hint[:MAX_TEXT]
    if header.error == "user":
        return UserError(text, hint=hint)
    if header.error == "unavailable":
        return UnavailableError(text, hint=hint)
    return DatahallError(text or "the model failed")


class UnixLink(asyncio.Protocol):
    """A connection to one replica that comes back by itself; keeps any number of requests open at once.

    A replica that has been silent for `SILENT_SECONDS`, pings included, counts as dead: its requests are given back
    as unavailable and the connection is made anew. So is one with a replica that says what nobody asked: it is none of
    ours any more, and could keep the gateway busy with nothing.
    """

    def __init__(
        self,
        address: str,
        *,
        bundle: str,
        changed: Callable[[], None],
        ping_seconds: float,
        silent_seconds: float,
    ) -> None:
        self._address = address
        self._bundle = bundle
        self._changed = changed
        self._ping_seconds, self._silent_seconds = ping_seconds, silent_seconds
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._open: dict[int, Done] = {}
        self._next_id = 1
        self._ready = False
        self._max_rows = 0
        self._closed = False
        self._num_failed = 0
        self._heard_at = 0.0
        self._num_pings = 0
        """Not answered yet."""
        self._timer: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._connect()

    @property
    def ready(self) -> bool:
        """Whether the replica has said that it runs the expected bundle."""
        return self._ready

    @property
    def max_rows(self) -> int:
        """The replica's own bound on the rows of a batch; 0 for none known."""
        return self._max_rows

    def send(self, columns: Mapping[str, np.ndarray], num_rows: int, done: Done) -> None:
        """Ask for answers to all rows; `done` is called exactly once."""
        if self._transport is None or not self._ready:
            self._loop.call_soon(done, UnavailableError("the replica is not connected"))
            return
        number = self._next_id
        self._next_id += 1
        try:
            data = encode(Header("infer", id=number, num_rows=num_rows), columns)
        except FrameError as error:
            self._loop.call_soon(done, UserError(error.what, hint=error.hint))
            return
        self._open[number] = done
        self._transport.write(data)

    def close(self) -> None:
        """End the connection for good."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._lost()

    def _connect(self) -> None:
        if not self._closed:
            self._connecting = self._loop.create_task(self._open_socket())

    async def _open_socket(self) -> None:
        try:
            await self._loop.create_unix_connection(lambda: self, self._address)
        except OSError:
            self._retry_later()

    def _retry_later(self) -> None:
        if self._closed:
            return
        wait = _RETRY_SECONDS[min(self._num_failed, len(_RETRY_SECONDS) - 1)]
        self._num_failed += 1
        self._timer = self._loop.call_later(wait, self._connect)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask the replica who it is."""
        self._transport = transport  # type: ignore[assignment]  # a stream's transport reads and writes
        self._reader = FrameReader()
        self._heard_at = self._loop.time()
        self._num_pings = 0
        self._ping()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the protocol's signature
        """Give every open request back and connect anew."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._lost()
        self._retry_later()

    def data_received(self, data: bytes) -> None:
        """Hand each answer to whoever asked."""
        self._heard_at = self._loop.time()
        try:
            frames = self._reader.feed(data)
        except FrameError:
            self._abort()
            return
        for frame in frames:
            kind = frame.header.kind
            if kind in ("result", "error"):
                done = self._open.pop(frame.header.id, None)
                if done is None:
                    self._abort()
                    return
                done(outcome(frame))
            elif kind == "ready":
                if self._num_pings == 0:
                    self._abort()
                    return
                self._num_pings -= 1
                self._num_failed = 0
                self._max_rows = frame.header.max_rows
                self._set_ready(frame.header.bundle == self._bundle)
            elif kind == "drain":
                self._num_pings = max(0, self._num_pings - 1)
                self._set_ready(False)  # what is open will still be answered; nothing new is sent
            else:
                self._abort()
                return

    def _ping(self) -> None:
        if self._transport is None:
            return
        if self._loop.time() - self._heard_at > self._silent_seconds:
            self._abort()
            return
        self._transport.write(encode(Header("ping")))
        self._num_pings += 1
        self._timer = self._loop.call_later(self._ping_seconds, self._ping)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _set_ready(self, ready: bool) -> None:
        if ready != self._ready:
            self._ready = ready
            self._changed()

    def _lost(self) -> None:
        waiting, self._open = self._open, {}
        self._set_ready(False)
        for done in waiting.values():
            done(UnavailableError("the replica was lost while it was answering"))


class UnixTransport:
    """Reaches replicas on this machine; addresses are paths of Unix sockets."""

    def __init__(self, *, ping_seconds: float = PING_SECONDS, silent_seconds: float = SILENT_SECONDS) -> None:
        self._ping_seconds, self._silent_seconds = ping_seconds, silent_seconds

    def connect(self, address: str, *, bundle: str, changed: Callable[[], None]) -> UnixLink:
        """Open a link to the replica at `address`. Must be called on the event loop that will use it."""
        return UnixLink(
            address,
            bundle=bundle,
            changed=changed,
            ping_seconds=self._ping_seconds,
            silent_seconds=self._silent_seconds,
        )


class UnixAnswerer:
    """Asks one replica and waits, over the same socket and frames that the gateway uses."""

    def __init__(self, address: str, *, timeout_s: float = 30.0) -> None:
        """Connect. Raises UnavailableError where nobody listens at `address`."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        self._reader = FrameReader()
        self._frames: list[Frame] = []
        self._next_id = 1
        try:
            self._socket.connect(address)
            self.bundle = self._ask(Header("ping")).header.bundle
        except (OSError, FrameError) as error:
            self._socket.close()
            raise UnavailableError("the replica does not answer", hint="see its log: datahall logs") from error

    def answer(self, columns: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Answer every row, in order.

        Raises UserError for columns that do not fit, UnavailableError where the other side is gone.
        """
        num_rows = len(next(iter(columns.values()), ()))
        number = self._next_id
        self._next_id += 1
        try:
            frame = self._ask(Header("infer", id=number, num_rows=num_rows), columns)
        except (OSError, FrameError) as error:
            raise UnavailableError("the replica was lost while it was answering") from error
        result = outcome(frame)
        if isinstance(result, DatahallError):
            raise result
        return result

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def _ask(self, header: Header, columns: Mapping[str, np.ndarray] | None = None) -> Frame:
        self._socket.sendall(encode(header, columns))
        wanted = ("ready",) if header.kind == "ping" else ("result", "error")
        while True:
            while self._frames:
                frame = self._frames.pop(0)
                if frame.header.kind in wanted and frame.header.id == header.id:
                    return frame
            data = self._socket.recv(1 << 18)
            if not data:
                raise ConnectionResetError("the replica closed the connection")
            self._frames.extend(self._reader.feed(data))


if TYPE_CHECKING:
    from datahall.core.ports import Answerer, Link, Transport

    _answerer: type[Answerer] = UnixAnswerer
    _link: type[Link] = UnixLink
    _transport: type[Transport] = UnixTransport
