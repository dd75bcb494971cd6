"""Group differences: fairlearn's figures, bounds that hold, small groups that nobody is judged by."""

import numpy as np
import pytest
from fairlearn.metrics import demographic_parity_difference, demographic_parity_ratio, equalized_odds_difference

from datahall.stats.groups import MIN_ROWS, compare


def draw(rng, sizes, shares):
    groups = np.repeat(list("abcd")[: len(sizes)], sizes)
    truth = np.where(rng.random(groups.size) < 0.5, "yes", "no")
    said = np.where(rng.random(groups.size) < np.repeat(shares, sizes), "yes", "no")
    return groups, truth, said


@pytest.mark.parametrize(
    ("metric", "theirs"),
    [
        ("demographic_parity_difference", demographic_parity_difference),
        ("equalized_odds_difference", equalized_odds_difference),
        ("selection_ratio", demographic_parity_ratio),
    ],
)
def test_estimates_are_fairlearns(metric, theirs):
    groups, truth, said = draw(np.random.default_rng(0), [80, 120, 60], [0.5, 0.6, 0.3])
    ours = compare(metric, groups, truth, said, positive="yes", alpha=0.025)
    expected = theirs(truth == "yes", said == "yes", sensitive_features=groups)
    assert ours.estimate == pytest.approx(expected)
    assert ours.num == 260
    assert ours.bounds.lower <= expected <= ours.bounds.upper


def test_accuracy_needs_no_wanted_answer():
    groups, truth, said = draw(np.random.default_rng(0), [80, 120], [0.5, 0.6])
    ours = compare("accuracy_difference", groups, truth, said, positive=None, alpha=0.025)
    by_group = [np.mean((truth == said)[groups == name]) for name in "ab"]
    assert ours.estimate == pytest.approx(abs(by_group[0] - by_group[1]))


@pytest.mark.parametrize(
    ("metric", "shares", "true"),
    [
        ("demographic_parity_difference", [0.5, 0.5, 0.5], 0.0),
        ("demographic_parity_difference", [0.5, 0.5, 0.35], 0.15),
        ("equalized_odds_difference", [0.5, 0.4, 0.5], 0.1),
        ("selection_ratio", [0.5, 0.5, 0.4], 0.8),
    ],
)
def test_bounds_hold_although_the_estimate_is_biased(metric, shares, true):
    rng = np.random.default_rng(1)
    found = []
    for _ in range(300):
        groups, truth, said = draw(rng, [100, 100, 100], shares)
        found.append(compare(metric, groups, truth, said, positive="yes", alpha=0.025))
    assert np.mean([each.bounds.upper < true for each in found]) <= 0.035
    assert np.mean([each.bounds.lower > true for each in found]) <= 0.035
    # The largest of several differences is too large on average; that is why no bound is taken around it.
    worst = np.mean([each.estimate for each in found])
    assert worst < true if metric == "selection_ratio" else worst > true


def test_a_real_difference_is_proven():
    groups, truth, said = draw(np.random.default_rng(2), [800, 800], [0.7, 0.4])
    ours = compare("demographic_parity_difference", groups, truth, said, positive="yes", alpha=0.0125)
    assert ours.bounds.lower > 0.2
    ratio = compare("selection_ratio", groups, truth, said, positive="yes", alpha=0.0125)
    assert ratio.bounds.upper < 0.7


def test_small_groups_are_reported_and_not_judged():
    groups, truth, said = draw(np.random.default_rng(3), [200, 200, MIN_ROWS - 1], [0.5, 0.5, 0.0])
    ours = compare("demographic_parity_difference", groups, truth, said, positive="yes", alpha=0.025)
    assert ours.judged == ("a", "b")
    assert ours.rates["selection_rate"]["c"].share == 0.0
    assert ours.estimate < 0.2
    whole = draw(np.random.default_rng(3), [200, 200, MIN_ROWS], [0.5, 0.5, 0.0])
    assert compare("demographic_parity_difference", *whole, positive="yes", alpha=0.025).estimate > 0.4


def test_one_group_alone_cannot_be_compared():
    groups, truth, said = draw(np.random.default_rng(3), [200, 10], [0.5, 0.5])
    ours = compare("accuracy_difference", groups, truth, said, positive=None, alpha=0.025)
    assert (ours.estimate, ours.bounds.lower, ours.bounds.upper, ours.judged) == (None, None, None, ("a",))


def test_a_rate_that_a_group_does_not_have_bounds_nothing():
    groups = np.repeat(["a", "b", "c"], 50)
    truth = np.where(groups == "c", "no", "yes")
    truth[::5] = np.where(groups[::5] == "c", "no", "no")
    said = np.where(np.arange(150) % 2, "yes", "no")
    ours = compare("equalized_odds_difference", groups, truth, said, positive="yes", alpha=0.025)
    assert ours.estimate is not None
    assert ours.bounds.upper is None
    nobody = compare("equalized_odds_difference", groups[:50], truth[:50], said[:50], positive="yes", alpha=0.025)
    assert nobody.estimate is None


def test_repeated_people_widen_the_bounds():
    groups, truth, said = (np.repeat(each, 4) for each in draw(np.random.default_rng(5), [100, 100], [0.5, 0.5]))
    clusters = np.repeat(np.arange(200), 4)
    free = compare("demographic_parity_difference", groups, truth, said, positive="yes", alpha=0.025)
    tied = compare("demographic_parity_difference", groups, truth, said, positive="yes", alpha=0.025, clusters=clusters)
    assert tied.bounds.upper > free.bounds.upper + 0.03
    assert tied.estimate == free.estimate
