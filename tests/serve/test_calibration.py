"""The batch to aim for follows from measured times; what a batch will take is learnt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.serve.calibration import SIZES, TOLERANCE, Sample, Timings, calibrate, sweep


def samples(time_us, sizes=SIZES):
    return [Sample(size, time_us(size)) for size in sizes]


@pytest.mark.parametrize(
    ("time_us", "best"),
    [
        (lambda rows: 10.0 * rows, 1),  # every row costs alike: waiting for more gains nothing
        (lambda rows: 50.0 + 0 * rows, 256),  # every call costs alike
        (lambda rows: 20.0 + 2.0 * rows, 128),  # 2.16 us a row, the least is 2.08
        (lambda rows: 6.0 + (1.0 if rows <= 20 else 2.0) * rows, 20),  # slower a row beyond twenty
    ],
)
def test_the_best_batch_follows_from_the_shape_of_the_curve(time_us, best):
    assert calibrate(samples(time_us)) == best


@given(st.lists(st.floats(1.0, 1e6), min_size=len(SIZES), max_size=len(SIZES)))
def test_law_no_size_is_better_by_more_than_the_tolerance_and_no_smaller_one_is_as_good(times):
    measured = [Sample(size, time_us) for size, time_us in zip(SIZES, times, strict=True)]
    a_row = {sample.num_rows: sample.time_us / sample.num_rows for sample in measured}
    best = calibrate(measured)
    bound = min(a_row.values()) * (1 + TOLERANCE)
    assert a_row[best] <= bound
    assert all(a_row[size] > bound for size in SIZES if size < best)


@given(st.floats(1.0, 1e6), st.floats(0.0, 1e5), st.integers(2, len(SIZES) - 1))
def test_law_a_line_needs_only_its_beginning(a_call, a_row, num_sizes):
    def line(rows):
        return a_call + a_row * rows

    whole, part = calibrate(samples(line)), calibrate(samples(line, SIZES[:num_sizes]))
    assert abs(SIZES.index(whole) - SIZES.index(part)) <= 1  # rounding may tip a size that lies on the bound


def test_one_size_alone_says_nothing_of_others():
    assert calibrate([Sample(1, 5e6)]) == 1


class Clock:
    """A clock that work moves."""

    def __init__(self):
        self.now = 0
        self.calls = []

    def prepare(self, num_rows):
        self.now += 100  # a tenth of a microsecond, which no figure may show
        return lambda: self.work(num_rows)

    def work(self, num_rows):
        self.calls.append(num_rows)
        # The first call of each size pays for memory.
        self.now += (1000 + num_rows * 10) * 1000 * (5 if self.calls.count(num_rows) == 1 else 1)

    def sweep(self, **settings):
        return sweep(self.prepare, now_ns=lambda: self.now, **settings)


def test_the_sweep_takes_turns_within_its_budget_and_passes_over_first_times():
    clock = Clock()
    found = clock.sweep(sizes=(1, 4, 16), budget_ms=40)
    assert found == (Sample(1, 1010.0), Sample(4, 1040.0), Sample(16, 1160.0))
    assert clock.calls[:6] == [1, 4, 16, 1, 4, 16]
    assert 40e6 <= clock.now < 42e6


def test_a_slow_model_is_measured_at_two_sizes_whatever_they_take():
    clock = Clock()
    assert [sample.num_rows for sample in clock.sweep(budget_ms=0.001)] == [1, 2]
    assert clock.calls == [1, 2]


def test_times_are_looked_up_learnt_and_extended():
    timings = Timings(samples(lambda rows: 10.0 + rows))
    assert timings.expect_us(1) == 11
    assert timings.expect_us(17) == timings.expect_us(32) == 42
    assert timings.expect_us(1024) == 4 * 266
    for _ in range(100):
        timings.learn(30, 2000.0)
    assert timings.expect_us(20) == pytest.approx(2000, rel=1e-3)
    assert timings.expect_us(16) == 26
    timings.learn(1000, 7.0)
    assert timings.expect_us(1024) == 7.0


def test_control_one_slow_batch_does_not_decide():
    timings = Timings([Sample(1, 10.0)])
    timings.learn(1, 1000.0)
    assert timings.expect_us(1) < 200
