"""A running copy of a bundle: takes frames on a Unix socket and answers them with one model thread.

The process needs nothing but its bundle: no key, no catalogue, no file. Its event loop keeps answering pings while
the model computes, so that busy is never mistaken for dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from datahall.core.canonical import digest_of
from datahall.core.errors import IntegrityError, UserError
from datahall.core.ports import Predictor
from datahall.core.records import BundleManifest
from datahall.serve.frames import ErrorKind, Frame, FrameError, FrameReader, Header, encode
from datahall.serve.rows import to_columns

DRAIN_SECONDS = 30.0


class ReplicaRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica process is told; the packed bundle comes beside it, as a sealed memory file."""

    bundle: str
    """Digest of the manifest that the packed bundle must have."""
    address: str
    """Path of the Unix socket to listen on; made with mode 0600."""
    replica: str
    num_threads: int = 1


OpenPredictor = Callable[..., Predictor]
"""`open_predictor(packed, *, num_threads)` of `datahall.engines.open`."""

Listening = Callable[[], None]
"""Called once the socket accepts connections and the model is warm."""


def run(
    request: ReplicaRequest,
    packed: bytes | memoryview,
    *,
    open_predictor: OpenPredictor | None = None,
    listening: Listening | None = None,
) -> int:
    """Serve the bundle until SIGTERM or SIGINT, finish what was asked, and return the exit status.

    Must be called from the main thread. Raises IntegrityError where the bundle is not the one that was ordered.
    """
    opener = open_predictor or _engine_opener()
    predictor = opener(packed, num_threads=request.num_threads)
    server = ReplicaServer(request, predictor)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await server.serve(stop, listening)

    asyncio.run(main())
    return 0


def _engine_opener() -> OpenPredictor:
    from datahall.engines.open import open_predictor  # noqa: PLC0415  engines load numerics

    return open_predictor


class ReplicaServer:
    """The socket, its connections, and the thread that runs the model."""

    def __init__(self, request: ReplicaRequest, predictor: Predictor) -> None:
        digest = digest_of(predictor.manifest)
        if digest != request.bundle:
            raise IntegrityError(
                f"the bundle is {digest[:12]}, but {request.bundle[:12]} was ordered", where=request.replica
            )
        self.request = request
        self.predictor = predictor
        self._work: queue.SimpleQueue[tuple[_Connection, Frame] | None] = queue.SimpleQueue()
        self._connections: set[_Connection] = set()
        self._num_open = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def serve(self, stop: asyncio.Event, listening: Listening | None = None) -> None:
        """Answer until `stop` is set, then finish everything that was asked before.

        The socket exists only once the model is warm, so a replica that can be reached can answer.
        """
        warm_up(self.predictor)
        self._loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._compute, name="model", daemon=True)
        thread.start()
        listener = listen_unix(self.request.address)
        server = await self._loop.create_unix_server(lambda: _Connection(self), sock=listener)
        try:
            if listening is not None:
                listening()
            await stop.wait()
            self._draining = True
            _unlink(self.request.address)
            server.close()
            for connection in tuple(self._connections):
                connection.write(self.hello())
            with contextlib.suppress(TimeoutError):  # a model that hangs must not keep the process
                await asyncio.wait_for(self._idle.wait(), DRAIN_SECONDS)
        finally:
            self._work.put(None)
            server.close()
            for connection in tuple(self._connections):
                connection.close()
            thread.join(1.0)

    def hello(self) -> bytes:
        """Return the frame that says who answers here with what, or that nothing new is to be sent."""
        return encode(
            Header("drain" if self._draining else "ready", bundle=self.request.bundle, replica=self.request.replica)
        )

    def ask(self, connection: _Connection, frame: Frame) -> None:
        """Queue one request for the model."""
        self._num_open += 1
        self._idle.clear()
        self._work.put((connection, frame))

    def opened(self, connection: _Connection) -> None:
        """Remember a connection so that it can be closed."""
        self._connections.add(connection)

    def closed(self, connection: _Connection) -> None:
        """Forget a connection; what it asked is computed and dropped."""
        self._connections.discard(connection)

    def _compute(self) -> None:
        while (work := self._work.get()) is not None:
            connection, frame = work
            reply = answer_frame(self.predictor, frame)
            self._loop.call_soon_threadsafe(self._answered, connection, reply)

    def _answered(self, connection: _Connection, reply: bytes) -> None:
        connection.write(reply)
        self._num_open -= 1
        if self._num_open == 0:
            self._idle.set()


class _Connection(asyncio.Protocol):
    """One gateway's connection."""

    def __init__(self, server: ReplicaServer) -> None:
        self._server = server
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the protocol's signature
        self._transport = None
        self._server.closed(self)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._reader.feed(data)
        except FrameError:
            self.close()  # only a gateway of ours connects here; one that cannot speak is of no use
            return
        for frame in frames:
            if frame.header.kind == "infer":
                self._server.ask(self, frame)
            elif frame.header.kind == "ping":
                self.write(self._server.hello())

    def write(self, data: bytes) -> None:
        """Send bytes, unless the other side is gone."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """End the connection once everything written has left."""
        if self._transport is not None:
            self._transport.close()


def answer_frame(predictor: Predictor, frame: Frame) -> bytes:
    """Return the frame that answers an `infer` frame: a result, or an error that says whose fault it is."""
    number = frame.header.id
    try:
        arrays = predictor.predict(to_columns(predictor.manifest.features, frame.arrays))
        return encode(Header("result", id=number, num_rows=frame.header.num_rows), arrays)
    except UserError as error:
        return _error(number, "user", error.what, error.hint)
    except Exception as error:  # noqa: BLE001  a model may raise anything; one bad batch must not end the replica
        return _error(number, "model", f"the model failed: {type(error).__name__}", "")


def _error(number: int, kind: ErrorKind, text: str, hint: str) -> bytes:
    return encode(Header("error", id=number, error=kind, text=text[:2000], hint=hint[:2000]))


def warm_up(predictor: Predictor) -> None:
    """Answer one made-up row, so that the first client does not pay for lazy loading."""
    predictor.predict(sample_columns(predictor.manifest))


def sample_columns(manifest: BundleManifest) -> dict[str, np.ndarray]:
    """Return one plausible row: zeros, and each category's first known value."""
    columns: dict[str, np.ndarray] = {}
    for feature in manifest.features:
        if feature.kind == "category":
            columns[feature.name] = np.array([feature.categories[0] if feature.categories else ""], dtype=object)
        else:
            columns[feature.name] = np.zeros(1)
    return columns


def listen_unix(address: str) -> socket.socket:
    """Return a listening Unix socket with mode 0600; a stale one at the same path is replaced."""
    _unlink(address)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)  # the mode must be right from the first moment, not after a chmod
    try:
        listener.bind(address)
    finally:
        os.umask(old)
    listener.listen(128)
    listener.setblocking(False)
    return listener


def _unlink(address: str) -> None:
    Path(address).unlink(missing_ok=True)
