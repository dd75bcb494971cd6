"""Several witnesses at once: any of them notices a rollback, none of them holds up the others."""

from __future__ import annotations

import pytest

from datahall.core.errors import IntegrityError, UnavailableError
from datahall.ledger.witnessing import Witnesses, check_head
from datahall.testing.clock import AutoClock
from datahall.testing.witness import ORIGIN, FakeLedger


class Memory:
    """A witness that remembers here, and can be away."""

    def __init__(self):
        self.note, self.away, self.num_calls = None, False, 0

    def newest(self, _origin):
        self.num_calls += 1
        if self.away:
            raise UnavailableError("the witness cannot be reached: it is away")
        return self.note

    def publish(self, origin, note):
        seen = self.newest(origin)
        check_head(origin, seen, note, FakeLedger(9).prove, where="here", forget="forget")
        self.note = note


@pytest.fixture
def two():
    return {"one": Memory(), "two": Memory()}


def test_a_head_goes_to_all_and_the_newest_of_all_counts(two):
    ledger, witnesses = FakeLedger(9), Witnesses(two, AutoClock())
    assert witnesses.newest(ORIGIN) is None
    witnesses.publish(ORIGIN, ledger.note(4))
    assert [one.note for one in two.values()] == [ledger.note(4)] * 2
    two["two"].note = ledger.note(7)
    assert witnesses.newest(ORIGIN) == ledger.note(7)


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_rollback_is_noticed_by_whichever_remembers_more(two, name):
    ledger, witnesses = FakeLedger(9), Witnesses(two, AutoClock())
    witnesses.publish(ORIGIN, ledger.note(3))
    two[name].note = ledger.note(8)
    with pytest.raises(IntegrityError, match="5 entries, but 8 were witnessed"):
        witnesses.publish(ORIGIN, ledger.note(5))
    two[name].note = ledger.note(3)  # the control
    witnesses.publish(ORIGIN, ledger.note(5))


@pytest.mark.parametrize("name", ["one", "two"])
def test_one_that_is_away_is_told_and_holds_up_nobody(two, name):
    ledger, clock = FakeLedger(9), AutoClock()
    witnesses = Witnesses(two, clock, retry_s=30)
    away, there = two[name], two["two" if name == "one" else "one"]
    away.away = True
    with pytest.raises(UnavailableError, match=f"{name}: the witness cannot be reached"):
        witnesses.publish(ORIGIN, ledger.note(3))
    assert witnesses.newest(ORIGIN) == there.note == ledger.note(3)
    num_calls = away.num_calls
    clock.advance(29)
    with pytest.raises(UnavailableError, match=name):
        witnesses.publish(ORIGIN, ledger.note(4))
    assert away.num_calls == num_calls, "it is not asked again so soon"
    away.away = False
    clock.advance(1)
    witnesses.publish(ORIGIN, ledger.note(5))
    assert away.note == there.note == ledger.note(5)


def test_with_none_in_reach_nothing_is_known(two):
    for one in two.values():
        one.away = True
    with pytest.raises(UnavailableError, match=r"one: .*; two: "):
        Witnesses(two, AutoClock()).newest(ORIGIN)
