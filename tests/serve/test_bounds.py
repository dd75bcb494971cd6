"""What strangers send does not add up in memory."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.serve import heads, http, routes
from datahall.serve.config import GatewayLimits
from datahall.serve.exchange import HeldBodies, Request

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


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 60)), max_size=60), st.randoms(use_true_random=False))
def test_no_teams_leave_another_without_room_for_bodies(asked, random):
    bodies, held = HeldBodies(100), []
    for team, num_bytes in asked:
        if held and random.random() < 0.3:
            back = held.pop(random.randrange(len(held)))
            bodies.take(back[0], -back[1])
        elif bodies.take(team, num_bytes):
            held.append((team, num_bytes))
        assert bodies.num_bytes == sum(size for _, size in held) <= 100
    num_free = 100 - bodies.num_bytes
    assert num_free >= 13, "one holds 50 at most, another 25 beside it, and a third 12"
    assert bodies.take("d", num_free // 2)


@pytest.mark.parametrize("is_shared", [False, True])
def test_slow_bodies_of_one_team_refuse_no_other_team(world, kit, is_shared):
    """With `is_shared` it is the same team that asks: the control, in which its own bodies stand in its way."""
    other = "lab" if is_shared else "ward"
    world.grant("dh_ward", scopes=("predict",), team=other)
    world.deploy(kit.TinyPredictor(kit.manifest()))
    if not is_shared:
        world.deploy(kit.TinyPredictor(kit.manifest()), team=other, version="2.0.0")
    world.publish()
    world.start(limits=GatewayLimits(max_held_bytes=10_000))
    slow = kit.request("POST", "/predict/flowers", b" " * 4000)[:-1]
    clients = [world.client() for _ in range(3)]
    for client in clients:
        client.send(slow)
    world.until(lambda: world.gateway._bodies.num_bytes == 3999)
    large = b'{"rows":[{"petal length":2,"petal width":1}]}' + b" " * 2000
    status = world.ask("POST", "/predict/flowers", large, key="dh_ward").status
    assert status == (503 if is_shared else 200)
    for client in clients:
        client.socket.close()
    world.until(lambda: not world.gateway._connections)
    assert world.gateway._bodies.num_bytes == 0


def test_the_body_of_a_refused_request_is_not_held(flowers, kit):
    request = kit.request("POST", "/predict/flowers", b"x" * 60_000, key="dh_nobody")
    with flowers.client() as client:
        client.send(request[:-1])
        flowers.until(lambda: any(one._request and one._request.num_body_bytes for one in flowers.gateway._connections))
        (connection,) = flowers.gateway._connections
        assert len(connection._request.body) == flowers.gateway._bodies.num_bytes == 0
        client.send(request[-1:])
        assert client.reply().status == 401
        assert client.ask("POST", "/predict/flowers", GOOD).status == 200, "the connection goes on"
