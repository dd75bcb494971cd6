"""Every metric against scikit-learn, with and without weights."""

import numpy as np
import pytest
from sklearn import metrics as sk

from datahall.stats.metrics import Scored, padded, statistic, value


def theirs(name, rows, weight):
    """Return scikit-learn's figure."""
    if rows.probability is None:
        of = {"r2": sk.r2_score, "mae": sk.mean_absolute_error, "rmse": sk.root_mean_squared_error}[name]
        return of(rows.truth, rows.label, sample_weight=weight)
    binary = rows.num_classes == 2
    if name == "log_loss":
        return sk.log_loss(rows.truth, rows.probability, sample_weight=weight)
    if name == "roc_auc":
        scores, how = (rows.probability[:, 1], "raise") if binary else (rows.probability, "ovr")
        return sk.roc_auc_score(rows.truth, scores, sample_weight=weight, multi_class=how)
    if name == "f1":
        how = "binary" if binary else "macro"
        return sk.f1_score(rows.truth, rows.label, sample_weight=weight, average=how)
    of = {"accuracy": sk.accuracy_score, "balanced_accuracy": sk.balanced_accuracy_score}[name]
    return of(rows.truth, rows.label, sample_weight=weight)


def scored(num_classes, num=240, seed=0):
    rng = np.random.default_rng(seed)
    if num_classes == 0:
        truth = 1e6 + rng.normal(size=num)  # far from zero: sums of squares must not lose their digits
        return Scored(truth=truth, label=truth + rng.normal(scale=0.5, size=num))
    truth = rng.integers(0, num_classes, num)
    score = np.round(rng.random((num, num_classes)) + 0.6 * np.eye(num_classes)[truth], 1)  # rounded: ties
    probability = score / score.sum(axis=1, keepdims=True)
    return Scored(truth=truth, label=probability.argmax(axis=1), probability=probability, num_classes=num_classes)


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss"])
def test_classification_is_scikit_learns(name, num_classes):
    compare(name, scored(num_classes))


@pytest.mark.parametrize("name", ["r2", "mae", "rmse"])
def test_regression_is_scikit_learns(name):
    compare(name, scored(0))


def compare(name, rows):
    rng = np.random.default_rng(1)
    weights = np.stack([np.ones(rows.truth.size), *rng.integers(0, 4, (5, rows.truth.size))]).astype(float)
    expected = [theirs(name, rows, weight) for weight in weights]
    assert statistic(name, rows)(weights) == pytest.approx(expected, rel=1e-7)
    assert value(name, rows) == pytest.approx(expected[0], rel=1e-7)


def test_a_metric_that_a_resample_does_not_define_is_nan():
    rows = scored(2, num=6)
    only_one_class = (rows.truth == 1).astype(float)[None, :]
    assert np.isnan(statistic("roc_auc", rows)(only_one_class))[0]
    assert np.isnan(statistic("accuracy", rows)(np.zeros((1, 6))))[0]
    assert statistic("balanced_accuracy", rows)(only_one_class)[0] >= 0.0


def test_an_unknown_metric_is_a_mistake():
    with pytest.raises(KeyError):
        statistic("kappa", scored(2))


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "f1", "roc_auc"])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_invented_wrong_rows_lower_and_right_rows_raise(name, num_classes):
    rows = scored(num_classes)
    found = []
    for right in (False, True):
        more, weights = padded(name, rows, right=right)
        found.append(float(statistic(name, more)(weights[None, :])[0]))
        assert weights.sum() == pytest.approx(240 + (1 if name == "accuracy" else 2))
    assert found[0] < value(name, rows) < found[1]


@pytest.mark.parametrize("name", ["log_loss", "mae"])
def test_losses_have_no_worst_row(name):
    rows = scored(0 if name == "mae" else 2)
    same, weights = padded(name, rows, right=False)
    assert same is rows
    assert weights.tolist() == [1.0] * 240
