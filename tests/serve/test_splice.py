"""What the gateway does not answer itself goes to control and back, untouched and within limits."""

from __future__ import annotations

import asyncio

import pytest

from datahall.serve.config import GatewayLimits


class Control:
    """A control that keeps what it was sent and answers what a test tells it to."""

    def __init__(self, kit, folder):
        self.thread = kit.LoopThread()
        self.heads, self.bodies = [], []
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
        self.path = str(folder / "control.sock")

        async def start():
            self.server = await asyncio.start_unix_server(self.serve, self.path, limit=1 << 20)

        self.thread.run(start())

    async def serve(self, reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            body = b""
            if b"chunked" in head:
                body = await reader.readuntil(b"0\r\n\r\n")
            elif b"content-length: " in head:
                body = await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
            self.bodies.append(body)
            writer.write(self.answer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.bodies.append(None)
        finally:
            writer.close()

    def close(self):
        async def stop():
            self.server.close()
            await asyncio.sleep(0)

        self.thread.run(stop())
        self.thread.close()


@pytest.fixture
def control(kit, short):
    made = Control(kit, short)
    yield made
    made.close()


@pytest.fixture
def hall(world, kit):
    world.deploy(kit.TinyPredictor(kit.manifest()))
    world.publish()
    return world.start(limits=GatewayLimits(max_control_body_bytes=100_000))


def test_a_request_goes_through(hall, control):
    headers = ("X-Forwarded-For: 6.6.6.6", "Accept: text/html", "Keep-Alive: 5")
    with hall.client() as client:
        reply = client.ask("GET", "/api/v1/apps?x=1", headers=headers)
        assert (reply.status, reply.body) == (200, b"hi")
        assert client.closed()
    head = control.heads[0].decode()
    assert head.startswith("GET /api/v1/apps?x=1 HTTP/1.1\r\n")
    assert "accept: text/html\r\n" in head
    assert "authorization: Bearer dh_owner\r\n" in head
    assert "x-forwarded-for: 127.0.0.1\r\n" in head
    assert "6.6.6.6" not in head
    assert "keep-alive" not in head.lower()


@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_go_through(hall, control, kit, chunked):
    body = bytes(range(256)) * 300
    with hall.client() as client:
        if chunked:
            client.send(b"PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
            for start in range(0, len(body), 7000):
                part = body[start : start + 7000]
                client.send(b"%x\r\n%b\r\n" % (len(part), part))
            client.send(b"0\r\n\r\n")
        else:
            client.send(kit.request("PUT", "/x", body))
        assert client.reply().status == 200
    received = control.bodies[0]
    if chunked:
        plain, rest = b"", received
        while not rest.startswith(b"0\r\n"):
            size, _, rest = rest.partition(b"\r\n")
            plain, rest = plain + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        received = plain
    assert received == body


def test_an_absolute_target_cannot_choose_the_host(hall, control):
    with hall.client() as client:
        client.send(b"GET http://evil.example/x?y HTTP/1.1\r\nHost: hall\r\n\r\n")
        assert client.reply().status == 200
    assert control.heads[0].startswith(b"GET /x?y HTTP/1.1\r\nhost: hall\r\n")


def test_a_large_answer_goes_through_whole(hall, control):
    data = b"x" * 5_000_000
    control.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\nConnection: close\r\n\r\n" + data
    assert hall.ask("GET", "/").body == data


def test_limits_hold_for_announced_and_streamed_bodies(hall, control):
    with hall.client() as client:
        client.send(b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 100001\r\n\r\n")
        assert client.reply().status == 413
    with hall.client() as client:
        client.send(b"PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + b"20000\r\n" + b"x" * 0x20000)
        assert client.reply().status == 413
    assert hall.ask("GET", "/").status == 200
    assert [body for body in control.bodies if body] == []


def test_without_control_answers_go_on(hall):
    with hall.client() as client:
        reply = client.ask("GET", "/")
        assert reply.status == 503
        assert "retry-after" in reply.headers
        assert client.closed()
    assert hall.ask("POST", "/predict/flowers", {"petal length": 1, "petal width": 1}).status == 200


def test_a_control_that_says_nothing_is_a_503(hall, control):
    control.answer = b""
    reply = hall.ask("GET", "/")
    assert reply.status == 503
    assert "control" in reply.json()["error"]


def test_answers_before_it_come_first_and_nothing_comes_after(hall, control, kit):
    predictor = next(iter(hall.replicas.values())).predictor
    predictor.hold.clear()
    with hall.client() as client:
        client.send(kit.request("POST", "/predict/flowers", {"petal length": 1, "petal width": 1}))
        client.send(kit.request("GET", "/api") + kit.request("GET", "/healthz"))
        hall.until(lambda: control.bodies)
        predictor.hold.set()
        assert "predictions" in client.reply().json()
        assert client.reply().body == b"hi"
        assert client.closed()


def test_a_client_that_leaves_ends_the_splice(hall, control):
    with hall.client() as client:
        client.send(b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nabc")
        hall.until(lambda: control.heads)
    hall.until(lambda: control.bodies == [None])


def test_draining_lets_a_splice_finish(hall, control):
    with hall.client() as client:
        client.send(b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\na")
        hall.until(lambda: control.heads)
        drained = asyncio.run_coroutine_threadsafe(hall.gateway.drain(), hall.loop.loop)
        hall.until(lambda: hall.gateway.draining)
        client.send(b"bc")
        assert client.reply().body == b"hi"
    drained.result(10)
    hall.loop.close()
    hall.loop = None
