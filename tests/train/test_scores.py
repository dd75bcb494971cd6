import numpy as np
import pytest
from sklearn import metrics as m

from datahall.core.errors import UserError
from datahall.spec.schema import SEARCH_METRICS
from datahall.train.scores import METRICS, check_metric, goodness, measure

RANDOM = np.random.default_rng(0)


def drawn(num_classes, num_rows=120):
    scores = RANDOM.dirichlet(np.ones(num_classes), num_rows)
    return np.arange(num_rows) % num_classes, scores


def test_figures_for_two_classes_are_scikit_learns():
    target, scores = drawn(2)
    figures = measure("classification", target, scores)
    assert figures["accuracy"] == m.accuracy_score(target, scores.argmax(1))
    assert figures["balanced_accuracy"] == pytest.approx(m.balanced_accuracy_score(target, scores.argmax(1)))
    assert figures["f1"] == pytest.approx(m.f1_score(target, scores.argmax(1)))
    assert figures["f1_macro"] == pytest.approx(m.f1_score(target, scores.argmax(1), average="macro"))
    assert figures["log_loss"] == pytest.approx(m.log_loss(target, scores))
    assert figures["roc_auc"] == pytest.approx(m.roc_auc_score(target, scores[:, 1]))


def test_figures_for_three_classes_are_means_over_classes():
    target, scores = drawn(3)
    figures = measure("classification", target, scores)
    assert figures["f1"] == figures["f1_macro"] == pytest.approx(m.f1_score(target, scores.argmax(1), average="macro"))
    assert figures["roc_auc"] == pytest.approx(m.roc_auc_score(target, scores, multi_class="ovr"))


def test_a_class_without_rows_leaves_out_roc_auc_only():
    figures = measure("classification", np.zeros(10, dtype=int), drawn(2, 10)[1])
    assert set(METRICS["classification"]) - set(figures) == {"roc_auc"}
    with pytest.raises(UserError, match="no value"):
        goodness("roc_auc", figures)


def test_figures_for_numbers():
    target = np.array([1.0, 2.0, 4.0])
    figures = measure("regression", target, target + 1)
    assert figures == {"mae": 1, "rmse": 1, "r2": pytest.approx(m.r2_score(target, target + 1))}
    assert set(measure("regression", target[:1], target[:1])) == {"mae", "rmse"}


def test_more_is_better_after_turning():
    assert goodness("accuracy", {"accuracy": 0.9}) > goodness("accuracy", {"accuracy": 0.8})
    assert goodness("rmse", {"rmse": 1.0}) > goodness("rmse", {"rmse": 2.0})


def test_a_metric_of_the_other_task_is_refused():
    with pytest.raises(UserError, match="cannot use 'r2'"):
        check_metric("classification", "r2")


def test_every_search_metric_of_the_application_file_is_measured():
    for task, names in SEARCH_METRICS.items():
        assert set(names) <= set(METRICS[task])
