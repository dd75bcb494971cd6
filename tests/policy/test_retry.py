"""The retry budget: what it forbids, what it pays for, and the law that retries never amplify a load by more than it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.policy import retry
from datahall.policy.retry import Budget, RetryView, Trouble, decide

S = 1_000_000_000
GOOD = RetryView(num_calls=4, num_attempts=1, deadline_ns=20 * S, needs_ns=1e6, num_others=1, num_new=0, reserve=100.0)
FULL = Budget(100.0, 0)


def ask(budget=FULL, why="lost", now=0, **changes):
    return decide(budget, msgspec.structs.replace(GOOD, **changes), Trouble(why), now, 0.0)


@pytest.mark.parametrize("why", ["lost", "failed", "late"])
def test_what_is_granted_is_paid_call_by_call(why):
    assert ask(why=why) == (Budget(96.0, 0), "again", why)


@pytest.mark.parametrize(
    ("why", "changes", "reason"),
    [
        ("lost", {"idempotent": False}, "asking twice could have two effects"),
        ("lost", {"num_attempts": 3}, "tried often enough"),
        ("late", {"num_attempts": 4}, "tried often enough"),
        ("lost", {"deadline_ns": 1_000_000}, "no answer would come in time"),
        ("lost", {"deadline_ns": 0}, "no answer would come in time"),
        ("lost", {"num_others": 0}, "no other replica could answer"),
        ("late", {"num_others": 0}, "no other replica could answer"),
        ("lost", {"num_calls": 101}, "the budget is spent"),
    ],
)
def test_what_is_refused_costs_nothing_and_says_why(why, changes, reason):
    assert ask(why=why, **changes) == (FULL, "stop", reason)


def test_the_bounds_themselves_are_allowed():
    assert ask(num_attempts=2)[1] == "again"
    assert ask(deadline_ns=1_000_001)[1] == "again"
    assert ask(num_calls=100) == (Budget(0.0, 0), "again", "lost")


def test_calls_and_time_pay_in_up_to_the_reserve():
    empty = Budget(0.0, 5 * S)
    assert ask(empty, now=5 * S, num_new=39)[0].tokens == pytest.approx(3.9)
    assert ask(empty, now=5 * S, num_new=39)[1] == "stop"
    assert ask(empty, now=5 * S, num_new=41)[1] == "again"
    assert ask(empty, now=5 * S + S // 2)[0].tokens == pytest.approx(5.0 - 4)
    assert ask(empty, now=6 * S, num_new=10**6) == (Budget(96.0, 6 * S), "again", "lost")


def test_a_draw_is_uniform():
    with pytest.raises(AssertionError):
        decide(FULL, GOOD, Trouble("lost"), 0, 1.0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["lost", "failed", "late"]),
            st.integers(1, 60),
            st.integers(0, 200),
            st.integers(0, 3 * S),
            st.integers(0, 4),
        ),
        max_size=50,
    )
)
def test_over_any_time_no_more_is_sent_again_than_reserve_share_and_rate(events):
    budget, now, num_new_total, again = FULL, 0, 0, 0
    for why, num_calls, num_new, passed, attempts in events:
        now += passed
        num_new_total += num_new
        budget, decision, _ = ask(
            budget, why, now, num_calls=num_calls, num_new=num_new, num_attempts=attempts, deadline_ns=now + S
        )
        again += num_calls * (decision == "again")
        assert 0.0 <= budget.tokens <= GOOD.reserve
        assert budget.at_ns == now
        assert decision == "stop" or attempts < retry.MAX_ATTEMPTS
    assert again <= GOOD.reserve + 0.1 * num_new_total + 10.0 * now / S + 1e-6
