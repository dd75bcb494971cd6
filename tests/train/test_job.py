import json

import msgspec
import pytest

from datahall.core.errors import NotFoundError, UserError
from datahall.testing.clock import AutoClock
from datahall.testing.models import no_report, train_request
from datahall.testing.tables import TEAM, small_table
from datahall.train.job import run
from datahall.train.scores import METRICS

SEARCH = {"trials": 8, "timeout_s": None}


@pytest.fixture(scope="module")
def table(blobs):
    return small_table(blobs, task="classification", mixed=True)


@pytest.fixture(scope="module")
def numbers(blobs):
    return small_table(blobs, task="regression")


def test_one_fit_per_seed_with_every_metric(blobs, table):
    result = run(train_request(table, "forest", seeds=(5, 6, 7)), blobs, no_report)
    assert [fit.seed for fit in result.models] == [5, 6, 7]
    assert len({fit.model.digest for fit in result.models}) == 3
    assert all(set(fit.metrics) == set(METRICS["classification"]) for fit in result.models)
    assert result.parameters == {
        "model": "forest",
        "num_trees": 10,
        "tree_rows": 20_000,
        "class_weight": "none",
    }
    assert (result.num_trials, result.num_pruned) == (0, 0)
    assert json.loads(blobs.get(result.trials, team=TEAM)) == []


@pytest.mark.parametrize("model", ["boosting", "forest", "logistic", "mlp"])
def test_the_same_request_gives_the_same_models(blobs, table, model):
    first, second = (run(train_request(table, model), blobs, no_report) for _ in range(2))
    assert [fit.model.digest for fit in first.models] == [fit.model.digest for fit in second.models]
    assert [fit.metrics for fit in first.models] == [fit.metrics for fit in second.models]


def test_a_search_is_recorded_and_repeated_alike(blobs, table):
    asked = train_request(table, "boosting", search=SEARCH, search_metric="log_loss", seeds=(1, 2))
    first, second = (run(asked, blobs, no_report, clock=AutoClock()) for _ in range(2))
    assert first.parameters == second.parameters
    assert [fit.model.digest for fit in first.models] == [fit.model.digest for fit in second.models]
    assert first.trials.digest == second.trials.digest
    trials = json.loads(blobs.get(first.trials, team=TEAM))
    assert first.num_trials == len(trials) == 8
    assert first.num_pruned == sum(trial["state"] == "pruned" for trial in trials)
    assert trials[0].keys() == {"number", "params", "value", "state", "rungs", "duration_s", "reason"}
    best = min((trial for trial in trials if trial["state"] == "complete"), key=lambda trial: trial["value"])
    assert first.parameters.items() >= best["params"].items()
    assert first.models[0].metrics["log_loss"] == pytest.approx(best["value"])


def test_regression_fits_carry_their_half_width(blobs, numbers):
    (fit,) = run(train_request(numbers, "ridge"), blobs, no_report).models
    assert set(fit.metrics) == {*METRICS["regression"], "interval_half_width_90"}
    assert fit.metrics["interval_half_width_90"] > fit.metrics["mae"]


def test_progress_goes_from_trials_to_seeds(blobs, table):
    heard = []
    run(train_request(table, "logistic", search={"trials": 2}, seeds=(1, 2)), blobs, heard.append)
    assert [progress.done for progress in heard] == [1, 2, 2, 3, 3, 4]
    assert {progress.total for progress in heard} == {4}
    assert heard[0].message.startswith("trial 1 of 2: accuracy 0.")
    assert [progress.message for progress in heard[2:]] == [
        "fitting seed 1 on 300 rows",
        "fitted seed 1",
        "fitting seed 2 on 300 rows",
        "fitted seed 2",
    ]
    assert "accuracy" in heard[-1].figures


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"model": "svm"}, NotFoundError, "no model 'svm'"),
        ({"model": "ridge"}, UserError, "'ridge' is no model for classification"),
        ({"settings": {"penalty": -1.0}}, UserError, "train.candidates.logistic.penalty"),
        ({"settings": {"penalti": 1.0}}, UserError, "train.candidates.logistic.penalti"),
        ({"settings": {"columns": ["nothing"]}}, UserError, "'nothing' is no feature"),
        ({"search": {"trails": 3}}, UserError, "train.candidates.logistic.search"),
        ({"search": {"trials": 3}, "search_metric": "r2"}, UserError, "cannot use 'r2'"),
        ({"seeds": ()}, UserError, "at least one seed"),
    ],
)
def test_requests_that_make_no_sense_are_refused(blobs, table, changes, error, said):
    with pytest.raises(error) as caught:
        run(msgspec.structs.replace(train_request(table, "logistic"), **changes), blobs, no_report)
    assert said in str(caught.value)


def test_requests_and_results_survive_the_way_to_another_process(blobs, table):
    asked = train_request(table, "mlp", settings={"layers": [8], "num_epochs": 2})
    again = msgspec.json.decode(msgspec.json.encode(asked), type=type(asked))
    result = run(again, blobs, no_report)
    assert msgspec.json.decode(msgspec.json.encode(result), type=type(result)) == result
