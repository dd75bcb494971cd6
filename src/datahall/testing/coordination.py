# ruff: noqa: D102  (a test's name is its docstring)
"""What every Coordinator must do, and what a lease is worth to the catalogue that it lives in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import pytest

from datahall.core.errors import FencedError
from datahall.core.ports import Clock, Coordinator
from datahall.core.records import Act, Change, Lease
from datahall.testing.catalogue import Store, app, checkpoint, declare
from datahall.testing.clock import JumpingClock

_HOUR_S, _TEN_YEARS_S = 3600, 10 * 365 * 86_400


class LeasingStore(Store, Protocol):
    """A backend that keeps leases beside its records."""

    @property
    def leases(self) -> Coordinator:
        """The leases, for one holder: whoever opened this store."""


Open = Callable[[Clock], LeasingStore]


class CoordinatorContract:
    """Subclass it, override the `open_store` fixture, and the tests below run against your backend."""

    @pytest.fixture
    def open_store(self) -> Open:
        """Return what opens one and the same empty store once more, as another holder with a clock of its own."""
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> JumpingClock:
        """Return the watcher's clock."""
        return JumpingClock()

    def test_a_lease_has_one_holder_and_each_new_one_a_higher_token(self, open_store: Open) -> None:
        first, second = (open_store(JumpingClock()).leases for _ in range(2))
        held = first.acquire("sequencer")
        assert held is not None
        assert held.token == 1
        assert second.acquire("sequencer") is None
        assert first.acquire("sequencer") == held
        first.release(held)
        taken = second.acquire("sequencer")
        assert taken is not None
        assert (taken.name, taken.token) == ("sequencer", 2)
        assert taken.holder != held.holder
        assert first.acquire("sequencer") is None
        assert second.acquire("rollout") == Lease(name="rollout", holder=taken.holder, token=1)

    def test_the_leases_that_are_held_are_listed_by_name(self, open_store: Open) -> None:
        first, second = (open_store(JumpingClock()).leases for _ in range(2))
        held = [second.acquire("b"), first.acquire("c"), first.acquire("a")]
        assert first.leases() == second.leases() == sorted(filter(None, held), key=lambda lease: lease.name)
        assert held[1] is not None
        first.release(held[1])
        assert [lease.name for lease in second.leases()] == ["a", "b"]

    def test_giving_back_what_was_lost_takes_it_from_nobody(self, open_store: Open, clock: JumpingClock) -> None:
        first, second = open_store(JumpingClock()).leases, open_store(clock).leases
        lost = _held(first)
        _take_over(second, clock)
        first.release(lost)
        assert [lease.token for lease in second.leases()] == [2]

    def test_a_heart_that_beats_keeps_the_lease_however_long(self, open_store: Open, clock: JumpingClock) -> None:
        first, second = open_store(JumpingClock()).leases, open_store(clock).leases
        _held(first)
        for _ in range(20):
            assert second.acquire("sequencer", ttl_s=1) is None
            clock.advance(9.9)
            first.beat()
        assert second.acquire("sequencer", ttl_s=1) is None  # its own ttl is not the holder's

    def test_a_heart_that_stood_still_for_the_ttl_loses_it(self, open_store: Open, clock: JumpingClock) -> None:
        first, second = open_store(JumpingClock()).leases, open_store(clock).leases
        held = _held(first)
        clock.advance(1000)  # nobody watched, so this counts for nothing
        assert second.acquire("sequencer") is None
        clock.advance(9.99)
        assert second.acquire("sequencer") is None
        clock.advance(0.01)
        taken = second.acquire("sequencer")
        assert taken is not None
        assert taken.token == held.token + 1
        assert first.acquire("sequencer") is None

    @pytest.mark.parametrize("jump_s", [_HOUR_S, -_HOUR_S, _TEN_YEARS_S, -_TEN_YEARS_S])
    def test_no_wall_clock_that_jumps_moves_a_lease(self, open_store: Open, clock: JumpingClock, jump_s: int) -> None:
        theirs = JumpingClock()
        first, second = open_store(theirs).leases, open_store(clock).leases
        held = _held(first)
        for jumps in (clock.jump, theirs.jump):
            assert second.acquire("sequencer") is None
            jumps(jump_s)
        assert second.acquire("sequencer") is None
        assert first.acquire("sequencer") == held
        clock.advance(10)
        clock.jump(-jump_s)
        assert second.acquire("sequencer") is not None

    def test_a_clock_that_is_frozen_takes_nothing_over(self, open_store: Open, clock: JumpingClock) -> None:
        first, second = open_store(JumpingClock()).leases, open_store(clock).leases
        _held(first)
        assert [second.acquire("sequencer") for _ in range(5)] == [None] * 5

    def test_whoever_lost_the_lease_writes_nothing_under_it(self, open_store: Open, clock: JumpingClock) -> None:
        first, second = open_store(JumpingClock()), open_store(clock)
        lost = _held(first.leases)
        act = Act(kind="app.declared", actor="t", changes=(Change(new=app()),), fence=lost)
        taken = _take_over(second.leases, clock)
        with pytest.raises(FencedError, match="sequencer"):
            first.act(act)
        assert first.entries() == []
        declare(second, app("other"))
        with pytest.raises(FencedError):
            first.integrate({(0, 0): b"a" * 32}, checkpoint(1), fence=lost)
        assert first.checkpoint() is None
        second.integrate({(0, 0): b"a" * 32}, checkpoint(1), fence=taken)
        assert first.checkpoint() == checkpoint(1)

    def test_whoever_holds_the_lease_writes_under_it(self, open_store: Open) -> None:
        """The control of the test above."""
        store = open_store(JumpingClock())
        fence = _held(store.leases)
        assert store.act(Act(kind="app.declared", actor="t", changes=(Change(new=app()),), fence=fence)).seq == 0

    def test_a_lease_that_was_given_back_fences_too(self, open_store: Open) -> None:
        store = open_store(JumpingClock())
        fence = _held(store.leases)
        store.leases.release(fence)
        with pytest.raises(FencedError):
            store.act(Act(kind="hall.created", actor="t", fence=fence))
        never = Lease(name="never", holder=fence.holder, token=1)
        with pytest.raises(FencedError):
            store.act(Act(kind="hall.created", actor="t", fence=never))


def _held(leases: Coordinator) -> Lease:
    lease = leases.acquire("sequencer", ttl_s=10)
    assert lease is not None
    return lease


def _take_over(leases: Coordinator, clock: JumpingClock) -> Lease:
    assert leases.acquire("sequencer") is None
    clock.advance(10)
    return _held(leases)
