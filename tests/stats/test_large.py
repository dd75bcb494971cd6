"""Sixty thousand rows: every metric is bounded at early and late looks, within seconds, as the plain bootstrap would."""

import time

import numpy as np
import pytest

from datahall.stats.bootstrap import bootstrap
from datahall.stats.groups import compare
from datahall.stats.metrics import Scored, Sums, statistic, value
from datahall.stats.multiple import spend
from datahall.stats.paired import gain
from datahall.stats.score import score

NUM = 60_000
MOST_S = 15.0
"""Far above what it takes; the row by row way takes minutes."""
LATE = spend(0.95, 5, num_candidates=2)


def classes(num, rng, separation=1.5):
    truth = (rng.random(num) < 0.3).astype(np.int64)
    second = 1 / (1 + np.exp(-(rng.normal(size=num) + separation * (truth - 0.5))))
    return Scored(truth, (second >= 0.5).astype(np.int64), np.stack([1 - second, second], axis=1), 2)


def values(num, rng):
    truth = rng.normal(size=num)
    return Scored(truth, truth + rng.standard_t(5, size=num) / 2)


def tables(num):
    rng = np.random.default_rng(4)
    return {
        "balanced_accuracy": classes(num, rng),
        "f1": classes(num, rng),
        "log_loss": classes(num, rng),
        "roc_auc": classes(num, rng),
        "r2": values(num, rng),
    }


@pytest.fixture(scope="module")
def large():
    return tables(NUM)


@pytest.mark.parametrize("look", [1, 5])
@pytest.mark.parametrize("metric", ["balanced_accuracy", "f1", "log_loss", "r2", "roc_auc"])
def test_a_large_table_bounds_every_metric(large, metric, look):
    begin = time.perf_counter()
    result = score(metric, large[metric], alpha=spend(0.95, look, num_candidates=2), seed=1)
    assert time.perf_counter() - begin < MOST_S
    assert result.bounds.lower < result.estimate < result.bounds.upper
    assert result.bounds.upper - result.bounds.lower < 0.05


@pytest.mark.parametrize("look", [1, 5])
@pytest.mark.parametrize("metric", ["balanced_accuracy", "roc_auc", "r2"])
def test_a_large_table_bounds_an_improvement(large, metric, look):
    ours, rng = large[metric], np.random.default_rng(5)
    if metric == "r2":
        rival = Scored(ours.truth, ours.label + rng.normal(size=NUM))
    else:
        rival = Scored(ours.truth, rng.permutation(ours.label), rng.permutation(ours.probability), 2)
    alpha = spend(0.95, look, num_candidates=2)
    begin = time.perf_counter()
    result = gain(metric, ours, rival, null=0.0, alpha=alpha, seed=1)
    assert time.perf_counter() - begin < MOST_S
    assert 0.0 < result.bounds.lower < result.estimate < result.bounds.upper
    assert result.p_value <= alpha


@pytest.mark.parametrize("look", [1, 5])
def test_a_large_table_bounds_fairness(large, look):
    rng = np.random.default_rng(6)
    rows = large["balanced_accuracy"]
    groups = rng.choice(np.array(["a", "b", "c"], dtype=object), NUM)
    names = np.array(["no", "yes"], dtype=object)
    result = compare(
        "equalized_odds_difference",
        groups,
        names[rows.truth],
        names[rows.label],
        positive="yes",
        alpha=spend(0.95, look, num_candidates=2),
    )
    assert None not in result.bounds
    assert result.bounds.upper < 0.1


def test_repeated_subjects_are_bounded_too(large):
    rows = large["balanced_accuracy"]
    apart = score("balanced_accuracy", rows, alpha=LATE, seed=1).bounds
    doubled = Scored(*(np.repeat(part, 2, axis=0) for part in (rows.truth, rows.label, rows.probability)), 2)
    twice = score("balanced_accuracy", doubled, alpha=LATE, seed=1, clusters=np.arange(2 * NUM) // 2).bounds
    assert twice == pytest.approx(apart, abs=0.001)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "f1", "log_loss", "roc_auc", "r2"])
def test_the_quick_way_spreads_as_the_rows_do(metric):
    """6,000 rows are beyond the limit of roc_auc; of the others counts or rows are drawn."""
    rows = tables(6_000)[metric]
    quick = statistic(metric, rows)
    assert isinstance(quick, Sums)
    ours = bootstrap(quick, np.ones(6_000), num=2_000, seed=1)
    whole = Scored(rows.truth, rows.label, rows.probability, rows.num_classes)
    rng = np.random.default_rng(2)
    drawn = []
    for _ in range(300):
        at = rng.integers(0, 6_000, 6_000)
        part = whole.probability[at] if whole.probability is not None else None
        drawn.append(value(metric, Scored(whole.truth[at], whole.label[at], part, whole.num_classes)))
    assert ours.estimate == pytest.approx(value(metric, rows))
    assert ours.values.mean() == pytest.approx(np.mean(drawn), abs=0.25 * np.std(drawn))
    assert ours.values.std() == pytest.approx(np.std(drawn), rel=0.15)


def test_groups_of_rows_spread_as_the_rows_do(large):
    rows = large["r2"]
    grouped = bootstrap(statistic("r2", rows), np.ones(NUM), num=2_000, seed=1)
    by_row = bootstrap(statistic("r2", rows).__call__, np.ones(NUM), num=300, seed=1)  # no Sums, so rows are drawn
    assert grouped.estimate == by_row.estimate
    assert grouped.values.std() == pytest.approx(by_row.values.std(), rel=0.15)
