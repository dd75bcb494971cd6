"""What strangers send does not add up in memory."""

from __future__ import annotations

import tracemalloc

import pytest

from datahall.serve import heads, http, routes
from datahall.serve.exchange import Request

GOOD = {"rows": [{"petal length": 2.0, "petal width": 1.0}]}


@pytest.fixture
def forgetful():
    for cached in (heads._remembered, routes._remembered):
        cached.cache_clear()
    yield
    for cached in (heads._remembered, routes._remembered):
        cached.cache_clear()


def grown_bytes(prefix, num=400):
    """What the gateway's memory grows by when it is asked for so many long paths, each only once."""
    tracemalloc.start()
    for number in range(num):
        request = Request()
        request.method, request.first = "POST", {b"host": b"hall"}
        request.target = b"%b%d" % (prefix, number) + b"a" * 8000 + b"%F0%9F%98%80"  # which makes 4 bytes of each
        heads.read_head(request, "1.1")
        routes.match("POST", request.path)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return grown


@pytest.mark.parametrize("prefix", [b"/predict/", b"/console/"])
@pytest.mark.usefixtures("forgetful")
def test_long_paths_are_not_remembered(prefix):
    assert grown_bytes(prefix) < 1 << 20


@pytest.mark.parametrize("prefix", [b"/predict/", b"/console/"])
@pytest.mark.usefixtures("forgetful")
def test_without_the_bound_long_paths_would_add_up(prefix, monkeypatch):
    monkeypatch.setattr(heads, "MAX_REMEMBERED_BYTES", 1 << 20)
    monkeypatch.setattr(routes, "MAX_REMEMBERED_CHARS", 1 << 20)
    assert grown_bytes(prefix) > 10 << 20


def held_bytes(world, client, data, num_replies):
    """What a connection at rest holds of what was sent on it."""
    client.send(data)
    for _ in range(num_replies):
        client.reply()
    (connection,) = world.gateway._connections
    return len(connection._first) + (len(connection._again.head) if connection._again is not None else 0)


def test_a_connection_at_rest_holds_nothing_of_what_was_refused(flowers, kit):
    one = kit.request("GET", "/v2/models/flowers", key="dh_nobody", headers=[f"X: {'x' * 6000}"])
    with flowers.client() as client:
        assert held_bytes(flowers, client, one * 10, 10) == 0


@pytest.mark.parametrize("bound", [http.MAX_AGAIN_BYTES, 1 << 20])
def test_only_a_short_head_is_kept_for_the_next_request(flowers, kit, monkeypatch, bound):
    monkeypatch.setattr(http, "MAX_AGAIN_BYTES", bound)
    short, long = (
        kit.request("POST", "/predict/flowers", GOOD, headers=[f"X: {'x' * size}"]) for size in (1000, 10_000)
    )
    with flowers.client() as client:
        assert 1000 < held_bytes(flowers, client, short, 1) < 2000
        assert (held_bytes(flowers, client, long, 1) > 10_000) == (bound == 1 << 20)
