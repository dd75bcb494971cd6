"""A link notices a replica that hangs, gives back what was asked, and takes no other bundle's answers."""

from __future__ import annotations

import asyncio
import contextlib

import numpy as np
import pytest

from datahall.backends.transport.unix import UnixLink
from datahall.core.errors import UnavailableError
from datahall.serve.frames import FrameReader, Header, encode

COLUMNS = {"x": np.zeros(1)}


class Replica:
    """Answers `num_pings` pings, then no more; never answers a request."""

    def __init__(self, path, *, num_pings, bundle="b"):
        self.path, self.left, self.bundle, self.num_connections = path, num_pings, bundle, 0
        self.handlers = []

    async def serve(self, reader, writer):
        self.num_connections += 1
        self.handlers.append(asyncio.current_task())
        frames = FrameReader()
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                for frame in frames.feed(data):
                    if frame.header.kind == "ping" and self.left > 0:
                        self.left -= 1
                        writer.write(encode(Header("ready", bundle=self.bundle, max_rows=20)))


async def follow(replica, act):
    server = await asyncio.start_unix_server(replica.serve, replica.path)
    changed = asyncio.Event()
    link = UnixLink(replica.path, bundle="b", changed=changed.set, ping_seconds=0.01, silent_seconds=0.1)
    try:
        return await asyncio.wait_for(act(link, changed), 10)
    finally:
        link.close()
        await asyncio.gather(*replica.handlers)
        server.close()
        await asyncio.sleep(0)


def ask(link):
    future = asyncio.get_running_loop().create_future()
    link.send(COLUMNS, 1, future.set_result)
    return future


async def until_ready(link, changed):
    while not link.ready:
        await changed.wait()
        changed.clear()


def test_a_silent_replica_is_given_up_and_tried_anew(short):
    replica = Replica(str(short / "r.sock"), num_pings=3)

    async def act(link, changed):
        await until_ready(link, changed)
        outcome = await ask(link)
        assert not link.ready
        replica.left = 10**6
        await until_ready(link, changed)
        return outcome

    assert isinstance(asyncio.run(follow(replica, act)), UnavailableError)
    assert replica.num_connections == 2


def test_a_busy_replica_that_answers_pings_is_kept(short):
    """The negative control: what counts is silence, not the time that an answer takes."""
    replica = Replica(str(short / "r.sock"), num_pings=10**6)

    async def act(link, changed):
        await until_ready(link, changed)
        answered, _ = await asyncio.wait([ask(link)], timeout=0.3)
        assert not answered
        assert link.ready
        assert link.max_rows == 20, "as the replica said"

    asyncio.run(follow(replica, act))
    assert replica.num_connections == 1


def test_another_bundle_never_becomes_ready(short):
    replica = Replica(str(short / "r.sock"), num_pings=10**6, bundle="other")

    async def act(link, changed):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(until_ready(link, changed), 0.1)
        return await ask(link)

    assert isinstance(asyncio.run(follow(replica, act)), UnavailableError)


def test_closing_gives_back_what_is_open(short):
    replica = Replica(str(short / "r.sock"), num_pings=10**6)

    async def act(link, changed):
        await until_ready(link, changed)
        future = ask(link)
        link.close()
        return await future

    assert isinstance(asyncio.run(follow(replica, act)), UnavailableError)
