"""The job as a whole: what it signs, what it refuses, and that a replay gives the same figures."""

import msgspec
import numpy as np
import polars as pl
import pytest

from datahall.core.errors import IntegrityError, UserError
from datahall.core.records import Holdout, Policy
from datahall.data.frames import ROW
from datahall.evaluate.exhibit import exhibit
from datahall.evaluate.job import run
from datahall.policy.gate import GateView, decide, spend
from datahall.testing.clock import AutoClock


def gate(request, exhibits, bundle, now=None, num_looks=1):
    view = GateView(
        policy=Policy(id=request.policy, app=request.app, claims=request.claims, evidence_days=30.0),
        candidate="small#1",
        bundle=bundle,
        champion=None,
        holdout=Holdout(
            id=request.holdout, app="small", snapshot="s", inputs="i", outcomes="o", num_rows=400, num_looks=num_looks
        ),
        node_class=request.node_class,
        exhibits=tuple(exhibits),
    )
    return decide(None, view, None, now or AutoClock().now_ns() + 1, 0.0)[1]


def test_from_a_look_to_a_verdict(stage, make_claim):
    good = make_claim("accuracy", "accuracy", 0.6)
    far = make_claim("accuracy", "accuracy", 0.99, name="far")
    close = make_claim("accuracy", "accuracy", 0.86, name="close")
    request = stage.request(good, far, close)
    exhibits = []
    for number in range(3):
        evidence, key = stage.evidence(request, number)
        exhibits.append(exhibit(evidence, {key.id: key}, integrated=True))
    decision = gate(request, exhibits, request.contenders[0].bundle)
    assert [finding.outcome for finding in decision.findings] == ["pass", "fail", "insufficient"]
    assert decision.findings[2].num_needed > 400


def test_the_alphas_are_the_ones_that_the_gate_computes(stage, make_claim):
    claims = [make_claim("accuracy", "accuracy", 0.6), make_claim("calibration", "ece", 0.5, direction="at_most")]
    request = stage.request(*claims, contenders=["logistic", "forest"])
    assert request.alphas["accuracy"] == pytest.approx(spend(0.95, 1, 2))
    measured = stage.measure(*claims, contenders=["logistic", "forest"])
    assert {one.figure.alpha for one in measured.values()} == {request.alphas["accuracy"]}


def test_the_same_look_gives_the_same_figures(stage, make_claim):
    claims = [make_claim("accuracy", "f1", 0.6), make_claim("improvement", "roc_auc", 0.0)]
    assert stage.measure(*claims) == stage.measure(*claims)
    assert stage.measure(*claims) != stage.measure(*claims, seed=6)


def test_rows_are_matched_by_number_not_by_place(stage, make_claim):
    one = make_claim("accuracy", "accuracy", 0.6)
    shuffled = stage.outcomes.sample(fraction=1.0, shuffle=True, seed=1)
    assert stage.measure(one, outcomes=shuffled) == stage.measure(one)


@pytest.mark.parametrize("fault", ["missing", "doubled", "other", "none"])
def test_parts_of_different_rows_are_refused(stage, make_claim, fault):
    outcomes = {
        "missing": stage.outcomes[:-1],
        "doubled": pl.concat([stage.outcomes[:-1], stage.outcomes[:1]]),
        "other": stage.outcomes.with_columns(pl.Series(ROW, np.arange(400) + 1)),
        "none": stage.outcomes[:0],
    }[fault]
    with pytest.raises(IntegrityError, match="not about the same rows"):
        stage.measure(make_claim("accuracy", "accuracy", 0.6), outcomes=outcomes)


def test_a_bundle_that_is_not_the_one_named_is_refused(stage, make_claim):
    logistic, forest = stage.contenders["logistic"], stage.contenders["forest"]
    swapped = msgspec.structs.replace(logistic, packed=forest.packed)
    with pytest.raises(IntegrityError, match="not the one that the request names"):
        stage.measure(make_claim("accuracy", "accuracy", 0.6), contenders=[swapped])
    with pytest.raises(IntegrityError, match="not the one that the request names"):
        stage.measure(make_claim("improvement", "accuracy", 0.0), champion=swapped)


def test_another_applications_bundle_is_refused(stage, make_claim):
    with pytest.raises(IntegrityError, match="another application"):
        stage.measure(make_claim("accuracy", "accuracy", 0.6), app="other")


def test_one_claim_that_cannot_be_measured_leaves_the_others(stage, make_claim):
    claims = [
        make_claim("fairness", "selection_ratio", 0.8, column="race"),
        make_claim("accuracy", "accuracy", 0.6),
    ]
    measured = stage.measure(*claims)
    assert measured["logistic", "fairness"].figure is None
    assert measured["logistic", "accuracy"].figure is not None


def test_a_champion_that_needs_a_column_that_is_gone_cannot_be_compared_with(stage, make_claim):
    # Here the contender needs it too, so the look itself says what is missing.
    gone = stage.store(stage.inputs.drop("plain"))
    with pytest.raises(UserError, match="no column 'plain'"):
        stage.measure(make_claim("improvement", "accuracy", 0.0), holdout_inputs=gone)


def test_a_class_that_nobody_trained_on_is_simply_wrong(stage, make_claim):
    target = stage.table.target.name
    labels = stage.outcomes[target].to_list()
    outcomes = stage.outcomes.with_columns(pl.Series(target, ["c9", *labels[1:]]))
    claims = [
        make_claim("accuracy", "accuracy", 0.6),
        make_claim("accuracy", "log_loss", 0.6, name="loss", direction="at_most"),
    ]
    measured = stage.measure(*claims, outcomes=outcomes)
    assert measured["logistic", "accuracy"].figure.estimate < 1.0
    assert measured["logistic", "loss"].figure.estimate > 0.0


def test_a_metric_that_the_rows_do_not_define_is_unmeasured(stage, make_claim):
    target = stage.table.target.name
    outcomes = stage.outcomes.with_columns(pl.Series(target, ["c0"] * stage.outcomes.height))
    measured = stage.measure(make_claim("accuracy", "roc_auc", 0.6), outcomes=outcomes)["logistic", "accuracy"]
    assert (measured.figure, measured.problem) == (None, "roc_auc is not defined on these rows")


def test_progress_names_what_is_measured(stage, make_claim):
    heard = []
    request = stage.request(make_claim("accuracy", "accuracy", 0.6), contenders=["logistic", "forest"])
    run(request, stage.blobs, heard.append, AutoClock(), None)
    assert [(each.done, each.total) for each in heard] == [(0, 2), (0, 2), (1, 2), (2, 2)]
    assert [each.message for each in heard[:3]] == [
        "answering every row held out",
        "accuracy of logistic",
        "accuracy of forest",
    ]
