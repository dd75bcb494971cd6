"""A gateway that starts: counted before it reads its table, open once it reaches its replicas, closed to keys that are stale."""

from __future__ import annotations

import json

from datahall.core.clock import SystemClock
from datahall.serve.config import GatewayLimits
from datahall.serve.confirm import publish_confirmation
from datahall.serve.gateway import Gateway
from datahall.serve.table import FileRouteSource

ROW = {"petal length": 1, "petal width": 1}
HOUR_S = 3600.0


def test_it_says_that_it_is_there_before_it_reads_its_first_table(world, kit, monkeypatch):
    world.deploy(kit.TinyPredictor(kit.manifest()))
    world.publish()
    state, told = world.folder / "run" / "gateway-g1.json", []
    poll = FileRouteSource.poll

    def watched(source):
        if not told:
            told.append(json.loads(state.read_bytes())["revision"] if state.exists() else "not there")
        return poll(source)

    monkeypatch.setattr(FileRouteSource, "poll", watched)
    world.start(started_at=5.0)
    assert told == [-1], "or control could stop replicas that it is about to route to"
    said = json.loads(state.read_bytes())
    assert (said["revision"], said["started_at"], said["problem"]) == (1, 5.0, "")


def test_control_said_only_afterwards_it_would_be_forgotten(world, kit, monkeypatch):
    world.deploy(kit.TinyPredictor(kit.manifest()))
    world.publish()
    state, told = world.folder / "run" / "gateway-g1.json", []
    poll, acknowledge = FileRouteSource.poll, Gateway._acknowledge
    monkeypatch.setattr(Gateway, "_acknowledge", lambda self: acknowledge(self) if self.port else None)
    monkeypatch.setattr(FileRouteSource, "poll", lambda self: told.append(state.exists()) or poll(self))
    world.start()
    assert told[0] is False


def test_its_door_opens_once_it_reaches_its_replicas(world, kit):
    world.deploy(kit.TinyPredictor(kit.manifest()))
    world.publish()
    world.start(wait=False, limits=GatewayLimits(reach_seconds=10.0))
    assert world.ask("POST", "/predict/flowers", ROW).status == 200


def test_replicas_that_are_not_there_hold_it_up_no_longer_than_that(world, kit):
    (replica,) = world.deploy(kit.TinyPredictor(kit.manifest()))
    world.publish()
    replica.kill()
    world.start(wait=False, limits=GatewayLimits(reach_seconds=0.02))
    assert world.ask("POST", "/predict/flowers", ROW).status == 503
    assert world.ask("GET", "/healthz", key=None).status == 200


def test_keys_that_nobody_confirms_are_not_taken_and_are_again_once_somebody_does(world, kit):
    world.deploy(kit.TinyPredictor(kit.manifest()))
    world.publish()  # as if in 1970
    world.start(auth_stale_seconds=HOUR_S)
    said = world.ask("POST", "/predict/flowers", ROW)
    assert (said.status, said.headers["retry-after"]) == (503, "60")
    assert "1 h" in said.json()["error"]
    assert "datahall" in said.json()["hint"]
    assert world.ask("GET", "/healthz", key=None).status == 200
    ready = world.ask("GET", "/readyz", key=None)
    assert (ready.status, "confirmed" in ready.json()["problem"]) == (503, True)
    state = world.folder / "run" / "gateway-g1.json"
    assert "confirmed" in json.loads(state.read_bytes())["problem"], "for datahall ps"
    publish_confirmation(world.folder / "routes.json", 1, world.gateway._clock.now_ns(), world.signer)
    world.until(lambda: not world.gateway._follower.problem)
    assert world.ask("POST", "/predict/flowers", ROW).status == 200


def test_control_without_the_setting_the_same_table_is_followed(world, kit):
    world.deploy(kit.TinyPredictor(kit.manifest()))
    world.publish()
    world.start()
    assert world.ask("POST", "/predict/flowers", ROW).status == 200


def test_a_connection_that_was_answered_stays_refused_once_its_key_is_stale(world, kit):
    """What a connection has asked before is remembered: staleness must not be forgotten by that."""
    world.deploy(kit.TinyPredictor(kit.manifest()))
    world.publish()
    publish_confirmation(world.folder / "routes.json", 1, SystemClock().now_ns(), world.signer)
    world.start(auth_stale_seconds=HOUR_S)
    with world.client() as client:
        assert client.ask("POST", "/predict/flowers", ROW).status == 200
        world.gateway._follower._freshness._confirmed_ns = -int(2 * HOUR_S * 1e9)
        world.until(lambda: world.gateway._follower.is_stale)
        assert client.ask("POST", "/predict/flowers", ROW).status == 503


def test_a_table_that_is_damaged_when_it_starts_is_refused_and_the_next_good_one_taken(world, kit):
    world.deploy(kit.TinyPredictor(kit.manifest()))
    world.publish()
    routes = world.folder / "routes.json"
    routes.write_bytes(routes.read_bytes()[:-40])
    world.start(wait=False)
    said = world.ask("POST", "/predict/flowers", ROW)
    assert (said.status, "no route table" in said.json()["error"]) == (503, True)
    world.publish()
    world.until(lambda: world.gateway._follower.all_ready)
    assert world.ask("POST", "/predict/flowers", ROW).status == 200
