"""A running copy of a bundle: takes frames on a Unix socket and answers them, one batch at a time.

The process needs nothing but its bundle: no key, no catalogue, no file. A short batch is computed on the event loop
itself, since handing it to a thread and back costs more than it; a long one in the model thread, so that pings are
answered meanwhile and busy is never mistaken for dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import uvloop

from datahall.core.canonical import digest_of
from datahall.core.errors import IntegrityError, UserError
from datahall.core.ports import Predictor
from datahall.core.records import BundleManifest
from datahall.serve.calibration import Sample, Timings, calibrate, sweep
from datahall.serve.frames import ErrorKind, Frame, FrameError, FrameReader, Header, Kind, encode
from datahall.serve.rows import TABLE, is_table, to_columns

DRAIN_SECONDS = 30.0
NO_MEMORY_STATUS = 12
"""Exit status of a replica that ran out of memory; ENOMEM's number."""
_NUM_SAMPLE_ROWS = 1024
INLINE_US = 1000.0
"""A batch that is expected to take longer goes to the model thread; pings wait this long at most."""

MAX_BATCH_SECONDS = 60.0
"""Twice what any client waits for an answer (`GatewayLimits.answer_seconds`)."""
_LOOKS = 8
"""How often within that time it is looked whether a batch hangs."""

Answer = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""A batch's tensors in, its answers out."""


class ReplicaRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica process is told; the packed bundle comes beside it, as a sealed memory file."""

    bundle: str
    """Digest of the manifest that the packed bundle must have."""
    address: str
    """Path of the Unix socket to listen on; made with mode 0600."""
    replica: str
    num_threads: int = 1
    inline_us: float = INLINE_US
    """Batches expected to take at most this long are computed on the event loop; 0 sends all to the model thread."""
    max_batch_seconds: float = MAX_BATCH_SECONDS
    """A batch that takes longer hangs: the process ends, so that another can take its place."""


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

    A model that hangs ends the process by SIGALRM. Must be called from the main thread. Raises IntegrityError where the
    bundle is not the one that was ordered.
    """
    opener = open_predictor or _engine_opener()
    predictor = opener(packed, num_threads=request.num_threads)
    server = ReplicaServer(request, predictor)
    sys.stderr.write(f"{request.replica} is warm: {server.told()}\n")
    gc.freeze()  # what the libraries made stays; looking it through again would only hold up answers
    # Where each thread is goes to the log first; neither needs the interpreter, which native code may hold for good.
    faulthandler.register(signal.SIGALRM, chain=True)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(end_without_memory)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        watch = loop.create_task(end_if_it_hangs(server))
        await server.serve(stop, listening)
        watch.cancel()

    uvloop.run(main())
    return 0


async def end_if_it_hangs(server: ReplicaServer) -> None:
    """Have the kernel end this process (SIGALRM) as soon as one batch takes longer than it may.

    The alarm is put off for as long as this loop runs and the model thread's batch is young. It goes off where that
    batch hangs, and as well where one hangs on the loop itself, or holds the interpreter's lock: so pings, which such a
    replica may well answer, are no excuse.
    """
    longest_s = server.request.max_batch_seconds
    look_s = longest_s / _LOOKS
    while True:
        if (age_s := server.batch_age_s()) < longest_s:
            signal.setitimer(signal.ITIMER_REAL, longest_s + look_s - age_s)
        await asyncio.sleep(look_s)


