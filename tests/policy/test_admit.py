"""The decision on one request: own quotas first, then the application's limit in steps, then the hall's by shares."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.policy.admit import ADMITTED, RETRY_SPREAD_S, Admission, AdmitView, Arrival, bound, decide
from datahall.policy.rate import NEVER

IDLE = AdmitView(
    team_wait_ns=0,
    app_wait_ns=0,
    team_in_flight=10,
    team_concurrency=100,
    app_in_flight=10,
    app_concurrency=100,
    app_limit=64,
    peers_in_flight=10,
    expected_ns=1_500_000_000,
    hall_in_flight=10,
    hall_limit=100,
    team_share=50,
)
NOW = 10**12
LATE = NOW + 10**11


def ask(priority="normal", *, deadline_ns=LATE, draw=0.0, **changes):
    _, decision, reason = decide(
        None, msgspec.structs.replace(IDLE, **changes), Arrival(priority, deadline_ns), NOW, draw
    )
    return decision.status, decision.retry_after_s, reason


def test_an_idle_hall_admits():
    assert ask() == (200, 0, "admitted")
    assert decide(None, IDLE, Arrival("normal", LATE), NOW, 0.0)[1] is ADMITTED


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"team_in_flight": 99}, (200, 0, "admitted")),
        ({"team_in_flight": 100}, (429, 2, "team_concurrency")),
        ({"app_in_flight": 63, "app_concurrency": 64}, (200, 0, "admitted")),
        ({"app_in_flight": 64, "app_concurrency": 64}, (429, 2, "app_concurrency")),
        ({"app_in_flight": 10, "app_concurrency": 10, "expected_ns": 0}, (429, 1, "app_concurrency")),
        ({"team_wait_ns": 2_000_000_001}, (429, 3, "team_rate")),
        ({"team_wait_ns": 2_000_000_000}, (429, 2, "team_rate")),
        ({"app_wait_ns": 1}, (429, 1, "app_rate")),
        ({"app_wait_ns": NEVER}, (429, 1, "app_rate")),
        ({"team_wait_ns": NEVER, "app_wait_ns": 9 * 10**9}, (429, 1, "team_rate")),
    ],
)
def test_own_quotas_are_told_with_429_and_the_time_they_need(changes, expected):
    assert ask(**changes) == expected


def test_own_quotas_come_before_what_others_take():
    full = {"app_in_flight": 99, "hall_in_flight": 1000}
    assert ask(**full)[0] == 503
    assert ask(team_wait_ns=1, **full)[0] == 429


@pytest.mark.parametrize(("priority", "first_refused"), [("low", 48), ("normal", 64), ("high", 88)])
def test_priorities_are_refused_in_steps_of_the_limit(priority, first_refused):
    assert bound(64, priority) == first_refused
    assert ask(priority, app_in_flight=first_refused - 1)[2] == "admitted"
    assert ask(priority, app_in_flight=first_refused)[2] == "app_overloaded"
    over = {"team_in_flight": 60, "hall_limit": 64, "app_limit": 99}
    assert ask(priority, hall_in_flight=first_refused - 1, **over)[2] == "admitted"
    assert ask(priority, hall_in_flight=first_refused, **over)[2] == "hall_overloaded"


def test_no_priority_starves():
    full = {"app_in_flight": 99, "hall_in_flight": 1000, "team_in_flight": 99}
    assert ask("low", peers_in_flight=3, **full)[2] == "admitted"
    assert ask("low", peers_in_flight=4, **full)[2] == "app_overloaded"
    assert ask("low", peers_in_flight=2, hall_limit=33, **full)[2] == "admitted"
    assert ask("low", peers_in_flight=2, hall_limit=32, **full)[2] == "app_overloaded"
    assert ask("low", peers_in_flight=3, app_limit=49, **full)[2] == "admitted"
    assert ask("low", peers_in_flight=3, app_limit=48, **full)[2] == "app_overloaded"
    assert ask("low", peers_in_flight=0, app_limit=1, **full)[2] == "admitted"


def test_a_team_below_its_share_is_never_refused_for_what_others_take():
    assert ask(hall_in_flight=10_000, team_in_flight=49)[2] == "admitted"
    assert ask(hall_in_flight=10_000, team_in_flight=50)[2] == "hall_overloaded"
    assert ask(hall_in_flight=99, team_in_flight=99)[2] == "admitted"


def test_what_cannot_be_answered_in_time_is_refused_unless_it_would_be_alone():
    soon = NOW + IDLE.expected_ns
    assert ask(deadline_ns=soon)[2] == "admitted"
    assert ask(deadline_ns=soon - 1)[2] == "deadline"
    assert ask(deadline_ns=soon - 1, app_in_flight=1)[0] == 503
    assert ask(deadline_ns=soon - 1, app_in_flight=0)[2] == "admitted"


def test_who_is_refused_for_others_is_spread_over_some_seconds():
    told = [ask(app_in_flight=99, draw=place / 100)[1] for place in range(100)]
    assert {second: told.count(second) for second in told} == dict.fromkeys(range(1, RETRY_SPREAD_S + 1), 25)


VIEWS = st.builds(
    AdmitView,
    team_wait_ns=st.integers(0, 3),
    app_wait_ns=st.integers(0, 3),
    team_in_flight=st.integers(0, 200),
    team_concurrency=st.integers(0, 200),
    app_in_flight=st.integers(0, 200),
    app_concurrency=st.integers(0, 200),
    app_limit=st.integers(1, 150),
    peers_in_flight=st.integers(0, 200),
    expected_ns=st.integers(0, 10**9),
    hall_in_flight=st.integers(0, 200),
    hall_limit=st.integers(1, 150),
    team_share=st.integers(1, 150),
)


@given(VIEWS, st.floats(0, 1, exclude_max=True))
def test_whoever_is_admitted_would_be_with_a_higher_priority_too(view, draw):
    words = [decide(None, view, Arrival(each, LATE), NOW, draw)[1].status for each in ("low", "normal", "high")]
    assert words == sorted(words, reverse=True) or 429 in words
    assert len(set(words)) == 1 or 429 not in words


@given(VIEWS, st.floats(0, 1, exclude_max=True))
def test_every_refusal_says_when_to_come_again(view, draw):
    _, decision, reason = decide(None, view, Arrival("normal", LATE), NOW, draw)
    assert (decision.status == 200) == (reason == "admitted") == (decision == Admission(200, 0))
    assert decision.status == 200 or 1 <= decision.retry_after_s <= RETRY_SPREAD_S


@given(VIEWS)
def test_less_in_flight_never_turns_an_admission_into_a_refusal(view):
    less = msgspec.structs.replace(
        view,
        team_in_flight=view.team_in_flight // 2,
        app_in_flight=view.app_in_flight // 2,
        hall_in_flight=view.hall_in_flight // 2,
        peers_in_flight=view.peers_in_flight // 2,
    )
    before, after = (decide(None, each, Arrival("low", LATE), NOW, 0.0)[1].status for each in (view, less))
    assert after == 200 or before != 200
