"""Resampling: reproducible, by subject, honest about resolution, and right as often as promised."""

import numpy as np
import pytest
from scipy import stats

from datahall.stats.bootstrap import MIN_IN_TAIL, Bootstrap, bootstrap, num_resamples, resamples
from datahall.stats.intervals import Bounds, clopper_pearson
from datahall.stats.metrics import Scored, statistic, value
from datahall.stats.paired import gain, mcnemar
from datahall.stats.score import bootstrap_bounds, score


def mean_of(values):
    return lambda weights: weights @ values / weights.sum(axis=1)


def test_equal_seeds_draw_equal_rows():
    one, two, other = (np.concatenate(list(resamples(30, 50, seed))) for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)
    assert one.shape == (50, 30)
    assert set(one.sum(axis=1)) == {30.0}


def test_chunks_do_not_change_how_many_there_are():
    assert sum(len(chunk) for chunk in resamples(700_000, 3, 0)) == 3


def test_subjects_are_drawn_whole():
    clusters = np.array([7, 7, 7, 3, 3, 9])
    for weights in resamples(6, 40, 5, clusters):
        assert (weights[:, 0] == weights[:, 1]).all()
        assert (weights[:, 1] == weights[:, 2]).all()
        assert (weights[:, 3] == weights[:, 4]).all()
        assert (weights[:, [0, 3, 5]].sum(axis=1) == 3).all()


def test_bca_is_scipys_on_a_skewed_sample():
    values = np.random.default_rng(3).exponential(size=80)
    ours = bootstrap(mean_of(values), np.ones(80), num=20_000, seed=1)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, confidence_level=0.95, rng=1, vectorized=True)
    interval = theirs.confidence_interval
    assert ours.bca(0.025) == pytest.approx((interval.low, interval.high), abs=0.015)
    assert ours.estimate == pytest.approx(values.mean())
    plain = ours.percentile(0.025)
    assert plain.lower < ours.bca(0.025).lower
    assert plain.upper < ours.bca(0.025).upper


def test_beyond_its_resolution_there_is_no_bound():
    values = np.random.default_rng(3).normal(size=50)
    resampled = bootstrap(mean_of(values), np.ones(50), num=2000, seed=1)
    edge = MIN_IN_TAIL / 2000
    assert None not in resampled.percentile(edge)
    assert resampled.percentile(edge * 0.99) == resampled.bca(edge * 0.99) == Bounds(None, None)


def test_a_statistic_that_is_often_undefined_has_no_bound():
    rows = Scored(
        truth=np.array([1, 0, 0, 0, 0, 0]), label=np.zeros(6, int), probability=np.full((6, 2), 0.5), num_classes=2
    )
    resampled = bootstrap(statistic("roc_auc", rows), np.ones(6), num=2000, seed=1)
    assert resampled.num_undefined > 100
    assert resampled.bca(0.05) == Bounds(None, None)


def test_the_p_value_is_where_the_bound_crosses_the_null():
    values = np.random.default_rng(8).normal(0.25, 1.0, size=100)
    resampled = bootstrap(mean_of(values), np.ones(100), num=20_000, seed=1)
    p = resampled.p_value(0.0)
    assert resampled.bca(p * 1.1).lower > 0.0 > resampled.bca(p * 0.9).lower
    assert p == pytest.approx(stats.ttest_1samp(values, 0.0, alternative="greater").pvalue, abs=0.01)
    assert resampled.p_value(10.0) == 1.0
    assert resampled.p_value(-10.0) == pytest.approx(1 / 20_001)


def test_more_rows_get_fewer_resamples_but_always_enough_for_a_bound():
    assert num_resamples(171, 0.0125) == 16_000
    assert num_resamples(171, 0.05) == 4000
    assert num_resamples(60_000, 0.0125) == 6000
    assert num_resamples(60_000, 1e-3) == 12_000
    for num_rows in (171, 60_000, 10**9):
        for alpha in (0.025, 0.05 / 30 / 3, 1e-4):
            assert num_resamples(num_rows, alpha) * alpha >= 1.2 * MIN_IN_TAIL * (1 - 1e-9)
    assert num_resamples(10**9, 1e-7) == num_resamples(10**9, 1e-4), "nobody believes an alpha so small"


def test_a_correction_that_breaks_down_gives_no_bound():
    broken = Bootstrap(estimate=0.0, values=np.arange(4000.0), bias=0.0, acceleration=1.0, num_undefined=0)
    assert broken.bca(0.025).upper is None
    assert broken.bca(0.025).lower is not None
    assert broken.p_value(-1.0) == 1.0


def draw(rng, num, separation):
    truth = (rng.random(num) < 0.4).astype(int)
    seen = rng.normal(size=num) + separation * truth
    second = 1 / (1 + np.exp(-(separation * seen - separation**2 / 2 + np.log(0.4 / 0.6))))
    return Scored(truth, (second >= 0.5).astype(int), np.stack([1 - second, second], axis=1), 2)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "f1", "roc_auc"])