def end_without_memory(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """End the process where its loop has run out of memory: nothing that it does from then on can be relied upon.

    A batch too large for the memory is another matter: it is given up whole, and refused.
    """
    if isinstance(context.get("exception"), MemoryError):
        os.write(2, b"MemoryError: the replica needs more memory than it may use\n")
        os._exit(NO_MEMORY_STATUS)
    loop.default_exception_handler(context)


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
        self._answer = answering(predictor)
        self.samples = warm_up(predictor)
        self.max_rows = calibrate(self.samples)
        self._timings = Timings(self.samples)
        self._work: queue.SimpleQueue[tuple[_Connection, Frame] | None] = queue.SimpleQueue()
        self._connections: set[_Connection] = set()
        self._num_open = 0
        self._computing_since: float | None = None
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def serve(self, stop: asyncio.Event, listening: Listening | None = None) -> None:
        """Answer until `stop` is set, then finish everything that was asked before.

        The socket exists only once the model is warm, so a replica that can be reached can answer.
        """
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
        kind: Kind = "drain" if self._draining else "ready"
        request = self.request
        return encode(Header(kind, bundle=request.bundle, replica=request.replica, max_rows=self.max_rows))

    def told(self) -> str:
        """Return what was measured, for people."""
        times = ", ".join(f"{sample.num_rows}: {sample.time_us:.0f}" for sample in self.samples)
        return f"batches of {self.max_rows} rows are best; microseconds by rows: {times}"

    def batch_age_s(self) -> float:
        """Return for how long the model thread has been at its batch; 0 while it waits for one."""
        since = self._computing_since
        return 0.0 if since is None else time.monotonic() - since

    def ask(self, connection: _Connection, frame: Frame) -> None:
        """Answer one request now where that is quick and the model is free, else queue it for the model thread."""
        if not self._num_open and self._timings.expect_us(frame.header.num_rows) <= self.request.inline_us:
            reply, time_us = self._timed(frame)
            self._timings.learn(frame.header.num_rows, time_us)
            connection.write(reply)
            return
        self._num_open += 1
        self._idle.clear()
        self._work.put((connection, frame))

    def opened(self, connection: _Connection) -> None:
        """Remember a connection so that it can be closed."""
        self._connections.add(connection)

    def closed(self, connection: _Connection) -> None:
        """Forget a connection; what it asked is computed and dropped."""
        self._connections.discard(connection)

    def _timed(self, frame: Frame) -> tuple[bytes, float]:
        start = time.perf_counter_ns()
        reply = answer_frame(self._answer, frame)
        return reply, (time.perf_counter_ns() - start) / 1e3

    def _compute(self) -> None:
        while (work := self._work.get()) is not None:
            connection, frame = work
            self._computing_since = time.monotonic()
            reply, time_us = self._timed(frame)
            self._computing_since = None
            self._loop.call_soon_threadsafe(self._answered, connection, frame.header.num_rows, reply, time_us)

    def _answered(self, connection: _Connection, num_rows: int, reply: bytes, time_us: float) -> None:
        self._timings.learn(num_rows, time_us)
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
        self._transport = transport  # type: ignore[assignment]  # a stream's transport reads and writes
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


def answering(predictor: Predictor) -> Answer:
    """Return what answers a batch's tensors: whole tables go straight to an engine that takes them."""
    features = predictor.manifest.features
    predict_table = getattr(predictor, "predict_table", None)

    def answer(arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        if TABLE not in arrays or len(arrays) > 1:  # columns, or what `predict` then refuses by name
            return predictor.predict(arrays)
        if predict_table is None:
            return predictor.predict(to_columns(features, arrays))
        answers: Mapping[str, np.ndarray] = predict_table(arrays[TABLE])
        return answers

    return answer


def answer_frame(answer: Answer, frame: Frame) -> bytes:
    """Return the frame that answers an `infer` frame: a result, or an error that says whose fault it is."""
    number = frame.header.id
    try:
        return encode(Header("result", id=number, num_rows=frame.header.num_rows), answer(frame.arrays))
    except UserError as error:
        return _error(number, "user", error.what, error.hint)
    except MemoryError:
        text = f"{frame.header.num_rows} rows at once need more memory than a replica may use"
        return _error(number, "user", text, "send fewer rows in one request")
    except Exception as error:  # noqa: BLE001  a model may raise anything; one bad batch must not end the replica
        return _error(number, "model", f"the model failed: {type(error).__name__}", "")


def _error(number: int, kind: ErrorKind, text: str, hint: str) -> bytes:
    return encode(Header("error", id=number, error=kind, text=text[:2000], hint=hint[:2000]))


def warm_up(predictor: Predictor) -> tuple[Sample, ...]:
    """Answer made-up rows, so that the first client does not pay for lazy loading, and return how long they took.

    Raises what the predictor raises: one that cannot answer such rows is not ready.
    """
    manifest = predictor.manifest
    predictor.predict(sample_columns(manifest, 1))
    answer = answering(predictor)
    columns = sample_columns(manifest, _NUM_SAMPLE_ROWS)
    names = [feature.name for feature in manifest.features]
    arrays = {TABLE: np.column_stack([columns[name] for name in names])} if is_table(manifest.features) else columns
    start = 0

    def prepare(num_rows: int) -> Callable[[], bytes]:
        nonlocal start  # other rows each time: a processor learns the branches that a few rows take through trees
        start = (start + num_rows) % (_NUM_SAMPLE_ROWS - num_rows)
        part = {name: array[start : start + num_rows] for name, array in arrays.items()}
        return partial(answer_frame, answer, Frame(Header("infer", num_rows=num_rows), part))

    return sweep(prepare)


def sample_columns(manifest: BundleManifest, num_rows: int) -> dict[str, np.ndarray]:
    """Return plausible rows: numbers spread evenly over -2 to 2, and each category's known values in turn."""
    columns: dict[str, np.ndarray] = {}
    for place, feature in enumerate(manifest.features):
        if feature.kind == "category":
            known = feature.categories or ("",)
            columns[feature.name] = np.array([known[row % len(known)] for row in range(num_rows)], dtype=object)
            continue
        # Multiples of the golden ratio fill the unit interval evenly (Weyl 1916), without a random generator.
        spread = (np.arange(num_rows) * 0.6180339887498949 + place * 0.41421356237309515) % 1.0
        columns[feature.name] = np.rint(spread) if feature.kind == "boolean" else spread * 4.0 - 2.0
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
