"""However the bytes of a connection are cut, and whatever came before them on it, they are read alike."""

from __future__ import annotations

import asyncio
import random
import re

import pytest

from datahall.serve import http
from datahall.serve.http import Connection
from tests.serve.smuggling import FAMILIES, GOOD, TARGET, chunked

PLAIN = GOOD["plain"].replace(TARGET, b"/predict/flowers")
LAST = b"GET /healthz HTTP/1.1\r\nHost: hall\r\nConnection: close\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport that keeps what is written, so that a test decides what arrives together."""

    def __init__(self):
        super().__init__()
        self.written = b""
        self.ended = False

    def write(self, data):
        self.written += data

    def can_write_eof(self):
        return True

    def write_eof(self):
        self.ended = True

    def is_closing(self):
        return self.ended

    def close(self):
        self.ended = True

    abort = close

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


def statuses(world, pieces):
    """Return what a connection answers to bytes that arrive in these pieces."""

    async def feed():
        wire = Wire()
        connection = Connection(world.gateway)
        connection.connection_made(wire)
        for piece in pieces:
            connection.data_received(piece)
            if connection.busy:
                await asyncio.sleep(0)
        while connection._slots:  # noqa: ASYNC110  a connection has no event for its last answer
            await asyncio.sleep(0)
        connection.connection_lost(None)
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", wire.written)]

    return world.loop.run(feed())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cuts_between_pieces_change_nothing(flowers, family):
    dice = random.Random(family)  # noqa: S311  not for secrets
    for name, case in FAMILIES[family].items():
        data = case.replace(TARGET, b"/healthz") + LAST
        whole = statuses(flowers, [data])
        if len(data) < 2000:
            assert statuses(flowers, [data[index : index + 1] for index in range(len(data))]) == whole, name
        for _ in range(5):
            places = sorted(dice.randrange(len(data)) for _ in range(dice.randint(1, 4)))
            pieces = [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
            assert statuses(flowers, pieces) == whole, (name, places)


def test_a_head_like_one_seen_before_is_read_like_a_new_one(flowers):
    """Heads that differ from a good one in a byte, after that good one twice: as on a connection of their own."""
    good = statuses(flowers, [PLAIN])
    assert good == [200]
    assert statuses(flowers, [PLAIN, PLAIN, PLAIN]) == [200, 200, 200]
    dice = random.Random(3)  # noqa: S311  not for secrets
    for place in range(len(PLAIN)):
        changed = bytearray(PLAIN)
        changed[place] = dice.choice(b"\r\n \t:\0x0129,")
        doubled = PLAIN[:place] + PLAIN[place : place + 1] + PLAIN[place:]
        cut = PLAIN[:place] + PLAIN[place + 1 :]
        for other in (bytes(changed), doubled, cut):
            alone = statuses(flowers, [other, LAST])
            assert statuses(flowers, [PLAIN, PLAIN, other, LAST]) == [200, 200, *alone], other
            assert statuses(flowers, [PLAIN, PLAIN + other, LAST]) == [200, 200, *alone], other


def test_a_head_known_by_its_beginning_alone_would_be_read_wrongly(flowers, monkeypatch):
    """The negative control: were less than the whole head compared, a changed one would pass for the good one."""
    other = PLAIN.replace(b"Content-Length: 34", b"Content-Length: x4")
    assert statuses(flowers, [PLAIN, PLAIN, other]) == [200, 200, 400]
    remember = Connection._remember

    def careless(connection, request, plan):
        remember(connection, request, plan)
        connection._again.head = connection._again.head[:10]

    monkeypatch.setattr(Connection, "_remember", careless)
    assert statuses(flowers, [PLAIN, PLAIN, other]) == [200, 200, 200]


FOREIGN = [
    b"GET /healthz RTSP/1.0",
    b"GET /healthz   RTSP/1.1",
    b"SOURCE /healthz ICE/1.0",
    b"OPTIONS rtsp://hall/ RTSP/1.0",
]
SPOKEN = b"GET /healthz RTSP/1.0\r\nHost: hall\r\n\r\nGET / ICE/1.0\r\n RTSP/"
LURKING = (
    b"POST /predict/flowers HTTP/1.1\r\nX: y RTSP/1.0\r\nX:RTSP/1.0\r\nHost: hall\r\nX: GET /healthz RTSP/1.0\r\n"
    b"Authorization: Bearer dh_owner\r\nContent-Length: %d\r\n\r\n%b" % (len(SPOKEN), SPOKEN)
)
"""HTTP in whose headers and body other protocols are named; the body is no JSON, which is all that is wrong with it."""


def in_two(data):
    """Return all ways to cut bytes in two, and the way to cut them everywhere."""
    return [[data[:place], data[place:]] for place in range(len(data))] + [[bytes([byte]) for byte in data]]


@pytest.mark.parametrize("line", FOREIGN)
def test_a_protocol_that_is_not_http_is_refused_wherever_it_is_cut(flowers, line):
    foreign = line + b"\r\nHost: hall\r\nX: RTSP/1.0\r\n\r\n"
    for before, answers in ((b"", []), (b"\r\n", []), (PLAIN, [200]), (LURKING, [400]), (PLAIN + LURKING, [200, 400])):
        for pieces in in_two(before + foreign + LAST):
            assert statuses(flowers, pieces) == [*answers, 505], pieces


def test_other_protocols_may_be_spoken_of(flowers):
    for pieces in in_two(LURKING + LURKING + LAST):
        assert statuses(flowers, pieces) == [400, 400, 200], pieces
    chunks = chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(SPOKEN), SPOKEN)).replace(TARGET, b"/predict/flowers")
    for pieces in in_two(chunks + LAST):
        assert statuses(flowers, pieces) == [400, 200], pieces


@pytest.mark.parametrize("holds", ["parts_of", "end_of_line"])
def test_each_half_of_the_search_for_other_protocols_is_needed(flowers, monkeypatch, holds):
    """The negative control: uncut, or unread, the first line passes for HTTP's."""
    foreign = PLAIN + FOREIGN[0] + b"\r\nHost: hall\r\n\r\n"
    assert statuses(flowers, [foreign]) == [200, 505]
    monkeypatch.setattr(http, holds, {"parts_of": lambda data, _: [data], "end_of_line": lambda _: b""}[holds])
    assert statuses(flowers, [foreign]) == [200, 200]