@pytest.mark.parametrize("separation", [1.5, 3.5])
def test_bounds_miss_no_more_often_than_promised(metric, separation):
    rng = np.random.default_rng(1)
    true = value(metric, draw(rng, 100_000, separation))
    num = 25 if metric == "roc_auc" else 80  # sorting makes the area slow
    found = [score(metric, draw(rng, 120, separation), alpha=0.05, seed=number).bounds for number in range(num)]
    assert sum(bounds.lower > true for bounds in found) <= 0.05 * num + 4
    assert sum(bounds.upper < true for bounds in found) <= 0.05 * num + 4


@pytest.mark.parametrize("metric", ["balanced_accuracy", "f1", "roc_auc"])
def test_a_sample_without_a_mistake_is_not_proven_perfect(metric):
    truth = np.arange(100) % 2
    perfect = Scored(truth, truth, np.eye(2)[truth], 2)
    result = score(metric, perfect, alpha=0.025, seed=1)
    assert (result.estimate, result.bounds.upper) == (1.0, 1.0)
    assert result.bounds.lower == pytest.approx(clopper_pearson(100, 100, 0.025)[0], abs=0.04)
    # The negative control: the plain bootstrap calls it perfect.
    assert bootstrap(statistic(metric, perfect), np.ones(100), num=2000, seed=1).percentile(0.025).lower == 1.0


def test_accuracy_has_both_exact_and_bootstrap_bounds():
    rows = draw(np.random.default_rng(2), 300, 2.0)
    exact = score("accuracy", rows, alpha=0.025, seed=1)
    again = bootstrap_bounds("accuracy", rows, alpha=0.025, seed=1)
    assert exact.method == "Clopper-Pearson"
    assert again == pytest.approx(exact.bounds, abs=0.012)


class TestGain:
    def other(self, rows, rng, share):
        """Return answers that are right on `share` more of the rows."""
        label = np.where(rng.random(rows.truth.size) < share, rows.truth, rows.label)
        return Scored(rows.truth, label, np.eye(2)[label], 2)

    def test_mcnemar_is_the_binomial_test(self):
        for ours, theirs in ((9, 2), (0, 3), (1, 0), (50, 30)):
            expected = stats.binomtest(ours, ours + theirs, 0.5, alternative="greater").pvalue
            assert mcnemar(ours, theirs) == pytest.approx(expected)
        assert mcnemar(0, 0) == 1.0

    def test_the_difference_is_paired(self):
        rng = np.random.default_rng(0)
        rival = draw(rng, 400, 1.0)
        better = self.other(rival, rng, 0.3)
        result = gain("accuracy", better, rival, null=0.0, alpha=0.025, seed=1)
        assert result.estimate == pytest.approx(value("accuracy", better) - value("accuracy", rival))
        assert 0.0 < result.bounds.lower < result.estimate < result.bounds.upper
        assert result.p_value < 0.001
        back = gain("accuracy", rival, better, null=0.0, alpha=0.025, seed=1)
        assert (back.estimate, back.p_value > 0.9) == (-result.estimate, True)

    def test_few_differing_rows_prove_little(self):
        rng = np.random.default_rng(0)
        rival = draw(rng, 400, 1.0)
        wrong = np.flatnonzero(rival.truth != rival.label)[:4]
        label = rival.label.copy()
        label[wrong] = rival.truth[wrong]
        result = gain(
            "accuracy", Scored(rival.truth, label, rival.probability, 2), rival, null=0.0, alpha=0.025, seed=1
        )
        assert result.p_value >= mcnemar(4, 0) == 1 / 16
        assert result.bounds.lower <= 0.0

    def test_equal_answers_are_no_gain(self):
        rows = draw(np.random.default_rng(0), 200, 1.0)
        result = gain("accuracy", rows, rows, null=0.0, alpha=0.025, seed=1)
        assert (result.estimate, result.p_value >= 0.5) == (0.0, True)
        assert result.bounds.lower <= 0.0 <= result.bounds.upper

    def test_less_is_better_for_losses(self):
        rng = np.random.default_rng(0)
        truth = rng.normal(size=300)
        near, far = (Scored(truth, truth + rng.normal(scale=scale, size=300)) for scale in (0.1, 0.5))
        for metric in ("mae", "rmse", "r2"):
            result = gain(metric, near, far, null=0.0, alpha=0.025, seed=1)
            assert result.bounds.lower > 0.0
            assert result.p_value < 0.001

    def test_equal_models_are_called_better_no_more_often_than_promised(self):
        rng = np.random.default_rng(9)
        num_better = 0
        for number in range(60):
            rival = draw(rng, 150, 1.0)
            flips = [rng.random(150) < 0.1 for _ in range(2)]
            first, second = (
                Scored(rival.truth, np.where(flip, 1 - rival.label, rival.label), rival.probability, 2)
                for flip in flips
            )
            result = gain("accuracy", first, second, null=0.0, alpha=0.05, seed=number)
            num_better += result.p_value <= 0.05
            assert (result.bounds.lower > 0.0) <= (result.p_value <= 0.05)
        assert num_better <= 0.05 * 60 + 4
