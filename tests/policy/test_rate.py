"""A rate: what is admitted in any stretch of time, and the exact time of a refused request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.policy.rate import NEVER, RateLimit, decide, refit

SECOND = 10**9
INTERVALS = st.integers(1, 10**9)
BURSTS = st.integers(1, 20)
GAPS = st.lists(st.integers(0, 3 * 10**9), min_size=1, max_size=60)


def ask(state, limit, now, cost=1):
    return decide(state, limit, cost, now, 0.0)


def run(limit, gaps, *, costs=None, decide=ask):
    """Return the times and costs of what is admitted; a negative gap is a clock that goes back."""
    state, now, admitted = 0, SECOND, []
    for place, gap in enumerate(gaps):
        now += gap
        cost = costs[place % len(costs)] if costs else 1
        state, wait, _ = decide(state, limit, now, cost)
        if wait == 0:
            admitted.append((now, cost))
    return admitted


def exceeds(limit, admitted):
    """Return whether some stretch of time from one admission to a later one holds more than the law allows."""
    for first, (start, _) in enumerate(admitted):
        total = 0
        for now, cost in admitted[first:]:
            total += cost
            if total * limit.interval_ns > limit.span_ns + (now - start):
                return True
    return False


@given(INTERVALS, BURSTS, GAPS, st.lists(st.integers(1, 5), min_size=1, max_size=7))
def test_no_stretch_of_time_holds_more_than_the_burst_and_what_the_rate_gives(interval, burst, gaps, costs):
    limit = RateLimit(interval, burst * interval)
    assert not exceeds(limit, run(limit, gaps, costs=costs))


def test_the_law_finds_a_rate_that_forgets():
    def forgetful(state, limit, now, cost):
        return ask(0, limit, now, cost)

    limit = RateLimit(SECOND, 2 * SECOND)
    assert exceeds(limit, run(limit, [0] * 5, decide=forgetful))


@given(INTERVALS, BURSTS, GAPS, st.integers(1, 5))
def test_a_refused_request_fits_exactly_when_it_was_told(interval, burst, gaps, cost):
    limit = RateLimit(interval, burst * interval)
    state, now = 0, 0
    for gap in gaps:
        now += gap
        state, wait, reason = ask(state, limit, now)
        assert reason == ("admitted" if wait == 0 else "wait")
    after, wait, reason = ask(state, limit, now, cost)
    if cost > burst:
        assert (after, wait, reason) == (state, NEVER, "never") or wait == 0
    elif wait:
        assert after == state
        assert ask(state, limit, now + wait, cost)[1] == 0
        assert ask(state, limit, now + wait - 1, cost)[1] == 1


def test_a_burst_comes_at_once_and_then_one_an_interval():
    limit = RateLimit(100, 300)
    assert limit.burst == 3
    state, now = 0, 1000
    for _ in range(3):
        state, wait, _ = ask(state, limit, now)
        assert wait == 0
    assert ask(state, limit, now) == (state, 100, "wait")
    assert ask(state, limit, now + 99) == (state, 1, "wait")
    assert ask(state, limit, now + 100) == (state + 100, 0, "admitted")


def test_what_costs_more_than_the_burst_never_fits():
    limit = RateLimit(100, 300)
    assert ask(0, limit, 1000, 4) == (0, NEVER, "never")
    assert ask(0, limit, 1000, 3) == (1300, 0, "admitted")


def test_never_is_no_time():
    assert NEVER == -1


def test_where_nothing_may_come_nothing_comes():
    assert ask(0, RateLimit(1, 0), 1000) == (0, NEVER, "never")


@given(INTERVALS, BURSTS, st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=60))
def test_a_clock_that_goes_back_admits_nothing_more(interval, burst, gaps):
    limit = RateLimit(interval, burst * interval)
    admitted = run(limit, gaps)
    latest = [max(now for now, _ in admitted[: place + 1]) for place in range(len(admitted))]
    assert not exceeds(limit, [(now, cost) for now, (_, cost) in zip(latest, admitted, strict=True)])


def spare(state, limit, now):
    num = 0
    while ask(state, limit, now)[1] == 0:
        state = ask(state, limit, now)[0]
        num += 1
    return num


@given(st.integers(1, 10**6), BURSTS, st.integers(1, 10**6), BURSTS, st.integers(0, 20), st.integers(10**6, 2 * 10**6))
def test_a_change_of_limits_keeps_what_was_to_spare_and_gives_no_second_burst(old, old_num, new, new_num, used, now):
    before, after = RateLimit(old, old * old_num), RateLimit(new, new * new_num)
    state = now - 1
    for _ in range(used):
        state = ask(state, before, now)[0]
    kept = spare(refit(state, before, after, now), after, now)
    assert kept == min(spare(state, before, now), new_num)


@pytest.mark.parametrize("now", [0, 5000])
def test_the_same_limit_changes_nothing_but_what_time_has_given_back(now):
    limit = RateLimit(100, 300)
    assert refit(now + 250, limit, limit, now) == now + 250
    assert refit(now - 250, limit, limit, now) == now
    assert refit(now, RateLimit(100, 300), RateLimit(100, 500), now) == now + 200
