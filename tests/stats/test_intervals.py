"""Closed-form bounds against SciPy, published figures and simulated coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from datahall.stats.intervals import (
    Bounds,
    binomial_tail,
    clopper_pearson,
    difference,
    effective_size,
    proportion,
    quantile,
    ratio,
    spread,
    wilson,
)


@pytest.mark.parametrize(("hits", "num"), [(0, 10), (3, 10), (10, 10), (163, 171), (1, 5000)])
@pytest.mark.parametrize("alpha", [0.025, 0.001])
def test_proportions_are_scipys(hits, num, alpha):
    test = stats.binomtest(hits, num)
    for ours, method in ((clopper_pearson, "exact"), (wilson, "wilson")):
        theirs = test.proportion_ci(1 - 2 * alpha, method=method)
        assert ours(hits, num, alpha) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@given(st.integers(1, 300), st.data(), st.floats(1e-4, 0.2))
def test_bounds_hold_the_share_and_widen_with_confidence(num, data, alpha):
    hits = data.draw(st.integers(0, num))
    for bound in (clopper_pearson, wilson):
        lower, upper = bound(hits, num, alpha)
        wider = bound(hits, num, alpha / 2)
        assert 0.0 <= wider[0] <= lower <= hits / num <= upper <= wider[1] <= 1.0


def test_more_rows_narrow_a_proportion():
    widths = [np.diff(clopper_pearson(0.9 * num, num, 0.025))[0] for num in (20, 200, 2000)]
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_senseless_alpha_is_refused(alpha):
    for bound in (clopper_pearson, wilson):
        with pytest.raises(ValueError, match="alpha"):
            bound(1, 2, alpha)


def test_no_rows_have_no_bounds():
    with pytest.raises(ValueError, match="no rows"):
        clopper_pearson(0, 0, 0.05)


def test_differences_are_newcombes():
    # Newcombe (1998), table II, method 10, two-sided 95 %: (a) 56/70 - 48/80, (h) 10/10 - 0/10.
    assert difference(56 / 70, 70, 48 / 80, 80, 0.025) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert difference(1.0, 10, 0.0, 10, 0.025) == pytest.approx((0.6075, 1.0), abs=5e-5)


def test_ratios_are_wide_where_hits_are_few():
    lower, upper = ratio(0.5, 1000, 0.5, 1000, 0.025)
    assert 0.9 < lower < 1.0 < upper < 1.1
    assert ratio(0.0, 50, 0.5, 50, 0.025)[1] < 0.35
    assert ratio(0.5, 50, 0.0, 50, 0.025)[1] > 100


@pytest.mark.parametrize(("bound", "true"), [(difference, 0.1), (ratio, 1.2)])
def test_two_groups_are_covered_as_promised(bound, true):
    rng = np.random.default_rng(2)
    draws = zip(rng.binomial(120, 0.6, 2000) / 120, rng.binomial(90, 0.5, 2000) / 90, strict=True)
    bounds = np.array([bound(a, 120, b, 90, 0.025) for a, b in draws])
    assert (bounds[:, 0] > true).mean() <= 0.032
    assert (bounds[:, 1] < true).mean() <= 0.032


class TestClusters:
    def test_independent_rows_count_in_full(self):
        hits = np.array([1.0, 0.0, 1.0, 1.0])
        assert effective_size(hits, None, 0.025) == effective_size(hits, np.arange(4), 0.025) == 4.0

    def test_copies_of_a_row_count_once(self):
        hits = np.repeat(np.random.default_rng(0).random(200) < 0.7, 5).astype(float)
        size = effective_size(hits, np.repeat(np.arange(200), 5), 0.025)
        assert 190 < size <= 205

    def test_agreement_counts_a_subject_once(self):
        assert effective_size(np.ones(30), np.repeat(np.arange(10), 3), 0.025) == 10.0
        assert effective_size(np.array([1.0, 0.0, 1.0]), np.zeros(3), 0.025) == 1.0

    def test_coverage_holds_where_subjects_repeat(self):
        """The negative control: without the subjects the bound misses far too often."""
        rng = np.random.default_rng(4)
        clusters = np.repeat(np.arange(60), 6)
        missed = naive = 0
        for _ in range(600):
            own = rng.beta(0.8, 0.2, 60)  # mean 0.8, and people differ
            hits = (rng.random(360) < np.repeat(own, 6)).astype(float)
            missed += proportion(hits, 0.025, clusters)[0] > 0.8
            naive += proportion(hits, 0.025)[0] > 0.8
        assert missed <= 0.04 * 600
        assert naive > 0.08 * 600


class TestQuantile:
    def test_ranks_are_binomial(self):
        values = np.arange(1.0, 1001.0)
        lower, upper = quantile(values, 0.95, 0.025)
        assert binomial_tail(int(upper), 1000, 0.95) <= 0.025 < binomial_tail(int(upper) - 1, 1000, 0.95)
        assert stats.binom.cdf(lower - 1, 1000, 0.95) <= 0.025 < stats.binom.cdf(lower, 1000, 0.95)

    def test_a_small_sample_has_no_upper_bound(self):
        assert quantile(np.arange(100.0), 0.99, 0.025) == Bounds(96.0, None)
        assert quantile(np.arange(368.0), 0.99, 0.025).upper is not None  # 0.99 ** 368 < 0.025
        assert quantile(np.arange(366.0), 0.99, 0.025).upper is None

    def test_coverage_needs_no_shape(self):
        rng = np.random.default_rng(6)
        true = stats.lognorm(1.0).ppf(0.95)
        found = [quantile(rng.lognormal(size=300), 0.95, 0.025) for _ in range(1500)]
        assert np.mean([bounds.upper < true for bounds in found]) <= 0.035
        assert np.mean([bounds.lower > true for bounds in found]) <= 0.035


class TestSpread:
    def test_against_the_textbook(self):
        values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
        lower, upper = spread(values, 0.025)
        assert lower == pytest.approx(np.sqrt(10 / stats.chi2.ppf(0.975, 4)))
        assert upper == pytest.approx(np.sqrt(10 / stats.chi2.ppf(0.025, 4)))

    def test_one_value_has_no_spread(self):
        assert spread(np.array([1.0]), 0.025) == Bounds(None, None)

    def test_equal_values_have_none(self):
        assert spread(np.array([0.9, 0.9, 0.9]), 0.025) == Bounds(0.0, 0.0)


def test_a_tail_of_everything_is_one():
    assert binomial_tail(0, 10, 0.3) == 1.0
    assert binomial_tail(10, 10, 0.5) == pytest.approx(0.5**10)
