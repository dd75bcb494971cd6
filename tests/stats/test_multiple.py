"""Holm's step-down test and the rows that would settle a claim."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.stats.intervals import clopper_pearson
from datahall.stats.multiple import holm, spend
from datahall.stats.sample_size import rows_to_settle

p_values = st.lists(st.floats(0.0, 1.0), max_size=8)


def test_holms_own_example():
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert holm([], 0.05) == []


@given(p_values, st.floats(0.001, 0.5))
def test_holm_rejects_at_least_what_bonferroni_does_and_no_more_than_no_correction(values, alpha):
    for p, rejected in zip(values, holm(values, alpha), strict=True):
        assert (p <= alpha / max(len(values), 1)) <= rejected <= (p <= alpha)


@given(st.permutations(list(range(5))), st.lists(st.floats(0.0, 0.2), min_size=5, max_size=5))
def test_holm_does_not_mind_the_order(order, values):
    shuffled = holm([values[index] for index in order], 0.05)
    plain = holm(values, 0.05)
    for place, index in enumerate(order):
        if values.count(values[index]) == 1:
            assert shuffled[place] == plain[index]


def test_nan_is_never_rejected():
    assert holm([float("nan")], 0.05) == [False]


def test_true_hypotheses_survive_as_often_as_promised():
    rng = np.random.default_rng(0)
    assert np.mean([any(holm(list(rng.random(5)), 0.05)) for _ in range(2000)]) <= 0.06


@given(st.floats(0.5, 0.999), st.integers(1, 500), st.integers(1, 20))
def test_a_look_spends_less_than_the_one_before(confidence, look, num):
    assert 0.0 < spend(confidence, look + 1, num) < spend(confidence, look, num) <= (1 - confidence) / 2 + 1e-15


class TestRows:
    def test_the_rows_named_really_settle_it(self):
        lower, upper = clopper_pearson(450, 480, 0.025)
        needed = rows_to_settle(estimate=450 / 480, lower=lower, upper=upper, bound=0.92, num=480)
        assert lower < 0.92 < clopper_pearson(450 / 480 * needed * 1.1, needed * 1.1, 0.025)[0]

    def test_the_side_that_faces_the_bound_counts(self):
        arguments = {"lower": 0.8, "upper": 0.91, "num": 100}
        assert rows_to_settle(estimate=0.9, bound=0.85, **arguments) == 400
        assert rows_to_settle(estimate=0.9, bound=0.95, **arguments) == 101

    def test_one_row_and_very_many_are_rows_too(self):
        assert rows_to_settle(estimate=0.9, lower=0.8, upper=1.0, bound=0.85, num=1) == 4
        many = {"estimate": 0.9, "lower": 0.8, "upper": 1.0, "num": 1000}
        assert rows_to_settle(bound=0.9 - 1.01e-4, **many) < 1e9
        assert rows_to_settle(bound=0.9 - 0.9e-4, **many) is None

    @pytest.mark.parametrize(
        "changes",
        [{"estimate": 0.85}, {"lower": None}, {"num": 0}, {"estimate": 0.85 + 1e-9}, {"estimate": float("nan")}],
    )
    def test_what_cannot_be_estimated_is_not(self, changes):
        arguments = {"estimate": 0.9, "lower": 0.8, "upper": None, "bound": 0.85, "num": 100} | changes
        assert rows_to_settle(**arguments) is None
