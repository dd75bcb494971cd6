"""Whose turn it is: the better of two, a doubtful one first, ties by id, and no one starved of a chance."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.policy.route import Batch, Candidate, RouteView, decide

draws = st.floats(0, 1, exclude_max=True)
candidates = st.lists(
    st.builds(Candidate, st.sampled_from("abcdefgh"), st.floats(0, 1e9), st.booleans()),
    min_size=1,
    max_size=8,
    unique_by=lambda one: one.id,
).map(tuple)


def choose(*waits_ns, draw=0.0, due="", home=""):
    waits = zip("abcdefgh", waits_ns, strict=False)
    some = tuple(Candidate(name, wait, name in due, name == home) for name, wait in waits)
    return decide(None, RouteView(some), Batch(1), 0, draw)


@pytest.mark.parametrize(
    ("draw", "pair"), [(0.0, "ab"), (0.2, "ac"), (0.4, "bc"), (0.6, "ba"), (0.7, "ca"), (0.99, "cb")]
)
def test_the_draw_names_two_and_the_shorter_wait_wins(draw, pair):
    waits = {"a": 30.0, "b": 20.0, "c": 10.0}
    _, chosen, reason = choose(*waits.values(), draw=draw)
    assert chosen == min(pair, key=waits.get)
    assert reason == "the shorter predicted wait of two"


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.99])
def test_equal_waits_go_by_id(draw):
    assert choose(5.0, 5.0, draw=draw)[1] == "a"


def test_nobody_is_due_or_its_own_who_is_not_said_to_be():
    assert (Candidate("a", 1.0).due, Candidate("a", 1.0).home) == (False, False)


def test_the_only_one_gets_it():
    assert choose(5.0) == (None, "a", "the only one")


def test_whoever_is_due_comes_first_by_id():
    assert choose(1.0, 900.0, 2.0, 800.0, due="db")[1:] == ("b", "a doubt about it must end")


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.99])
def test_its_own_gets_it_while_it_is_about_as_quick_as_any(draw):
    assert choose(100.0, 125.0, 110.0, home="b", draw=draw)[1:] == ("b", "the gateway's own")
    assert choose(0.0, 0.0, home="b", draw=draw)[1] == "b"


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.99])
def test_its_own_is_one_among_the_others_where_it_is_slower(draw):
    assert choose(100.0, 126.0, home="b", draw=draw)[1:] == ("a", "the shorter predicted wait of two")
    assert choose(0.0, 1.0, home="b", draw=draw)[1] == "a", "nothing is known of the other yet: it is tried"


def test_a_doubt_comes_before_its_own():
    assert choose(1.0, 1.0, home="a", due="b")[1] == "b"


@given(candidates, st.integers(0, 7), draws)
def test_its_own_never_costs_more_than_a_quarter(some, which, draw):
    own = some[which % len(some)]
    some = tuple(Candidate(one.id, one.wait_ns, home=one is own) for one in some)
    _, chosen, reason = decide(None, RouteView(some), Batch(3), 7, draw)
    if reason == "the gateway's own":
        assert chosen == own.id
        assert own.wait_ns <= 1.25 * min(one.wait_ns for one in some)
    elif len(some) > 1:
        assert own.wait_ns > 1.25 * min(one.wait_ns for one in some)


def test_nobody_to_choose_from_is_a_mistake_of_ours():
    with pytest.raises(AssertionError):
        decide(None, RouteView(()), Batch(1), 0, 0.0)
    with pytest.raises(AssertionError):
        choose(1.0, draw=1.0)


@given(candidates, draws)
def test_one_of_them_is_chosen_and_never_the_worst_of_many(some, draw):
    state, chosen, _ = decide(None, RouteView(some), Batch(3), 7, draw)
    assert state is None
    by_id = {one.id: one for one in some}
    due = sorted(one.id for one in some if one.due)
    if due:
        assert chosen == due[0]
    elif len(some) > 1:
        assert (by_id[chosen].wait_ns, chosen) != max((one.wait_ns, one.id) for one in some)
    assert decide(None, RouteView(some), Batch(3), 7, draw)[1] == chosen


def test_even_draws_reach_each_of_equals_but_the_last_by_id_evenly():
    counts = Counter(choose(*[5.0] * 4, draw=(index + 0.5) / 1200)[1] for index in range(1200))
    # Of the 12 ordered pairs, a is in 6, and b, c as the lower id in 4 and 2: ties by id, not by chance.
    assert counts == {"a": 600, "b": 400, "c": 200}
