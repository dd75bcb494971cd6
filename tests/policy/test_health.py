"""A replica's health: each way out, each way back, and that somebody is always left."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.policy import health
from datahall.policy.health import Answered, Due, Failed, Health, HealthView, Lost, Waiting, decide, hang_ns, is_due

MS = 1_000_000
S = 1000 * MS
THREE = HealthView(num_replicas=3, num_ejected=0, usual_ns=20.0 * MS, sibling_answered=True)
SLOW, GOOD = Answered(200 * MS), Answered(21 * MS)


def run(events, view=THREE, state=None, now=100 * S, draw=0.0):
    """Feed events one a millisecond; return the last state and all decisions."""
    state, decisions = state or Health(), []
    for index, event in enumerate(events):
        state, decision, reason = decide(state, view, event, now + index * MS, draw)
        assert bool(reason) == (decision != "stay")
        decisions.append(decision)
    return state, decisions


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([SLOW] * 3, "slower than its siblings, 3 batches in a row"),
        ([Failed()] * 5, "5 failed batches in a row"),
        ([Waiting(300 * MS)], "no answer, while its siblings answer"),
        ([Lost()], "its connection was lost"),
    ],
)
def test_each_fault_ejects_after_its_number_of_times_and_not_before(events, reason):
    state, decisions = run(events)
    assert decisions == ["stay"] * (len(events) - 1) + ["eject"]
    assert state.phase == "open"
    before, _ = run(events[:-1])
    assert decide(before, THREE, events[-1], 0, 0.0)[2] == reason


@pytest.mark.parametrize("num_ejections", [1_000, 5_000, 10**9])
def test_one_that_is_ill_for_hours_waits_as_long_as_the_longest(num_ejections):
    state = Health("half_open", num_ejections=num_ejections)
    after, decisions = run([Failed()] * 5, state=state)
    assert decisions[0] == "eject"
    assert after.until_ns - 100 * S <= 2 * health.LAST_OPEN_NS


def test_one_good_batch_ends_both_rows():
    assert run([SLOW, SLOW, GOOD, SLOW, SLOW])[0].phase == "closed"
    assert run([Failed()] * 4 + [GOOD] + [Failed()] * 4)[0].phase == "closed"
    assert run([Failed()] * 4 + [SLOW, Failed()])[0].phase == "closed", "slow is no failure"
    clean = Health()
    assert decide(clean, THREE, GOOD, 0, 0.0)[0] is clean


@pytest.mark.parametrize(
    ("took_ms", "usual_ms", "slow"),
    [(80, 20, True), (79.9, 20, False), (2.6, 0.6, True), (2.5, 0.6, False), (10**6, 0, False), (4, 0.1, True)],
)
def test_slow_is_by_ratio_and_by_excess(took_ms, usual_ms, slow):
    assert health.is_slow(took_ms * MS, usual_ms * MS) is slow


@pytest.mark.parametrize(
    ("usual_ms", "hang_ms"), [(0, 2000), (1, 300), (30, 300), (100, 1000), (300, 2000), (1000, 4000)]
)
def test_a_hang_is_derived_from_what_is_usual(usual_ms, hang_ms):
    assert hang_ns(usual_ms * MS) == hang_ms * MS


def test_waiting_is_no_hang_before_its_time_or_while_nobody_answers():
    assert run([Waiting(299 * MS)])[1] == ["stay"]
    silent = msgspec.structs.replace(THREE, sibling_answered=False)
    assert run([Waiting(10 * S)], silent)[1] == ["stay"], "perhaps the batches are hard, not the replica ill"


@pytest.mark.parametrize(
    ("num", "num_ejected", "may"), [(1, 0, 0), (2, 0, 1), (2, 1, 0), (3, 1, 0), (4, 1, 1), (4, 2, 0), (9, 3, 1)]
)
@pytest.mark.parametrize("events", [[SLOW] * 3, [Failed()] * 5, [Waiting(10 * S)]])
def test_never_the_last_nor_more_than_half(num, num_ejected, may, events):
    view = msgspec.structs.replace(THREE, num_replicas=num, num_ejected=num_ejected)
    assert run(events, view)[1][-1] == ("eject" if may else "stay")


def test_on_probation_its_place_among_the_ejected_is_its_own():
    view = msgspec.structs.replace(THREE, num_ejected=1)
    assert run([SLOW], view, state=Health("half_open"))[1] == ["eject"]
    assert run([SLOW], msgspec.structs.replace(view, num_ejected=2), state=Health("half_open"))[1] == ["stay"]


def test_a_lost_one_is_out_even_alone_and_may_come_back_at_once():
    state, _ = run([Lost()], HealthView(1, 0))
    assert state == Health("open", num_ejections=1, until_ns=100 * S)
    assert run([Due()], state=state)[1] == ["try"]
    again, _ = run([Lost()], state=msgspec.structs.replace(state, phase="half_open"))
    assert again.until_ns == 101 * S, "but one that is lost again and again has to wait"


def test_the_way_back_is_three_good_batches():
    state, _ = run([SLOW] * 3)
    assert state.until_ns == 101 * S + 2 * MS
    assert run([Due()], state=state, now=state.until_ns - 1)[1] == ["stay"]
    state, decisions = run([Due()], state=state, now=state.until_ns)
    assert (state.phase, decisions) == ("half_open", ["try"])
    assert run([Due()], state=state)[1] == ["stay"]
    state, decisions = run([GOOD] * 3, state=state, now=200 * S)
    assert decisions == ["stay", "stay", "return"]
    assert state == Health("closed", num_ejections=1, since_ns=200 * S + 2 * MS)


@pytest.mark.parametrize("event", [SLOW, Failed(), Waiting(S), Lost()])
def test_one_bad_batch_on_probation_is_out_for_twice_as_long(event):
    state = Health("half_open", num_ejections=2, num_good=2)
    state, decisions = run([event], state=state)
    assert (state.phase, decisions) == ("open", ["eject"])
    assert state.until_ns == 100 * S + (2 if isinstance(event, Lost) else 4) * S


def test_a_doubtful_batch_on_probation_starts_the_count_anew_where_ejection_is_not_allowed():
    alone = msgspec.structs.replace(THREE, num_replicas=1)
    for event in (SLOW, Failed()):
        state, _ = run([GOOD, GOOD, event], alone, state=Health("half_open"))
        assert (state.phase, state.num_good) == ("half_open", 0)
    state, _ = run([SLOW, GOOD], alone, state=Health("half_open"))
    assert (state.num_slow, state.num_good) == (0, 1)


def test_what_an_ejected_one_still_answers_changes_nothing():
    state, _ = run([Lost()])
    for event in (GOOD, SLOW, Failed(), Waiting(10 * S)):
        assert decide(state, THREE, event, 0, 0.0) == (state, "stay", "")


@pytest.mark.parametrize(
    ("num_before", "healthy_s", "open_s"),
    [(0, 0, 1), (1, 0, 2), (2, 4, 4), (2, 5, 2), (2, 9, 2), (2, 10, 1), (3, 300, 1), (3, 0, 5), (9, 0, 5)],
)
def test_time_out_doubles_up_to_a_bound_and_health_makes_up_for_it(num_before, healthy_s, open_s):
    state = Health(num_ejections=num_before, since_ns=100 * S, num_slow=2)
    now = (100 + healthy_s) * S
    state, _, _ = decide(state, THREE, SLOW, now, 0.0)
    assert state.until_ns == now + open_s * S
    spread, _, _ = decide(Health(num_ejections=num_before, since_ns=100 * S, num_slow=2), THREE, SLOW, now, 0.5)
    assert spread.until_ns == now + int(open_s * S * 1.1)


def test_time_on_probation_makes_up_for_nothing():
    state, _ = run([SLOW], state=Health("half_open", num_ejections=1, since_ns=0))
    assert state.num_ejections == 2


def test_a_new_replica_is_well_and_nothing_is_known_of_its_siblings():
    assert Health() == Health("closed", 0, 0, 0, 0, 0, 0)
    assert HealthView(3, 1) == HealthView(3, 1, 0.0, sibling_answered=False)


@pytest.mark.parametrize(("took_ms", "usual_ms", "num_slow"), [(79, 20, 2), (40, 20, 2), (39.9, 20, 0), (79, 0, 0)])
def test_a_batch_between_good_and_slow_settles_nothing(took_ms, usual_ms, num_slow):
    view = msgspec.structs.replace(THREE, usual_ns=usual_ms * MS)
    state, _ = run([Answered(int(took_ms * MS))], view, state=Health(num_slow=2))
    assert state == Health(num_slow=num_slow, suspect=num_slow > 0)


def test_a_slow_answer_is_an_answer():
    assert run([Failed(), Failed(), SLOW])[0] == Health(num_slow=1, suspect=True)


@pytest.mark.parametrize(
    ("took_ms", "usual_ms", "good"),
    [(39.9, 20, True), (40, 20, False), (2.4, 0.5, True), (2.5, 0.5, False), (10**6, 0, True)],
)
def test_good_is_by_ratio_and_by_excess(took_ms, usual_ms, good):
    assert health.is_good(took_ms * MS, usual_ms * MS) is good


def test_one_that_is_not_yet_slow_is_suspect_until_a_good_batch():
    state, decisions = run([Answered(60 * MS)] * 9)
    assert (state, set(decisions)) == (Health(suspect=True), {"stay"})
    assert is_due(state, 150 * MS)
    assert run([GOOD], state=state)[0] == Health()
    assert run([GOOD], state=Health("half_open", suspect=True))[0] == Health("half_open", num_good=1)


@pytest.mark.parametrize(("num_passed", "num_replicas", "forgotten"), [(47, 3, False), (48, 3, True), (16, 1, True)])
def test_who_is_forgotten(num_passed, num_replicas, forgotten):
    assert health.is_forgotten(num_passed, num_replicas) is forgotten


def test_who_is_due():
    assert is_due(Health("half_open"), 0)
    assert is_due(Health(suspect=True), 150 * MS)
    assert not is_due(Health(suspect=True), 149 * MS)
    assert not is_due(Health(), 10 * S)
    assert not is_due(Health("open", suspect=True), 10 * S)


def test_a_draw_is_uniform():
    with pytest.raises(AssertionError):
        decide(Health(), THREE, GOOD, 0, 1.0)


events = st.one_of(
    st.builds(Answered, st.integers(0, S)),
    st.just(Failed()),
    st.builds(Waiting, st.integers(0, 5 * S)),
    st.just(Due()),
)


@given(
    st.lists(st.tuples(st.integers(0, 4), events, st.integers(0, S), st.floats(0, 1, exclude_max=True)), max_size=120)
)
def test_whatever_happens_somebody_is_left_and_out_is_never_for_good(steps):
    fleet, now = [Health()] * 5, 0
    for index, event, passed, draw in steps:
        now += passed
        num_ejected = sum(one.phase != "closed" for place, one in enumerate(fleet) if place != index)
        view = HealthView(5, num_ejected, 20.0 * MS, sibling_answered=True)
        old = fleet[index]
        fleet[index], decision, _ = decide(old, view, event, now, draw)
        assert decide(old, view, event, now, draw)[:2] == (fleet[index], decision), "the same again"
        assert sum(one.phase == "open" for one in fleet) <= 2
        assert (decision == "eject") == (fleet[index].phase == "open" != old.phase)
        assert fleet[index].until_ns <= now + 6 * S
    for one in fleet:
        if one.phase == "open":
            one = decide(one, THREE, Due(), one.until_ns, 0.0)[0]  # noqa: PLW2901  the next step of the same one
            assert run([GOOD] * 3, state=one)[0].phase == "closed"


def test_who_is_trusted():
    assert health.is_trusted(Health(), 0)
    assert health.is_trusted(Health(num_slow=2), 0), "slow is better than busy"
    assert health.is_trusted(Health("half_open"), 0)
    assert not health.is_trusted(Health(num_failures=1), 149 * MS)
    assert health.is_trusted(Health(num_failures=1), 150 * MS)
    assert not health.is_trusted(Health("open"), 10 * S)
