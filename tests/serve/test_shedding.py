"""At extremes even refusing costs too much: then a client that ignores Retry-After is not listened to for a while."""

from __future__ import annotations

import contextlib

import pytest

from datahall.serve.config import GatewayLimits

NUM = 40


@pytest.fixture
def down(world, kit):
    """A hall whose only replica is gone, so that every request is refused."""

    def start(**limits):
        (replica,) = world.deploy(kit.TinyPredictor(kit.manifest()))
        world.publish()
        world.start(limits=GatewayLimits(**limits))
        replica.kill()
        world.until(lambda: not world.gateway._follower.all_ready)
        return world

    return start


def hammer(world, kit):
    """Send NUM requests at once on one connection."""
    client = world.client()
    client.send(kit.request("POST", "/predict/flowers", {"petal length": 1, "petal width": 1}) * NUM)
    return client


def rests(world):
    return any(connection._rest is not None for connection in world.gateway._connections)


def test_a_client_that_is_refused_too_often_rests_and_then_goes_on(down, kit):
    world = down(max_refusals_per_s=100)
    with hammer(world, kit) as client:
        world.until(lambda: rests(world))
        assert [client.reply().status for _ in range(NUM)] == [503] * NUM
        world.until(lambda: not rests(world))
        assert client.ask("GET", "/healthz").status == 200
    assert world.ask("GET", "/healthz").status == 200


def test_one_that_never_stops_is_closed(down, kit):
    world = down(max_refusals_per_s=100, max_refusals_in_a_row=20)
    with hammer(world, kit) as client:
        for _ in range(21):
            assert client.reply().status == 503
        assert client.closed()
    assert world.ask("GET", "/healthz").status == 200


def test_while_refusals_are_affordable_nobody_rests(down, kit):
    """The negative control: the same client under the limits that a hall has."""
    world = down()
    with hammer(world, kit) as client:
        for _ in range(NUM):
            assert client.reply().status == 503
            assert not rests(world)
        assert client.ask("GET", "/healthz").status == 200


MISTAKES = {
    401: {"path": "/predict/flowers", "key": "dh_wrong"},
    403: {"path": "/predict/flowers", "key": "dh_reader"},
    404: {"path": "/predict/trees"},
}
"""What is refused without being in any quota: wrong keys, keys without the right, applications that are not there."""


@pytest.fixture
def up(world, kit):
    """A hall that answers, with a key that may not ask for predictions."""

    def start(**limits):
        world.grant("dh_reader", scopes=("read",))
        world.deploy(kit.TinyPredictor(kit.manifest()))
        world.publish()
        return world.start(limits=GatewayLimits(**limits))

    return start


def wrong(kit, status):
    mistake = MISTAKES[status]
    return kit.request("POST", mistake["path"], {"petal length": 1, "petal width": 1}, key=mistake.get("key", kit.KEY))


def until_closed(client):
    with contextlib.suppress(ConnectionError):
        while True:
            yield client.reply().status


@pytest.mark.parametrize("status", MISTAKES)
def test_a_client_that_only_makes_mistakes_rests_and_is_closed_in_the_end(up, kit, status):
    world = up(max_refusals_per_s=100, max_refusals_in_a_row=20)
    with world.client() as client:
        client.send(wrong(kit, status) * 15)
        world.until(lambda: rests(world))
        assert [client.reply().status for _ in range(15)] == [status] * 15
        world.until(lambda: not rests(world))
        client.send(wrong(kit, status) * 60)
        answers = list(until_closed(client))
        assert set(answers) == {status}
        assert 20 < 15 + len(answers) < 15 + 60
    assert world.ask("GET", "/healthz").status == 200


def test_a_client_with_a_few_mistakes_notices_nothing_of_another_that_tries_keys(up, kit):
    world = up(max_refusals_per_s=40)
    good = kit.request("POST", "/predict/flowers", {"petal length": 1, "petal width": 1})
    with world.client() as bad, world.client() as honest:
        bad.send(wrong(kit, 401) * 60)
        world.until(lambda: rests(world))
        port = honest.socket.getsockname()[1]
        for _ in range(3):
            honest.send((wrong(kit, 401) + wrong(kit, 403) + wrong(kit, 404)) * 2 + good)
            assert [honest.reply().status for _ in range(7)] == [401, 403, 404, 401, 403, 404, 200]
            for connection in world.gateway._connections:
                assert connection._rest is None or connection._transport.get_extra_info("peername")[1] != port


def test_what_anybody_may_ask_makes_up_for_no_mistake(up, kit):
    world = up(max_refusals_per_s=100, max_refusals_in_a_row=1000)
    free = kit.request("GET", "/healthz")
    with world.client() as client:
        client.send((wrong(kit, 401) * 8 + free) * 3)
        world.until(lambda: rests(world))
        assert [client.reply().status for _ in range(27)] == ([401] * 8 + [200]) * 3


@pytest.mark.parametrize("status", MISTAKES)
def test_mistakes_in_a_hall_that_can_afford_them_make_nobody_rest(up, kit, status):
    """The negative control: the limits that a hall has."""
    world = up()
    with world.client() as client:
        client.send(wrong(kit, status) * NUM)
        for _ in range(NUM):
            assert client.reply().status == status
            assert not rests(world)
        assert client.ask("GET", "/healthz").status == 200
