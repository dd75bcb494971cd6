"""However a request ends, its place among those in flight is given back."""

from __future__ import annotations

import asyncio
import random

import pytest

from datahall.serve.recording import Ticket
from tests.serve.test_taken_over import in_flight

ROW = {"petal length": 2.0, "petal width": 1.0}
GOOD = {"rows": [ROW]}


def one_of(draw, kit):
    """Some request, good or bad, and how much of it is sent."""
    body = draw.choice(
        [GOOD, GOOD, {"rows": [ROW] * 3}, {"rows": []}, b"{", b"x" * 3000, {"rows": [{"petal length": -666}]}]
    )
    path = draw.choice(["/predict/flowers", "/predict/flowers", "/v2/models/flowers/infer", "/invocations/flowers"])
    path = draw.choice([path, path, path, "/predict/nothing", "/api/v1/status"])
    key = draw.choice([kit.KEY] * 4 + ["dh_ward", "dh_nobody"])
    headers = draw.choice(
        [(), (), ("Content-Type: application/json",), ("Expect: 100-continue",), ("Connection: close",)]
    )
    data = kit.request(draw.choice(["POST", "POST", "POST", "GET"]), path, body, key=key, headers=headers)
    return data[: draw.choice([len(data)] * 4 + [draw.randrange(1, len(data))])]


@pytest.mark.parametrize("seed", range(4))
def test_after_any_ends_nobody_is_in_flight(world, kit, seed):
    draw = random.Random(seed)  # noqa: S311  a fuzz, which must be repeatable
    predictor = kit.TinyPredictor(kit.manifest(), fail=RuntimeError("the device is gone"))
    world.grant("dh_ward", scopes=("predict",), team="ward")
    world.deploy(predictor, cache_seconds=60.0, protocols=("predict", "v2", "mlflow"))
    world.publish()
    world.start()
    most = 0
    for round_number in range(6):
        predictor.hold.clear()
        clients = [world.client() for _ in range(20)]
        for client in clients:
            client.send(b"".join(one_of(draw, kit) for _ in range(draw.choice([1, 1, 2, 5]))))
        world.loop.run(_turns())
        most = max(most, world.gateway._admission.num_in_flight)
        for client in draw.sample(clients, 10):
            client.socket.close()
        if round_number == 3:  # a newer version, while the old one works
            world.deploy(kit.TinyPredictor(kit.manifest()), version="2.0.0", cache_seconds=60.0)
            world.publish()
            world.until(lambda: world.gateway._follower.revision == world.revision)
        predictor.hold.set()
        for client in clients:
            client.socket.close()
        world.until(lambda: not world.gateway._connections and not any(in_flight(world)))
    assert most > 0, "or nothing was tried"
    assert world.gateway._admission._active_weight == 0
    assert world.gateway._bodies.num_bytes == 0
    assert [lane.num_open for lane in world.gateway._follower._lanes.values()] == [0]


async def _turns():
    """Let the gateway take in what has been sent."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_mistake_of_ours_costs_no_place(flowers):
    lane = flowers.gateway._follower.lane("lab", "flowers")
    speech = lane.speeches["predict"]
    lane.speeches = dict(lane.speeches) | {"predict": speech._replace(read=lambda _: 1 / 0)}
    with flowers.client() as client, pytest.raises(ConnectionError):
        client.ask("POST", "/predict/flowers", GOOD)
    assert set(in_flight(flowers)) == {0}
    lane.speeches = {"predict": speech}
    assert flowers.ask("POST", "/predict/flowers", GOOD).status == 200


def test_a_place_that_is_not_given_back_would_be_seen(flowers, monkeypatch):
    """The negative control of the fuzz above."""
    monkeypatch.setattr(Ticket, "leave", lambda *_, **__: None)
    assert flowers.ask("POST", "/predict/flowers", GOOD).status == 200
    assert in_flight(flowers)[0] == 1
