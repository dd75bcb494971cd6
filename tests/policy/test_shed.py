"""What a gateway does with connections that it can only refuse."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from datahall.policy.shed import WINDOW_NS, Refused, ShedState, ShedView, decide

VIEW = ShedView(max_refusals_per_s=100, max_in_a_row=5)  # ten in each window


def run(times, in_a_row=1, view=VIEW):
    state, decisions = ShedState(), []
    for now in times:
        state, what, reason = decide(state, view, Refused(in_a_row), now, 0.0)
        assert reason
        decisions.append(what)
    return decisions


def test_affordable_refusals_cost_a_client_nothing():
    assert run([n * WINDOW_NS // 10 for n in range(100)]) == ["go on"] * 100


def test_beyond_that_a_connection_rests_until_the_next_window():
    assert run([0] * 12 + [WINDOW_NS]) == ["go on"] * 10 + ["rest"] * 2 + ["go on"]


def test_who_only_ever_asks_in_vain_is_closed_but_not_while_it_is_affordable():
    assert run([0] * 11, in_a_row=5)[-1] == "rest"
    assert run([0] * 11, in_a_row=6) == ["go on"] * 10 + ["close"]


@given(st.lists(st.integers(0, 5 * WINDOW_NS), max_size=200))
def test_what_goes_on_is_bounded_in_every_window(times):
    times = sorted(times)
    went_on = [now for now, what in zip(times, run(times), strict=True) if what == "go on"]
    for now in went_on:
        assert sum(now <= other < now + WINDOW_NS for other in went_on) <= 20  # two windows touch any stretch as long


def test_a_clock_that_goes_back_starts_a_new_window():
    assert run([10 * WINDOW_NS] * 11 + [0])[-2:] == ["rest", "go on"]
