"""A gateway's part of a quota: parts sum to the quota, shrink at once and grow after the lease."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.core.records import MIN_RATE_PER_S, Quota
from datahall.policy import rate
from datahall.policy.rate import RateLimit
from datahall.policy.share import LEASE_NS, UNLIMITED, Holding, Part, decide, part_of

NUMS = st.integers(1, 9)
RATES = st.floats(0.01, 1e6)
NOW = 10**12


def parts(quota, num):
    return [part_of(quota, num, rank) for rank in range(num)]


@given(RATES, st.none() | st.integers(0, 50), st.integers(0, 50), NUMS)
def test_parts_sum_to_the_quota_and_no_rate_exceeds_it(hz, burst, concurrency, num):
    every = parts(Quota(rate_per_s=hz, burst=burst, concurrency=concurrency), num)
    assert sum(part.concurrency for part in every) == concurrency
    assert sum(part.rate.burst for part in every) == (max(1, math.ceil(hz)) if burst is None else burst)
    given_hz = sum(1e9 / part.rate.interval_ns for part in every if part.rate.burst)
    assert given_hz <= hz * (1 + 1e-12)
    if any(part.rate.burst for part in every):
        assert given_hz >= hz / (1 + num * hz / 1e9) * (1 - 1e-9), "rounded by a nanosecond a request"


@given(st.integers(0, 50), NUMS)
def test_parts_differ_by_one_at_most_and_the_lowest_ranks_have_more(concurrency, num):
    dealt = [part.concurrency for part in parts(Quota(concurrency=concurrency), num)]
    assert dealt == sorted(dealt, reverse=True)
    assert max(dealt) - min(dealt) <= 1


def test_parts_by_hand():
    quota = Quota(rate_per_s=10.0, burst=5, concurrency=2)
    assert parts(quota, 1) == [Part(RateLimit(100_000_000, 500_000_000), 2)]
    assert parts(quota, 2) == [
        Part(RateLimit(200_000_000, 600_000_000), 1),
        Part(RateLimit(200_000_000, 400_000_000), 1),
    ]
    assert [part.concurrency for part in parts(quota, 3)] == [1, 1, 0]


def test_a_burst_smaller_than_the_number_of_gateways_leaves_the_last_without_and_loses_no_rate():
    first, second, third = parts(Quota(rate_per_s=1.0, burst=2), 3)
    assert first == second == Part(RateLimit(2_000_000_000, 2_000_000_000), UNLIMITED)
    assert third == Part(RateLimit(1, 0), UNLIMITED)


@pytest.mark.parametrize(("hz", "burst"), [(0.4, 1), (1.0, 1), (1.5, 2), (20.0, 20)])
def test_a_burst_that_is_not_said_is_one_second_of_the_rate(hz, burst):
    assert part_of(Quota(rate_per_s=hz), 1, 0).rate.burst == burst


def test_no_quota_is_no_limit_and_a_quota_of_nothing_admits_nothing():
    assert part_of(Quota(), 4, 3) == Part(None, UNLIMITED)
    assert UNLIMITED == 2**62
    assert part_of(Quota(rate_per_s=0.0, burst=5, concurrency=0), 1, 0) == Part(RateLimit(1, 0), 0)
    assert part_of(Quota(rate_per_s=5.0, burst=-1, concurrency=-1), 1, 0) == Part(RateLimit(1, 0), 0)


def test_a_rank_that_no_gateway_has_any_more_has_no_part():
    quota = Quota(rate_per_s=10.0, concurrency=10)
    assert part_of(quota, 2, 1).concurrency == 5
    assert part_of(quota, 2, 2) == part_of(quota, 2, 3) == Part(RateLimit(1, 0), 0)


SMALL, LARGE = Part(RateLimit(200, 400), 2), Part(RateLimit(100, 300), 5)
CROSSED = Part(RateLimit(300, 1500), 1)


def ask(state, view, now):
    return decide(state, view, None, now, 0.0)


def test_a_part_is_in_force_from_the_start():
    state, part, reason = ask(None, SMALL, NOW)
    assert (part, reason) == (SMALL, "started")
    assert ask(state, SMALL, NOW) == (state, SMALL, "in force")


def test_a_part_shrinks_at_once():
    state = ask(None, LARGE, NOW)[0]
    assert ask(state, SMALL, NOW + 1)[1:] == (SMALL, "in force")


def test_a_part_grows_a_lease_after_the_table_was_seen():
    state = ask(None, SMALL, NOW)[0]
    state, part, reason = ask(state, LARGE, NOW)
    assert (part, reason) == (SMALL, "grows later")
    assert ask(state, LARGE, NOW + LEASE_NS - 1)[1:] == (SMALL, "grows later")
    state, part, reason = ask(state, LARGE, NOW + LEASE_NS)
    assert (state, part, reason) == (Holding(LARGE, LARGE, NOW + LEASE_NS), LARGE, "grown")
    assert ask(state, LARGE, NOW + LEASE_NS)[1:] == (LARGE, "in force")


def test_each_side_of_a_part_shrinks_by_itself():
    state = ask(None, LARGE, NOW)[0]
    assert ask(state, CROSSED, NOW)[1] == Part(RateLimit(300, 900), 1)
    state = ask(None, CROSSED, NOW)[0]
    assert ask(state, LARGE, NOW)[1] == Part(RateLimit(300, 900), 1)
    state = ask(None, Part(RateLimit(100, 200), 9), NOW)[0]
    assert ask(state, CROSSED, NOW)[1] == Part(RateLimit(300, 600), 1)


def test_a_limit_that_is_new_holds_at_once_and_one_that_ends_holds_for_a_lease():
    free = Part(None, UNLIMITED)
    state = ask(None, free, NOW)[0]
    assert ask(state, SMALL, NOW)[1] == SMALL
    state = ask(None, SMALL, NOW)[0]
    state, part, _ = ask(state, free, NOW)
    assert part == SMALL
    assert ask(state, free, NOW + LEASE_NS)[1] == free


def test_what_was_to_grow_does_not_where_a_newer_table_says_otherwise():
    state = ask(None, SMALL, NOW)[0]
    state = ask(state, LARGE, NOW)[0]
    state = ask(state, SMALL, NOW + LEASE_NS - 1)[0]
    assert ask(state, SMALL, NOW + LEASE_NS)[1] == SMALL
    state = ask(state, LARGE, NOW + LEASE_NS)[0]
    assert ask(state, LARGE, NOW + 2 * LEASE_NS - 1)[1] == SMALL


def test_a_table_that_changes_nothing_does_not_put_growth_off():
    state = ask(None, SMALL, NOW)[0]
    state = ask(state, LARGE, NOW)[0]
    state = ask(state, Part(RateLimit(100, 300), 5), NOW + LEASE_NS // 2)[0]
    assert ask(state, LARGE, NOW + LEASE_NS)[1] == LARGE


def test_the_lease_is_ten_times_what_a_gateway_takes_to_see_a_table():
    assert LEASE_NS == 2 * 10**9


@pytest.mark.parametrize("hz", [MIN_RATE_PER_S, 0.05, 1e9])
@pytest.mark.parametrize("burst", [None, 1, 10**9])
@pytest.mark.parametrize("num", [1, 64])
def test_the_extremes_that_may_be_written_are_numbers_that_can_be_written_down(hz, burst, num):
    """Or a file of one team would stop every gateway: beyond, no such number is one of nanoseconds, or of 64 bits."""
    part = parts(Quota(rate_per_s=hz, burst=burst), num)[0]
    answered = rate.decide(0, part.rate, 1, 10**18, 0.0)
    assert answered[1:] == (0, "admitted")
    assert msgspec.msgpack.encode((decide(None, part, None, 10**18, 0.0), answered))
    with pytest.raises(OverflowError):
        part_of(Quota(rate_per_s=1e-308), 1, 0)
    with pytest.raises(OverflowError):
        msgspec.msgpack.encode(10**9 * math.ceil(1e9 / MIN_RATE_PER_S))
