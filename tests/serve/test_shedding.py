"""At extremes even refusing costs too much: then a client that ignores Retry-After is not listened to for a while."""

from __future__ import annotations

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
