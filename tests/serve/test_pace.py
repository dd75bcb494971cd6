"""How long a batch should take: by its size, from what was seen, and from larger ones where it was not."""

from __future__ import annotations

import pytest

from datahall.serve.pace import Pace, Tail


def test_an_average_follows_slowly_and_sizes_stay_apart():
    pace = Pace()
    assert (pace.bound_ns(1), pace.time_ns(1)) == (0.0, 0.0)
    pace.learn(1, 100)
    assert pace.time_ns(1) == 100
    pace.learn(1, 200)
    assert pace.time_ns(1) == pytest.approx(130)
    pace.learn(4, 1000)
    assert [pace.time_ns(rows) for rows in (1, 2, 3, 4, 7)] == pytest.approx([130, 1000, 1000, 1000, 1000])


def test_a_larger_batch_bounds_a_smaller_but_not_the_other_way():
    pace = Pace()
    pace.learn(16, 500)
    assert pace.bound_ns(1) == 500
    assert pace.bound_ns(31) == 500
    assert pace.bound_ns(32) == 0.0
    assert pace.time_ns(32) == 500, "a guess is better than none"


def test_any_number_of_rows_has_a_class():
    pace = Pace()
    for rows in (0, 1, 10**12):
        pace.learn(rows, 7)
        assert pace.bound_ns(rows) == 7


def test_before_there_are_enough_batches_four_times_the_average_is_late():
    tail = Tail()
    assert tail.late_ns(1) == 0.0
    for _ in range(15):
        tail.learn(1, 10)
    assert tail.late_ns(1) == pytest.approx(40)
    assert tail.late_ns(2) == pytest.approx(40)
    tail.learn(1, 10)
    assert tail.late_ns(1) == 10


def test_late_is_the_99th_percentile_of_the_last_128():
    tail = Tail()
    for time in range(1, 129):
        tail.learn(1, time)
    assert tail.late_ns(1) == 126, "nearest rank of 1 .. 128 at 99 %"
    for _ in range(128):
        tail.learn(1, 5)
    assert tail.late_ns(1) == 5, "what is long ago is forgotten"
