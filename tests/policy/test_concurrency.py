"""The adaptive limit: it finds what a system can take, is not fooled by noise, and comes back."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.policy.concurrency import (
    PROBE_EVERY_NS,
    PROBE_MAX_NS,
    LimitState,
    LimitView,
    Window,
    allowed_ns,
    crowd_ns,
    decide,
)

MS = 10**6
SECOND = 10**9
WINDOW = 100 * MS
VIEW = LimitView(crowd_ns=0.0)
"""Without patience for crowds, which the tests at the end are about."""
BASED = LimitState(100.0, 10.0 * MS, SECOND)


def ask(state, mean_ms, peak, now=SECOND, *, view=VIEW, draw=0.0):
    return decide(state, view, Window(mean_ms * MS, peak), now, draw)


def run(seconds, latency_ms, *, state=None, asked=10**6, view=VIEW, seed=1):
    """Play windows one after another where `latency_ms(in flight)` is what answers take; yield each state and limit."""
    state = state or LimitState(64.0)
    draw = random.Random(seed).random  # noqa: S311  a simulation is repeatable, not secret
    limit = int(state.limit)
    for now in range(0, int(seconds * SECOND), WINDOW):
        in_flight = min(limit, asked)
        window = Window(latency_ms(in_flight) * MS, in_flight)
        state, limit, reason = decide(state, view, window, now + 10 * SECOND, draw())
        yield state, limit, reason


def queue(at_once, service_ms):
    """The latency of a system that works on `at_once` requests at a time (Little's law)."""
    return lambda in_flight: service_ms * max(1.0, in_flight / at_once)


def rest(limits, num=300):
    """Return the median of the last limits."""
    tail = sorted(limit for _, limit, _ in limits[-num:])
    return tail[len(tail) // 2]


@pytest.mark.parametrize("at_once", [8, 20, 100, 300])
def test_it_comes_to_rest_near_three_times_what_the_system_works_on_at_once(at_once):
    limits = list(run(120, queue(at_once, 20)))
    assert 2.5 * at_once < rest(limits) < 5 * at_once


def test_a_queue_that_stands_for_minutes_is_never_taken_for_the_base():
    limits = list(run(900, queue(50, 20)))
    assert rest(limits[:3000]) == pytest.approx(rest(limits), rel=0.1)
    assert all(state.base_ns < 30 * MS for state, _, _ in limits)


def test_without_probes_a_slower_model_would_be_held_down_for_ever():
    """The control of the test below: what probes are for."""
    slower = list(run(8, queue(50, 60), state=LimitState(150.0, 20.0 * MS, 10 * SECOND)))
    assert rest(slower, 20) < 70


def test_a_model_that_becomes_slower_has_its_room_again_in_seconds():
    slower = list(run(30, queue(50, 60), state=LimitState(150.0, 20.0 * MS, 10 * SECOND)))
    assert rest(slower, 50) > 100


def test_batches_may_grow():
    def batched(in_flight):
        return 2 * (1.0 + 0.01 * in_flight)

    assert rest(list(run(200, batched, view=LimitView(unfelt_ns=0.0, crowd_ns=0.0)))) > 400, (
        "where the fixed part of a batch is a fifth of it at most"
    )


def test_it_recovers_from_the_floor_within_seconds():
    limits = list(run(10, queue(300, 20), state=LimitState(16.0, 20.0 * MS, 10 * SECOND)))
    assert max(limit for _, limit, _ in limits[:70]) > 800


def test_noise_does_not_bring_it_down():
    noise = random.Random(3)  # noqa: S311  a simulation is repeatable, not secret

    def noisy(in_flight):
        return queue(50, 20)(in_flight) * noise.lognormvariate(0, 0.5) * (20 if noise.random() < 0.02 else 1)

    limits = [limit for _, limit, reason in run(300, noisy) if "prob" not in reason]
    assert sorted(limits)[len(limits) // 20] >= 50


def test_one_bad_window_takes_a_quarter_at_most():
    state, limit, reason = ask(BASED, 10_000.0, 100)
    assert (limit, reason) == (80, "answers take longer")
    assert state.limit == pytest.approx((100 + 50 + 10) / 2)


def test_what_nobody_feels_is_not_too_late():
    fast = LimitState(100.0, 0.1 * MS, SECOND)
    assert ask(fast, 10.0, 100)[1:] == (110, "grown")
    assert ask(fast, 20.0, 100)[1:] == (80, "answers take longer")
    assert ask(fast, 10.0, 100, view=LimitView(unfelt_ns=0.0, crowd_ns=0.0))[1:] == (80, "answers take longer")


def test_it_grows_while_half_of_it_is_in_use_and_comes_back_in_calm():
    view = LimitView(calm=50, crowd_ns=0.0)
    assert ask(BASED, 10.0, 49, view=view)[1:] == (100, "enough")
    assert ask(BASED, 15.1, 50, view=view)[1:] == (110, "grown")
    assert ask(BASED, 15.0, 50, view=view)[1:] == (135, "grown"), "answers take half of what they may"
    assert ask(BASED, 30.0, 49)[1:] == (110, "calm")
    assert ask(LimitState(250.0, 10.0 * MS, SECOND), 30.0, 1)[1:] == (256, "calm")
    assert ask(LimitState(256.0, 10.0 * MS, SECOND), 30.0, 1)[1:] == (256, "enough")


def test_a_limit_far_above_what_is_in_flight_comes_down_to_it_first():
    assert ask(BASED, 40.0, 25)[0].limit == pytest.approx(75.0)
    assert ask(BASED, 40.0, 45)[0].limit == pytest.approx((100 + 90 * 0.75 + math.sqrt(90)) / 2)


def test_the_step_by_hand():
    assert ask(BASED, 30.0, 100)[0].limit == pytest.approx(110)
    assert ask(BASED, 40.0, 100)[0].limit == pytest.approx((100 + 75 + 10) / 2)
    assert ask(BASED, 33.0, 100)[1] == 100
    assert ask(LimitState(1000.0, 10.0 * MS, SECOND), 10.0, 1000)[1] == 1281
    assert ask(LimitState(17.0, 10.0 * MS, SECOND), 900.0, 17)[1] == 16


def test_the_base_is_measured_while_little_is_in_flight():
    first = ask(LimitState(100.0), 8.0, 100, now=7)[0]
    assert (first.base_ns, first.based_at_ns) == (8.0 * MS, 7)
    calm = ask(BASED, 20.0, 4, now=9 * SECOND)[0]
    assert (calm.base_ns, calm.based_at_ns) == (12.0 * MS, 9 * SECOND)
    busy = ask(BASED, 20.0, 5, now=9 * SECOND)[0]
    assert (busy.base_ns, busy.based_at_ns) == (10.0 * MS, SECOND)
    faster = ask(BASED, 5.0, 100, now=9 * SECOND)[0]
    assert (faster.base_ns, faster.based_at_ns) == (9.0 * MS, SECOND)


def test_a_base_that_is_given_stays():
    view = LimitView(learns=False, crowd_ns=0.0)
    state, limit, _ = ask(BASED, 5.0, 100, view=view)
    assert (state.base_ns, limit) == (10.0 * MS, 135)
    late = SECOND + 2 * PROBE_EVERY_NS
    assert ask(BASED, 100.0, 100, late, view=view)[2] == "answers take longer"


def test_a_probe_comes_only_when_it_sheds_and_the_base_is_old():
    due = SECOND + PROBE_EVERY_NS
    assert ask(BASED, 40.0, 100, due - 1)[2] == "answers take longer"
    assert ask(BASED, 40.0, 100, due)[1:] == (25, "probing")
    assert ask(BASED, 30.0, 100, due)[2] == "grown"
    later = SECOND + PROBE_EVERY_NS * 9 // 8
    assert ask(BASED, 40.0, 100, later - 1, draw=0.5)[2] == "answers take longer"
    assert ask(BASED, 40.0, 100, later, draw=0.5)[2] == "probing"


def test_a_probe_ends_with_the_second_window_that_shows_it():
    start = SECOND + PROBE_EVERY_NS
    state = ask(BASED, 40.0, 100, start)[0]
    state, limit, reason = ask(state, 40.0, 26, start + WINDOW)
    assert (state.probing, limit, reason) == (1, 25, "probing")
    state, limit, reason = ask(state, 25.0, 25, start + 2 * WINDOW)
    assert (state.probing, limit, reason) == (2, 25, "probing")
    state, limit, reason = ask(state, 15.0, 25, start + 3 * WINDOW)
    assert (limit, reason) == (100, "probed")
    assert state == LimitState(100.0, 15.0 * MS, start + 3 * WINDOW, 0, start)


def test_a_probe_that_shows_nothing_is_given_up():
    start = SECOND + PROBE_EVERY_NS
    state = ask(BASED, 40.0, 100, start)[0]
    assert ask(state, 40.0, 99, start + PROBE_MAX_NS - 1)[2] == "probing"
    state, limit, reason = ask(state, 40.0, 99, start + PROBE_MAX_NS)
    assert (limit, reason) == (100, "probe given up")
    assert state == LimitState(100.0, 10.0 * MS, start + PROBE_MAX_NS, 0, start)


def test_nothing_is_known_at_first():
    assert LimitState(5.0) == LimitState(5.0, 0.0, 0, 0, 0)
    assert (PROBE_EVERY_NS, PROBE_MAX_NS) == (10 * SECOND, 2 * SECOND)


def test_a_probe_lets_one_through_whatever_the_limit():
    tiny = LimitState(2.0, 10.0 * MS, SECOND)
    view = LimitView(floor=1)
    assert ask(tiny, 400.0, 2, SECOND + PROBE_EVERY_NS, view=view)[1:] == (1, "probing")


WINDOWS = st.lists(st.tuples(st.floats(0.001, 1e5), st.integers(0, 2000)), min_size=1, max_size=80)


@given(WINDOWS, st.integers(1, 50), st.integers(50, 500), st.floats(0, 1, exclude_max=True))
def test_it_stays_within_its_bounds_whatever_is_measured(windows, floor, ceiling, draw):
    view = LimitView(floor, ceiling)
    state = LimitState(float(ceiling))
    for number, (mean_ms, peak) in enumerate(windows):
        before = state.limit
        state, limit, reason = ask(state, mean_ms, peak, number * SECOND, view=view, draw=draw)
        assert floor <= state.limit <= ceiling
        assert state.limit >= 0.75 * before or state.limit == floor
        assert limit == (max(1, int(state.limit) // 4) if reason == "probing" else int(state.limit))


@given(st.integers(-4, 10).map(lambda power: 2.0**power), st.integers(8, 200))
def test_the_unit_of_time_does_not_matter(service_ms, at_once):
    view = LimitView(unfelt_ns=0.0, crowd_ns=0.0)
    one = [limit for _, limit, _ in itertools.islice(run(9, queue(at_once, 1.0), view=view), 90)]
    other = [limit for _, limit, _ in itertools.islice(run(9, queue(at_once, service_ms), view=view), 90)]
    assert one == other


CROWDS = LimitView()
CHEAP = LimitState(100.0, 0.1 * MS, SECOND)


@pytest.mark.parametrize(("pace_us", "waits_ms"), [(1, 200), (100, 200), (200, 25), (1000, 0.2)])
def test_the_dearer_an_answer_the_less_a_crowd_may_wait(pace_us, waits_ms):
    assert crowd_ns(200.0 * MS, 0.1 * MS, pace_us * 1000) == pytest.approx(waits_ms * MS)


@pytest.mark.parametrize(
    ("mean_ms", "peak", "allowed_ms"), [(9.0, 90, 200), (27.0, 90, 25), (90.0, 90, 10), (5, 0, 10)]
)
def test_how_long_answers_may_take_by_how_closely_they_follow_one_another(mean_ms, peak, allowed_ms):
    assert allowed_ns(CHEAP, CROWDS, Window(mean_ms * MS, peak)) == pytest.approx(allowed_ms * MS)
    assert allowed_ns(BASED, VIEW, Window(mean_ms * MS, peak)) == 30.0 * MS


def test_a_crowd_of_cheap_requests_has_all_its_room_after_one_window():
    assert ask(CHEAP, 10.0, 100, view=CROWDS)[1:] == (2000, "grown")
    assert ask(CHEAP, 10.0, 100)[1:] == (110, "grown"), "where crowds may not wait"
    assert ask(CHEAP, 0.1, 100, view=CROWDS)[1] == CROWDS.ceiling
    assert ask(CHEAP, 10.0, 49, view=CROWDS)[1:] == (110, "calm"), "nobody asks for more"
    coming = Window(10.0 * MS, 100, 0.2 * MS)
    assert decide(CHEAP, CROWDS, coming, SECOND, 0.0)[1] == 421, "answers are not as cheap as it seems while they come"
    assert ask(CHEAP, 101.0, 1010, view=CROWDS)[1] == 110, "it takes more than half of what it may"


def test_no_probe_disturbs_those_whom_the_limit_does_not_refuse():
    due = SECOND + PROBE_EVERY_NS
    assert ask(BASED, 40.0, 74, due)[2] == "answers take longer"
    assert ask(BASED, 40.0, 75, due)[2] == "probing"
    six = run(60, lambda _: 90.0, state=LimitState(16.0, 20.0 * MS), asked=6)
    assert {limit for _, limit, _ in six} == {16}
