# ruff: noqa: D102  (a test's name is its docstring)
"""What every Transport must do, whatever the replica at the other end says, or does not say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import numpy as np
import pytest

from datahall.core.errors import DatahallError, UnavailableError, UserError
from datahall.core.ports import Link, Outcome, Transport
from datahall.serve.frames import FrameReader, Header, Tensor, encode

BUNDLE = "b"
QUICK_PING_S, QUICK_SILENT_S = 0.01, 0.2
"""What a backend that can be told so should be given here: the suite waits for what its times bring."""
_BOUND_S = 10.0
_COLUMNS = {"x": np.array([1.0, 2.0])}

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Listen = Callable[[Handler], Awaitable[tuple[str, asyncio.Server]]]
"""Serves byte streams with a handler; returns the address that `Transport.connect` takes, and the server."""


class ScriptedReplica:
    """A replica that speaks frames and does what a test says: answers pings, and hands on what it is asked."""

    def __init__(self) -> None:
        self.bundle, self.max_rows, self.answers_pings = BUNDLE, 20, True
        self.asked: asyncio.Queue[int] = asyncio.Queue()
        """Ids of requests, as they come."""
        self.num_connections = 0
        self._writer: asyncio.StreamWriter | None = None
        self._handlers: list[asyncio.Task[object]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one connection."""
        self.num_connections += 1
        if (task := asyncio.current_task()) is not None:
            self._handlers.append(task)
        self._writer, frames = writer, FrameReader()
        with contextlib.suppress(ConnectionError):
            try:
                while data := await reader.read(1 << 16):
                    for frame in frames.feed(data):
                        if frame.header.kind == "infer":
                            self.asked.put_nowait(frame.header.id)
                        elif self.answers_pings:
                            self.say(Header("ready", bundle=self.bundle, max_rows=self.max_rows))
            finally:
                writer.close()
                await writer.wait_closed()

    def say(self, header: Header, **arrays: np.ndarray) -> None:
        """Send a frame on the newest connection."""
        self.write(encode(header, arrays))

    def write(self, data: bytes) -> None:
        """Send bytes, be they a frame or not."""
        assert self._writer is not None
        self._writer.write(data)

    def hang_up(self) -> None:
        """End the newest connection."""
        assert self._writer is not None
        self._writer.close()

    async def ended(self) -> None:
        """Wait until every connection has ended."""
        await asyncio.gather(*self._handlers)


