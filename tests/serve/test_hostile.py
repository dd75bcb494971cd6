"""Bad input gets a 4xx that says what was wrong, and the next good request is answered."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from pathlib import Path

import pytest

from datahall.serve.config import GatewayLimits

ROW = {"petal length": 2.0, "petal width": 1.0}
GOOD = {"rows": [ROW]}
HEAD = b"POST /predict/flowers HTTP/1.1\r\nHost: hall\r\nAuthorization: Bearer dh_owner\r\n"


def refused(world, reply, status, *words):
    """The reply is a clear refusal, and the gateway still answers."""
    assert reply.status == status, reply
    body = reply.json()
    assert set(body) == {"error", "hint"}
    text = (body["error"] + " " + body["hint"]).lower()
    for word in words:
        assert word.lower() in text, text
    assert "traceback" not in text
    assert str(world.folder) not in text
    assert world.ask("POST", "/predict/flowers", GOOD).status == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"rows":[{"petal length":NaN,"petal width":1}]}', ("byte", "null")),
        (b'{"rows":[{"petal length":Infinity,"petal width":1}]}', ("byte", "null")),
        (b'{"rows":[{"petal length":1e999,"petal width":1}]}', ("range", "petal length")),
        (b'{"rows":[{"petal length":null,"petal width":1}]}', ("petal length", "missing values")),
        (b'{"rows":[{"petal length":"2","petal width":1}]}', ("petal length", "string")),
        (b'{"rows":[{"petal length":true,"petal width":1}]}', ("petal length", "true or false")),
        (b'{"rows":[{"petal length":[2],"petal width":1}]}', ("petal length", "array")),
        (b'{"rows":[{"petal length":2}]}', ("petal width", "lacks")),
        (b'{"rows":[{"petal length":2,"petal width":1,"petal widht":1}]}', ("petal widht", "did you mean")),
        (b'{"petal length":2}', ("petal width", "lacks")),
        (b'{"rows":[]}', ("no rows",)),
        (b'{"rows":{}}', ("array",)),
        (b'{"rows":[{"petal length":2,"petal width":1}]', ("too early", "byte 44")),
        (b'{"rows":[{"petal length":2;"petal width":1}]}', ("byte 26",)),
        (b'{"rows":[{"petal length":2,"petal width":1}]} x', ("byte",)),
        (b"", ("too early",)),
        (b"[]", ("array",)),
        (b'"text"', ("str",)),
        (b'{"rows":[{"petal length":2,"petal w\xffdth":1}]}', ("utf-8",)),
        (b"[" * 200_000, ("array",)),
        (b'{"rows":' + b"[" * 200_000, ("array",)),
        (b'{"nothing":' + b'{"a":' * 200_000, ("column",)),
        (b'{"rows":[{"nothing":' + b"[" * 200_000, ("column",)),
    ],
)
def test_bad_rows(flowers, body, words):
    refused(flowers, flowers.ask("POST", "/predict/flowers", body), 400, *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"datatype": "FP99"}, ("FP99", "FP64")),
        ({"datatype": "BYTES"}, ("BYTES",)),
        ({"shape": [2, 2]}, ("2 values", "4")),
        ({"shape": [-1, -2]}, ("shape",)),
        ({"shape": [1, 3]}, ("shape", "[rows, 2]")),
        ({"shape": [2]}, ("shape",)),
        ({"shape": [10**30, 2]}, ("2 values",)),
        ({"shape": [0, 2], "data": []}, ("no rows",)),
        ({"data": [1, "2"]}, ("string", "input")),
        ({"data": [1, None]}, ("",)),
        ({"data": [[1, 2], [3]]}, ("0 values",)),
        ({"data": [[[1]], 2]}, ("array",)),
        ({"data": None}, ("array",)),
        ({"name": "inpt"}, ("missing", "petal length")),
        ({"datatype": "INT64", "data": [1.5, 2]}, ("INT64", "fraction")),
        ({"parameters": {"binary_data_size": 16}}, ("binary", "0 bytes")),
        ({"extra": 1}, ("extra",)),
    ],
)
def test_bad_tensors(flowers, change, words):
    tensor = {"name": "input", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]} | change
    reply = flowers.ask("POST", "/v2/models/flowers/infer", {"inputs": [tensor]})
    if change == {"data": [1, None]}:  # petal width may be missing
        assert reply.status == 200
    else:
        refused(flowers, reply, 400, *words)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"inputs":' + b"[" * 200_000, ("array",)),
        (b'{"inputs":[{"name":"input","shape":[1,2],"datatype":"FP64","data":' + b"[" * 200_000, ("deep",)),
        (b'{"inputs":[{"name":"input","shape":[1,2],"datatype":"FP64","data":[1,NaN]}]}', ("byte",)),
        (b'{"inputs":[]}', ("petal length",)),
        (b"{}", ("inputs",)),
        (b'{"inputs":[],"outputs":[{"name":"nothing"}]}', ("nothing", "label")),
        (b'{"inputs":[],"parameters":{"binary_data_output":1}}', ("petal",)),
    ],
)
def test_bad_inference_requests(flowers, body, words):
    refused(flowers, flowers.ask("POST", "/v2/models/flowers/infer", body), 400, *words)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/predict/nobody", 404),
        ("POST", "/predict/", 404),
        ("POST", "/predict/a/b", 404),
        ("POST", "/predict/flowers%2fx", 404),
        ("GET", "/v2/models/nobody", 404),
        ("GET", "/v2/models/flowers/versions/9.9.9", 404),
        ("GET", "/v2/nothing", 404),
        ("GET", "/predict/flowers", 405),
        ("DELETE", "/v2/models/flowers/infer", 405),
        ("POST", "/healthz", 405),
        ("OPTIONS", "/healthz", 405),
    ],
)
def test_wrong_paths_and_methods(flowers, method, path, status):
    reply = flowers.ask(method, path, b"{}" if method == "POST" else None)
    refused(flowers, reply, status)
    assert ("allow" in reply.headers) == (status == 405)


def test_a_compressed_body_is_refused(flowers):
    reply = flowers.ask("POST", "/predict/flowers", b"\x1f\x8b", headers=("Content-Encoding: gzip",))
    refused(flowers, reply, 415, "gzip", "uncompressed")


def test_a_hundred_megabytes_are_refused_when_announced(flowers):
    with flowers.client() as client:  # the reply comes before a single byte of the body is sent
        client.send(HEAD + b"Content-Length: 100000000\r\n\r\n")
        reply = client.reply()
        assert client.closed()
    refused(flowers, reply, 413, "8388608")


@pytest.mark.parametrize("size", [100_000_000])
def test_a_hundred_megabytes_are_refused_as_they_stream(flowers, size):
    chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    with flowers.client() as client:
        client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(9):
            client.send(chunk)
        reply = client.reply()  # it comes after nine of a hundred chunks, one beyond the limit
        for _ in range(size >> 20):
            try:
                client.send(chunk)
            except OSError:
                break
    refused(flowers, reply, 413, "8388608")
    assert flowers.gateway._bodies.num_bytes == 0


def test_all_held_bodies_together_are_bounded(flowers_with):
    world = flowers_with(max_held_bytes=1000)
    with world.client() as client:
        client.send(HEAD + b"Content-Length: 1001\r\n\r\n" + b" " * 1001)
        reply = client.reply()
    refused(world, reply, 503)
    assert "retry-after" in reply.headers
    assert world.gateway._bodies.num_bytes == 0


def test_a_stalled_body_gets_408(flowers_with):
    world = flowers_with(stall_seconds=0.05)
    with world.client() as client:
        client.send(HEAD + b'Content-Length: 100\r\n\r\n{"rows"')
        reply = client.reply()
        assert client.closed()
    refused(world, reply, 408, "body")


def test_a_trickled_body_gets_408(flowers_with):
    world = flowers_with(stall_seconds=0.2, body_seconds=0.1)
    with world.client() as client:
        client.send(HEAD + b"Content-Length: 100000\r\n\r\n")
        client.socket.settimeout(0.01)
        try:
            for _ in range(1000):
                client.send(b" ")
                try:
                    if client.buffer or not client._more():
                        break
                except TimeoutError:
                    continue
        except OSError:
            pass
        client.socket.settimeout(5)
        reply = client.reply()
    refused(world, reply, 408, "body")


def test_slow_headers_get_408(flowers_with):
    world = flowers_with(head_seconds=0.05)
    with world.client() as client:
        client.send(b"GET /healthz HTTP/1.1\r\nHost: h")
        reply = client.reply()
        assert client.closed()
    refused(world, reply, 408, "headers")


def test_an_idle_connection_is_closed(flowers_with):
    world = flowers_with(idle_seconds=0.05, head_seconds=0.1)
    with world.client() as client:
        assert client.closed()


@pytest.mark.parametrize(
    "flood",
    [
        b"".join(b"X-%d: y\r\n" % index for index in range(101)),
        b"X: " + b"y" * 60_000 + b"\r\n",
        b"X" * 60_000 + b": y\r\n",
        b"X: " + b"y" * 60_000,
    ],
    ids=["many", "long value", "long name", "unfinished"],
)
def test_header_floods_get_431(flowers, flood):
    with flowers.client() as client:
        client.send(HEAD + flood)
        reply = client.reply()
        assert client.closed()
    refused(flowers, reply, 431)


def test_a_long_target_gets_431(flowers):
    with flowers.client() as client:
        client.send(b"GET /" + b"a" * 60_000)
        assert client.reply().status == 431


def test_too_many_connections_get_503(flowers_with):
    world = flowers_with(max_connections=2)
    with world.client() as first, world.client() as second:
        assert first.ask("GET", "/healthz").status == 200
        assert second.ask("GET", "/healthz").status == 200
        with world.client() as third:
            reply = third.reply()
            assert third.closed()
        assert reply.status == 503
        assert "retry-after" in reply.headers
        assert first.ask("GET", "/healthz").status == 200
    world.until(lambda: not world.gateway._connections)
    assert world.ask("GET", "/healthz").status == 200


SMUGGLED = b"GET /healthz HTTP/1.1\r\nHost: hall\r\n\r\n"
FORMS = {
    "both lengths": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both, other order": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}",
    "two equal lengths": b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "length list": b"Content-Length: 2, 2\r\n\r\n{}",
    "signed length": b"Content-Length: +2\r\n\r\n{}",
    "negative length": b"Content-Length: -2\r\n\r\n{}",
    "hexadecimal length": b"Content-Length: 0x2\r\n\r\n{}",
    "space before colon": b"Content-Length : 2\r\n\r\n{}",
    "folded line": b"X: a\r\n Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}",
    "unknown encoding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "encoding list": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "two encodings": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "tab in encoding": b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "bare line feeds": b"Content-Length: 2\n\n{}",
    "bad chunk size": b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
    "chunk overflow": b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "null in header": b"X: a\0b\r\nContent-Length: 2\r\n\r\n{}",
    "second host": b"Host: other\r\nContent-Length: 2\r\n\r\n{}",
    "second key": b"Authorization: Bearer dh_other\r\nContent-Length: 2\r\n\r\n{}",
    "upgrade": b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("form", FORMS)
def test_what_two_parsers_could_read_differently_ends_the_connection(flowers, form):
    with flowers.client() as client:
        client.send(HEAD + FORMS[form] + SMUGGLED)
        reply = client.reply()
        assert client.closed(), "the second request must not be answered"
    refused(flowers, reply, 400)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\nHost: hall\r\n\r\n",
        b"GET /heal\0thz HTTP/1.1\r\nHost: hall\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: hall\r\n\r\n",
        b"GET /%ff HTTP/1.1\r\nHost: hall\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: hall\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n\r\n\r\nhello?\r\n\r\n",
    ],
)
def test_what_is_not_http_gets_400(flowers, garbage):
    with flowers.client() as client:
        client.send(garbage)
        reply = client.reply()
        assert client.closed()
    refused(flowers, reply, 400)


def test_mutated_requests_never_harm_the_next_one(flowers, kit):
    """Three hundred good requests with bytes changed, doubled or cut: each is answered, refused or hung up on."""
    dice = random.Random(7)  # noqa: S311  not for secrets
    statuses = set()
    for _ in range(300):
        data = bytearray(kit.request("POST", "/predict/flowers", GOOD))
        for _ in range(dice.randint(1, 4)):
            place = dice.randrange(len(data))
            kind = dice.randrange(3)
            if kind == 0:
                data[place] = dice.randrange(256)
            elif kind == 1:
                data[place:place] = data[place : place + dice.randint(1, 30)]
            else:
                del data[place : place + dice.randint(1, 5)]
        with flowers.client() as client:
            client.send(bytes(data))
            client.socket.shutdown(1)
            try:
                statuses.add(client.reply().status)
            except ConnectionError:
                statuses.add(0)
    assert flowers.ask("POST", "/predict/flowers", GOOD).status == 200
    assert {200, 400} <= statuses
    assert not statuses & {500, 502, 504}


def test_a_normal_request_with_a_lengthy_body_is_answered(flowers):
    """The negative control of all the above: size, chunks and folding of a good request do no harm."""
    data = json.dumps({"rows": [ROW] * 2000}).encode()
    with flowers.client() as client:
        client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(data), 1000):
            part = data[start : start + 1000]
            client.send(b"%x\r\n%b\r\n" % (len(part), part))
        client.send(b"0\r\nTrailer: ignored\r\n\r\n")
        reply = client.reply()
        assert len(reply.json()["predictions"]) == 2000
        assert client.ask("GET", "/healthz").status == 200


@pytest.fixture(scope="module")
def flowers(kit):
    """One hall for all: what a test does to it must not show in the next."""
    folder = Path(tempfile.mkdtemp(prefix="dh-", dir="/tmp"))
    world = kit.World(folder)
    world.deploy(kit.TinyPredictor(kit.manifest()))
    world.publish()
    yield world.start()
    world.close()
    shutil.rmtree(folder)


@pytest.fixture
def flowers_with(world, kit):
    """Start a hall with tighter limits."""

    def start(**limits):
        world.deploy(kit.TinyPredictor(kit.manifest()))
        world.publish()
        return world.start(limits=GatewayLimits(**limits))

    return start
