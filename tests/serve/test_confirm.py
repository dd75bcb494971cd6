"""Keys that control has not confirmed for too long are not taken, whatever happens to clocks and files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.core.records import RouteTable
from datahall.security.signing import Ed25519Signer, dsse_sign
from datahall.serve.confirm import MAX_BYTES, PAYLOAD_TYPE, Freshness, confirmation_path, publish_confirmation
from datahall.testing.clock import AutoClock

DAY_S = 86_400.0
MINUTE_S = 60.0


@dataclass
class World:
    folder: Path
    clock: AutoClock = field(default_factory=AutoClock)
    signer: Ed25519Signer = field(default_factory=Ed25519Signer.generate)

    def __post_init__(self):
        self.routes = self.folder / "routes.json"
        self.table = self.made(1)
        self.freshness = self.gateway()

    def made(self, revision):
        return RouteTable(id="current", revision=revision, routes=(), keys={}, published_at_ns=self.clock.now_ns())

    def gateway(self, stale_seconds=DAY_S):
        return Freshness(self.routes, {self.signer.key_id: self.signer.public_key}, self.clock, stale_seconds)

    def confirm(self, revision=1, **changes):
        at = changes.get("now_ns", self.clock.now_ns())
        publish_confirmation(self.routes, revision, at, changes.get("signer", self.signer))

    def is_stale(self, after_s=0.0):
        self.clock.advance(after_s)
        self.freshness.step(self.table)
        return self.freshness.is_stale


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_without_word_from_control_keys_are_good_for_just_so_long(world):
    assert not world.is_stale()
    assert not world.is_stale(DAY_S)
    assert world.is_stale(0.001)


def test_while_control_confirms_they_are_good_for_ever_and_again_once_it_is_back(world):
    for _ in range(4):
        assert not world.is_stale(DAY_S / 2)
        world.confirm()
        assert not world.is_stale()
    assert world.is_stale(DAY_S + 1)
    world.confirm()
    assert not world.is_stale()


def test_control_without_the_setting_nothing_grows_stale(world):
    world.freshness = world.gateway(None)
    assert not world.is_stale(100 * DAY_S)


def test_a_newer_table_counts_as_word_from_control(world):
    assert not world.is_stale(DAY_S)
    world.table = world.made(2)
    assert not world.is_stale(DAY_S)
    assert world.is_stale(1)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda world: world.confirm(revision=2),
        lambda world: world.confirm(revision=0),
        lambda world: world.confirm(signer=Ed25519Signer.generate()),
        lambda world: world.confirm(now_ns=world.clock.now_ns() + int(400e9)),
        lambda world: world.confirm(now_ns=0),
        lambda world: confirmation_path(world.routes).write_bytes(b""),
        lambda world: confirmation_path(world.routes).write_bytes(b"\xff" * 100),
        lambda world: confirmation_path(world.routes).write_text(dsse_sign(world.signer, PAYLOAD_TYPE, b"{}")),
        lambda world: confirmation_path(world.routes).write_text(dsse_sign(world.signer, "text/plain", b"{}")),
        lambda world: confirmation_path(world.routes).write_bytes(b" " * (MAX_BYTES + 1)),
        lambda world: confirmation_path(world.routes).mkdir(),
    ],
    ids=["newer", "older", "foreign", "future", "ancient", "empty", "garbage", "fields", "type", "large", "folder"],
)
def test_what_is_no_confirmation_of_this_table_by_this_hall_now_confirms_nothing(world, spoil):
    assert not world.is_stale(DAY_S)
    spoil(world)
    assert world.is_stale(1)


def test_control_the_same_with_a_proper_one(world):
    assert not world.is_stale(DAY_S)
    world.confirm()
    assert not world.is_stale(1)


def test_an_older_confirmation_put_back_gains_no_time(world):
    world.confirm()
    kept = confirmation_path(world.routes).read_bytes()
    assert not world.is_stale(DAY_S / 2)
    world.confirm()
    assert not world.is_stale()
    confirmation_path(world.routes).write_bytes(kept)
    assert not world.is_stale(DAY_S)
    assert world.is_stale(1)


def test_a_gateway_that_starts_knows_how_old_the_table_is(world):
    world.clock.advance(DAY_S + 1)
    world.freshness = world.gateway()
    assert world.is_stale()
    world.confirm()
    assert not world.is_stale()


def test_a_wall_clock_set_back_gains_no_time_and_loses_none_while_control_lives(world):
    assert not world.is_stale(DAY_S / 2)
    world.clock.jump(-365 * DAY_S)
    assert not world.is_stale(DAY_S / 2)
    world.confirm()
    assert not world.is_stale(DAY_S)
    world.clock.jump(-10 * DAY_S)
    assert world.is_stale(1), "and what was confirmed stays as old as it is"


def test_a_wall_clock_set_forward_costs_nothing(world):
    assert not world.is_stale(MINUTE_S)
    world.clock.jump(365 * DAY_S)
    assert not world.is_stale(MINUTE_S)
    world.confirm()
    assert not world.is_stale(DAY_S)
    assert world.is_stale(1)


@given(steps=st.lists(st.tuples(st.floats(0, 2 * DAY_S), st.booleans()), max_size=20))
def test_it_is_stale_just_when_the_last_word_is_too_old(steps, tmp_path_factory):
    world = World(tmp_path_factory.mktemp("w"))
    assert not world.is_stale()
    silence_ns = 0
    for seconds, confirmed in steps:
        world.clock.advance(seconds)
        silence_ns += round(seconds * 1e9)
        if confirmed:
            world.confirm()
            silence_ns = 0
        assert world.is_stale() == (silence_ns > DAY_S * 1e9)
