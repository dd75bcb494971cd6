"""What a gateway does with connections that it can only refuse."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.policy.shed import (
    CLOSE,
    FEW_MISTAKES,
    GO_ON,
    MAX_REST_NS,
    WINDOW_NS,
    Refused,
    ShedState,
    ShedView,
    decide,
)

VIEW = ShedView(max_refusals_per_s=100, max_in_a_row=5)
EACH_NS = 10_000_000
"""What a refusal costs of the time at this rate: ten fit into a window."""


def run(times, in_a_row=1, view=VIEW, *, mistaken=False):
    state, decisions = ShedState(), []
    for now in times:
        state, rest_ns, reason = decide(state, view, Refused(in_a_row, mistaken), now, 0.0)
        assert reason
        decisions.append(rest_ns)
    return decisions


def test_affordable_refusals_cost_a_client_nothing():
    assert run([n * EACH_NS for n in range(100)]) == [GO_ON] * 100


def test_beyond_that_connections_rest_until_their_refusals_are_paid_for():
    assert run([0] * 12 + [EACH_NS]) == [GO_ON] * 10 + [11 * EACH_NS, 12 * EACH_NS, 12 * EACH_NS]
    assert run([0] * 11 + [WINDOW_NS])[-1] == GO_ON


def test_who_only_ever_asks_in_vain_is_closed_but_not_while_it_is_affordable():
    assert run([0] * 11, in_a_row=5)[-1] > 0
    assert run([0] * 11, in_a_row=6) == [GO_ON] * 10 + [CLOSE]


def test_a_few_mistakes_never_make_a_client_rest_but_are_paid_for_as_all_refusals_are():
    assert run([0] * 50, in_a_row=FEW_MISTAKES, mistaken=True) == [GO_ON] * 50
    assert run([0] * 50, in_a_row=FEW_MISTAKES + 1, mistaken=True, view=ShedView(100, 1000))[10:] == [
        num * EACH_NS for num in range(11, 51)
    ]
    assert run([0] * 11, in_a_row=FEW_MISTAKES + 1, mistaken=True)[-1] == CLOSE
    state = ShedState()
    for _ in range(10):
        state, _, _ = decide(state, VIEW, Refused(1, mistaken=True), 0, 0.0)
    assert decide(state, VIEW, Refused(1), 0, 0.0)[1] == 11 * EACH_NS


def test_no_rest_is_longer_than_a_second_and_nothing_is_owed_for_longer():
    assert run([0] * 1000)[-1] == MAX_REST_NS
    assert run([0] * 1000 + [MAX_REST_NS])[-1] == GO_ON


def test_a_clock_that_goes_back_does_not_let_anybody_rest_longer():
    assert run([100 * MAX_REST_NS] * 11 + [0])[-1] == MAX_REST_NS


@given(st.lists(st.integers(0, 5 * WINDOW_NS), max_size=200))
def test_what_goes_on_is_bounded_in_every_window(times):
    times = sorted(times)
    went_on = [now for now, rest in zip(times, run(times), strict=True) if rest == GO_ON]
    for now in went_on:
        assert sum(now <= other < now + WINDOW_NS for other in went_on) <= 20, "a window's worth and what it pays for"


@pytest.mark.parametrize(("num", "seconds"), [(20, 20), (90, 20)])
def test_clients_that_ask_again_at_once_cost_no_more_than_the_rate_however_many_they_are(num, seconds):
    state, num_refused = ShedState(), 0
    events = [(0, client) for client in range(num)]
    while events[0][0] < seconds * 1_000_000_000:
        now, client = heapq.heappop(events)
        state, rest_ns, _ = decide(state, ShedView(100, 10**9), Refused(1), now, 0.0)
        num_refused += 1
        heapq.heappush(events, (now + rest_ns + 1000, client))
    assert num_refused <= 100 * seconds + num + 10
