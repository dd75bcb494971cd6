"""How often a model that is not good enough passes, over simulated models and looks."""

import numpy as np

from datahall.policy.gate import SMALLEST_ALPHA, spend
from datahall.stats.intervals import clopper_pearson

NUM_ROWS = 400
BOUND = 0.9


def judge(case, num_hits, look):
    claim = case.claim(bound=BOUND)
    alpha = spend(0.95, look)
    lower, upper = clopper_pearson(num_hits, NUM_ROWS, alpha)
    figure = case.figure(lower, upper, estimate=num_hits / NUM_ROWS, alpha=alpha, num=NUM_ROWS)
    measurement = case.measurement(claim, figure, look=look)
    view = case.view([claim], [case.exhibit(measurement)])
    holdout = type(view.holdout)(
        id="hold_1", app="tumours", snapshot="s", inputs="i", outcomes="o", num_rows=NUM_ROWS, num_looks=look
    )
    return case.ask(case.view([claim], [case.exhibit(measurement)], holdout=holdout)).outcome


def test_models_exactly_at_the_bound_pass_no_more_often_than_stated(case):
    rng = np.random.default_rng(7)
    hits = rng.binomial(NUM_ROWS, BOUND, size=1000)
    outcomes = [judge(case, int(each), 1) for each in hits]
    assert outcomes.count("pass") <= 50
    assert outcomes.count("fail") <= 50
    # The negative control: going by the estimate alone lets about half of them through.
    assert (hits / NUM_ROWS >= BOUND).sum() > 400


def test_twenty_adaptive_looks_pass_no_more_often_than_stated(case):
    """Each time one fails, a slightly different model at the bound is tried on the same rows."""
    rng = np.random.default_rng(11)
    num_passed = num_fooled = 0
    for _ in range(300):
        hits = rng.random(NUM_ROWS) < BOUND
        any_pass = any_high = False
        for look in range(1, 21):
            any_pass |= judge(case, int(hits.sum()), look) == "pass"
            any_high |= clopper_pearson(int(hits.sum()), NUM_ROWS, 0.05)[0] >= BOUND
            swapped = rng.choice(NUM_ROWS, 40, replace=False)
            hits[swapped] = rng.random(40) < BOUND
        num_passed += any_pass
        num_fooled += any_high
    assert num_passed <= 15
    # The negative control: the same bound without spending is fooled far more often than one time in twenty.
    assert num_fooled > 40


def test_no_share_is_left_where_the_gate_stops():
    assert all(spend(0.95, look) < SMALLEST_ALPHA for look in range(22, 200))