class Linked:
    """A link, the replica at its other end, and what has come back."""

    def __init__(self, link: Link, replica: ScriptedReplica, changed: asyncio.Event) -> None:
        self.link, self.replica, self._changed = link, replica, changed
        self.outcomes: list[Outcome] = []

    async def until(self, ready: bool) -> None:
        """Wait until the link is ready, or is not; only `changed` is listened to."""
        while self.link.ready is not ready:
            await self._changed.wait()
            self._changed.clear()

    def send(self, columns: dict[str, np.ndarray] | None = None) -> asyncio.Future[Outcome]:
        """Ask; the future has the first outcome."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        num_before = len(self.outcomes)

        def done(outcome: Outcome) -> None:
            self.outcomes.append(outcome)
            if not future.done():
                future.set_result(outcome)

        self.link.send(columns or _COLUMNS, 2, done)
        assert len(self.outcomes) == num_before, "called from within `send`"
        return future


class TransportContract:
    """Subclass it, override the fixtures `transport` and `listen`, and the tests below run against your backend."""

    @pytest.fixture
    def transport(self) -> Transport:
        """Return a transport that finds out a silent replica in about QUICK_SILENT_S."""
        raise NotImplementedError

    @pytest.fixture
    def listen(self) -> Listen:
        """Return what listens where the transport can reach it."""
        raise NotImplementedError

    def test_it_is_ready_once_the_replica_runs_the_bundle(self, transport: Transport, listen: Listen) -> None:
        async def act(at: Linked) -> None:
            assert (at.link.ready, at.link.max_rows) == (False, 0)
            await at.until(ready=True)
            assert at.link.max_rows == 20, "as the replica said"

        _run(transport, listen, act)

    def test_another_bundle_never_becomes_ready(self, transport: Transport, listen: Listen) -> None:
        async def act(at: Linked) -> None:
            at.replica.bundle = "other"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(at.until(ready=True), 5 * QUICK_PING_S)
            assert at.replica.num_connections == 1, "it is there, and was heard"
            assert isinstance(await at.send(), UnavailableError)
            assert at.replica.asked.empty()

        _run(transport, listen, act)

    def test_answers_find_their_requests_in_any_order(self, transport: Transport, listen: Listen) -> None:
        async def act(at: Linked) -> None:
            await at.until(ready=True)
            futures = [at.send() for _ in range(3)]
            asked = [await at.replica.asked.get() for _ in futures]
            for place in (2, 0, 1):
                at.replica.say(Header("result", id=asked[place], num_rows=2), label=np.full(2, float(place)))
            for place, future in enumerate(futures):
                outcome = await future
                assert not isinstance(outcome, DatahallError)
                assert outcome["label"].tolist() == [place, place]
            assert len(at.outcomes) == 3

        _run(transport, listen, act)

    def test_errors_come_as_what_they_are_and_bounded(self, transport: Transport, listen: Listen) -> None:
        async def act(at: Linked) -> None:
            await at.until(ready=True)
            for error, kind in (("user", UserError), ("unavailable", UnavailableError), ("model", DatahallError)):
                future = at.send()
                said = Header("error", id=await at.replica.asked.get(), text="x" * 99_999, hint="y" * 99_999)
                at.replica.say(msgspec.structs.replace(said, error=error))
                outcome = await future
                assert type(outcome) is kind
                assert len(f"{outcome}") < 2000, "each request of a batch gets it"

        _run(transport, listen, act)

    def test_nothing_is_told_from_within_send(self, transport: Transport, listen: Listen) -> None:
        async def act(at: Linked) -> None:
            assert isinstance(await at.send(), UnavailableError), "not connected yet"
            await at.until(ready=True)
            too_large = {"x": np.zeros((1 << 23) + 1)}
            assert isinstance(await at.send(too_large), UserError)
            assert at.replica.asked.empty()
            assert at.link.ready, "and costs nobody else the connection"

        _run(transport, listen, act)

    def test_a_silent_replica_is_given_up_and_tried_anew(self, transport: Transport, listen: Listen) -> None:
        async def act(at: Linked) -> None:
            await at.until(ready=True)
            at.replica.answers_pings = False
            assert isinstance(await at.send(), UnavailableError)
            assert not at.link.ready
            at.replica.answers_pings = True
            await at.until(ready=True)
            assert at.replica.num_connections > 1

        _run(transport, listen, act)

    def test_a_busy_replica_that_answers_pings_is_kept(self, transport: Transport, listen: Listen) -> None:
        """The control of the test above: what counts is silence, not the time that an answer takes."""

        async def act(at: Linked) -> None:
            await at.until(ready=True)
            answered, _ = await asyncio.wait([at.send()], timeout=2 * QUICK_SILENT_S)
            assert not answered
            assert at.link.ready
            assert at.replica.num_connections == 1

        _run(transport, listen, act)

    def test_a_lost_connection_gives_back_what_is_open_and_comes_back(
        self, transport: Transport, listen: Listen
    ) -> None:
        async def act(at: Linked) -> None:
            await at.until(ready=True)
            futures = [at.send() for _ in range(3)]
            for _ in futures:
                await at.replica.asked.get()
            at.replica.hang_up()
            assert all(isinstance(outcome, UnavailableError) for outcome in await asyncio.gather(*futures))
            await at.until(ready=True)
            assert len(at.outcomes) == 3

        _run(transport, listen, act)

    def test_a_replica_that_drains_gets_nothing_new_and_answers_what_it_has(
        self, transport: Transport, listen: Listen
    ) -> None:
        async def act(at: Linked) -> None:
            await at.until(ready=True)
            future = at.send()
            asked = await at.replica.asked.get()
            at.replica.answers_pings = False
            at.replica.say(Header("drain", bundle=BUNDLE))
            await at.until(ready=False)
            assert isinstance(await at.send(), UnavailableError)
            at.replica.say(Header("result", id=asked, num_rows=2), label=np.zeros(2))
            assert not isinstance(await future, DatahallError)

        _run(transport, listen, act)

    @pytest.mark.parametrize("what", ["twice", "unknown", "ready", "ping", "garbage", "shape"])
    def test_who_says_what_nobody_asked_is_cut_off(self, transport: Transport, listen: Listen, what: str) -> None:
        async def act(at: Linked) -> None:
            await at.until(ready=True)
            first, second = at.send(), at.send()
            asked = await at.replica.asked.get()
            at.replica.say(Header("result", id=asked, num_rows=2), label=np.zeros(2))
            assert not isinstance(await first, DatahallError)
            at.replica.answers_pings = False
            for frame in _unasked(what, asked):
                at.replica.write(frame)
            assert isinstance(await second, UnavailableError)
            assert len(at.outcomes) == 2, "each exactly once"
            at.replica.answers_pings = True
            await at.until(ready=True)
            assert at.replica.num_connections == 2

        _run(transport, listen, act)

    def test_closing_gives_back_what_is_open_for_good(self, transport: Transport, listen: Listen) -> None:
        async def act(at: Linked) -> None:
            await at.until(ready=True)
            future = at.send()
            at.link.close()
            assert future.done()
            assert isinstance(future.result(), UnavailableError)
            assert not at.link.ready
            assert isinstance(await at.send(), UnavailableError)
            at.link.close()
            assert len(at.outcomes) == 2
            await at.replica.ended()
            assert at.replica.num_connections == 1

        _run(transport, listen, act)


def _unasked(what: str, answered: int) -> list[bytes]:
    header = {
        "twice": Header("result", id=answered),
        "unknown": Header("error", id=1 << 40, error="model"),
        "ready": Header("ready", bundle=BUNDLE, max_rows=1),
        "ping": Header("ping"),
    }.get(what)
    if header is None:
        return [_endless_rows(answered) if what == "shape" else b"\xff" * 64]
    return [encode(header)] * 1000


def _endless_rows(number: int) -> bytes:
    """Return a result of more rows than memory could list, none of which has a column."""
    head = msgspec.msgpack.encode(Header("result", id=number, tensors=(Tensor("matrix", ("x",), (2**63, 0), 0),)))
    return (4 + len(head)).to_bytes(4, "big") + len(head).to_bytes(4, "big") + head


def _run(transport: Transport, listen: Listen, act: Callable[[Linked], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with _linked(transport, listen) as at:
            await asyncio.wait_for(act(at), _BOUND_S)

    asyncio.run(bounded())


@contextlib.asynccontextmanager
async def _linked(transport: Transport, listen: Listen) -> AsyncIterator[Linked]:
    replica, changed = ScriptedReplica(), asyncio.Event()
    address, server = await listen(replica.serve)
    link = transport.connect(address, bundle=BUNDLE, changed=changed.set)
    try:
        yield Linked(link, replica, changed)
    finally:
        link.close()
        for _ in range(10):  # a connection that was just being made reaches its handler
            await asyncio.sleep(0)
        await replica.ended()
        server.close()
