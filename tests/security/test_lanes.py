"""Several pieces at once come out in order, boundedly many, and nothing goes on behind the caller's back."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.security.lanes import NUM_LANES, in_order


@given(st.lists(st.integers(), max_size=30))
def test_results_come_in_order(items):
    assert list(in_order(lambda item: item * 2, items)) == [item * 2 for item in items]


def test_pieces_are_worked_on_at_the_same_time():
    meet = threading.Barrier(NUM_LANES)
    assert len(list(in_order(lambda _: meet.wait(10), range(NUM_LANES)))) == NUM_LANES


def test_no_more_are_taken_than_are_under_way():
    taken = []

    def items():
        for number in range(50):
            taken.append(number)
            yield number

    for number in in_order(lambda number: number, items()):
        assert len(taken) <= number + NUM_LANES + 1


def test_an_error_comes_where_it_belongs_and_what_was_begun_has_ended():
    running, ended = [], []

    def work(number):
        running.append(number)
        if number == 3:
            raise ValueError("the third")
        ended.append(number)
        return number

    seen = []
    with pytest.raises(ValueError, match="the third"):
        seen.extend(in_order(work, range(100)))
    assert len(running) == len(ended) + 1 <= 4 + NUM_LANES


def test_an_error_of_the_source_is_raised_and_a_reader_may_leave():
    def failing():
        yield from range(3)
        raise ValueError("the source")

    with pytest.raises(ValueError, match="the source"):
        list(in_order(lambda number: number, failing()))
    results = in_order(lambda number: number, range(100))
    assert next(results) == 0
    results.close()


def test_a_single_piece_needs_no_thread():
    assert list(in_order(lambda _: threading.current_thread(), [1])) == [threading.current_thread()]
