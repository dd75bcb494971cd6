"""A real gateway refuses what a quota has no room for, and gives places back."""

import msgspec

from datahall.core.records import Quota, TeamRule

ROW = {"petal length": 3.0, "petal width": None}


def full(world, kit, **quota):
    """A gateway whose only replica is at work on one request."""
    predictor = kit.TinyPredictor(kit.manifest())
    world.deploy(predictor)
    world.routes = [msgspec.structs.replace(each, quota=Quota(**quota)) for each in world.routes]
    world.publish()
    world.start()
    predictor.hold.clear()
    client = world.client()
    client.send(kit.request("POST", "/predict/flowers", ROW))
    assert predictor.entered.wait(10)
    return predictor, client


def test_a_refused_client_is_told_when_to_come_again_and_keeps_its_connection(world, kit):
    predictor, first = full(world, kit, concurrency=1)
    with world.client() as second:
        refused = second.ask("POST", "/predict/flowers", ROW)
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["hint"] == "wait for an answer first"
        predictor.hold.set()
        assert first.reply().status == 200
        assert second.ask("POST", "/predict/flowers", ROW).status == 200
    first.socket.close()


def test_it_is_told_before_it_has_sent_its_body(world, kit):
    predictor, first = full(world, kit, concurrency=1)
    with world.client() as second:
        second.send(kit.request("POST", "/predict/flowers", b"x" * 100_000)[:-99_000])
        assert second.reply().status == 429
    predictor.hold.set()
    first.socket.close()


def test_without_a_quota_nobody_is_refused(world, kit):
    predictor, first = full(world, kit)
    with world.client() as second:
        second.send(kit.request("POST", "/predict/flowers", ROW))
        predictor.hold.set()
        assert (first.reply().status, second.reply().status) == (200, 200)
    first.socket.close()


def test_whoever_leaves_or_sends_nonsense_gives_the_place_back(world, kit):
    predictor, first = full(world, kit, concurrency=2)
    with world.client() as waiting:
        waiting.send(kit.request("POST", "/predict/flowers", ROW))
        world.until(lambda: world.gateway._admission.num_in_flight == 2)
    first.socket.close()
    predictor.hold.set()
    world.until(lambda: world.gateway._admission.num_in_flight == 0)
    assert [world.ask("POST", "/predict/flowers", b"{").status for _ in range(3)] == [400] * 3
    assert world.gateway._admission.num_in_flight == 0
    assert world.ask("POST", "/predict/flowers", ROW).status == 200


def test_a_new_quota_counts_without_a_restart(world, kit):
    predictor, first = full(world, kit)
    world.publish(teams={"lab": TeamRule(quota=Quota(concurrency=1))})
    world.until(lambda: world.gateway._admission._revision == world.revision)
    assert world.ask("POST", "/predict/flowers", ROW).status == 429
    predictor.hold.set()
    first.socket.close()


def test_every_protocol_tells_a_refusal_in_its_own_words(world, kit):
    predictor = kit.TinyPredictor(kit.manifest())
    world.deploy(predictor, protocols=("predict", "mlflow"))
    world.routes = [msgspec.structs.replace(each, quota=Quota(concurrency=1)) for each in world.routes]
    world.publish()
    world.start()
    body = {"dataframe_records": [ROW]}
    asks = kit.request("POST", "/endpoints/flowers/invocations", body, headers=("Content-Type: application/json",))
    with world.client() as first, world.client() as second:
        second.send(asks)
        assert second.reply().status == 200
        predictor.hold.clear()
        predictor.entered.clear()
        first.send(kit.request("POST", "/predict/flowers", ROW))
        assert predictor.entered.wait(10)
        second.send(asks)
        reply = second.reply()
        assert reply.status == 429, "by its body, for its head was taken before"
        assert "quota" in reply.json()["message"]
        predictor.hold.set()
