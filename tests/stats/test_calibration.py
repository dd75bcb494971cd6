"""Calibration error: the debiased estimate is nearer the truth, the bounds hold it, and chance alone is not blamed."""

import numpy as np
import pytest

from datahall.stats.calibration import _folded_mean, calibration_error, choose_num_bins, top_label


def draw(rng, num, *, overconfident):
    said = 0.5 + rng.beta(2, 2, num) / 2
    true = 0.5 + (said - 0.5) * (0.6 if overconfident else 1.0)
    return said, (rng.random(num) < true).astype(float), float(np.abs(said - true).mean())


@pytest.mark.parametrize("overconfident", [False, True])
def test_the_bounds_hold_the_true_error(overconfident):
    rng = np.random.default_rng(0)
    true = draw(rng, 200_000, overconfident=overconfident)[2]
    found = []
    for _ in range(300):
        said, right, _ = draw(rng, 300, overconfident=overconfident)
        found.append(calibration_error(said, right, alpha=0.025))
    assert np.mean([each.upper < true for each in found]) <= 0.025
    assert np.mean([each.lower > true for each in found]) <= 0.025
    assert np.mean([each.plain for each in found]) > np.mean([each.estimate for each in found])
    assert all(each.lower <= each.estimate <= each.upper for each in found)


def test_the_plain_error_blames_chance_and_the_debiased_one_less():
    rng = np.random.default_rng(1)
    found = [calibration_error(*draw(rng, 500, overconfident=False)[:2], alpha=0.025) for _ in range(200)]
    plain, debiased = np.mean([each.plain for each in found]), np.mean([each.estimate for each in found])
    assert debiased < 0.75 * plain


def test_a_gross_error_is_proven():
    rng = np.random.default_rng(2)
    right = (rng.random(1000) < 0.5).astype(float)
    result = calibration_error(np.full(1000, 0.95) + rng.random(1000) / 1000, right, alpha=0.025)
    assert result.lower > 0.3
    assert result.estimate == pytest.approx(0.45, abs=0.04)


def test_rows_that_are_all_right_do_not_prove_perfection():
    result = calibration_error(np.linspace(0.99, 1.0, 150), np.ones(150), alpha=0.025)
    assert result.estimate < 0.01
    assert result.upper > 0.02  # 3.7 / 150, the exact bound of one proportion without a miss


def test_bins_hold_like_numbers_of_rows():
    said = np.random.default_rng(3).random(1000)
    bins = calibration_error(said, np.ones(1000), alpha=0.025, num_bins=10).bins
    assert [each.num for each in bins] == [100] * 10
    assert [each.confidence for each in bins] == sorted(each.confidence for each in bins)
    assert len(calibration_error(np.full(50, 0.7), np.ones(50), alpha=0.025).bins) == 1


def test_repeated_subjects_widen_the_bound():
    rng = np.random.default_rng(4)
    said, right, _ = draw(rng, 200, overconfident=False)
    said, right = np.repeat(said, 5), np.repeat(right, 5)
    clusters = np.repeat(np.arange(200), 5)
    tied = calibration_error(said, right, alpha=0.025, clusters=clusters, num_bins=4)
    assert tied.upper > calibration_error(said, right, alpha=0.025, num_bins=4).upper + 0.02


def test_about_fifty_rows_fill_a_bin():
    assert [choose_num_bins(num) for num in (10, 171, 500, 5000)] == [3, 3, 10, 15]


def test_the_likeliest_class_is_the_one_that_counts():
    probability = np.array([[0.2, 0.5, 0.3], [0.9, 0.05, 0.05]])
    said, right = top_label(np.array([1, 2]), probability)
    assert (said.tolist(), right.tolist()) == ([0.5, 0.9], [1.0, 0.0])


@pytest.mark.parametrize(("middle", "noise"), [(0.0, 1.0), (0.3, 0.2), (2.0, 0.1), (0.4, 0.0)])
def test_the_folded_normal_mean_is_right(middle, noise):
    drawn = np.abs(np.random.default_rng(5).normal(middle, noise, 400_000)).mean()
    assert _folded_mean(middle, noise) == pytest.approx(drawn, rel=0.01)
