"""What each claim measures, against scikit-learn, fairlearn and plain counting."""

import msgspec
import numpy as np
import pytest
from fairlearn.metrics import demographic_parity_difference, demographic_parity_ratio, equalized_odds_difference
from sklearn import metrics as sk

from datahall.data.frames import load_columns
from datahall.evaluate.rows import load_rows
from datahall.stats.intervals import clopper_pearson
from datahall.testing.clock import AutoClock
from datahall.testing.tables import TEAM


def truth_of(stage):
    return stage.outcomes[stage.table.target.name].to_numpy()


def answers_of(stage, name):
    predictor = stage.predictor(name)
    rows = load_columns(stage.blobs.get(stage.table.holdout, team=TEAM), stage.table.features)
    return predictor.predict(rows)


def test_accuracy_is_bounded_exactly(stage, make_claim):
    measured = stage.measure(make_claim("accuracy", "accuracy", 0.7))["logistic", "accuracy"]
    label, truth = answers_of(stage, "logistic")["label"], truth_of(stage)
    figure = measured.figure
    assert figure.estimate == pytest.approx(sk.accuracy_score(truth, label))
    assert (figure.lower, figure.upper) == pytest.approx(clopper_pearson((truth == label).sum(), 400, 0.025))
    assert (figure.num, figure.alpha, figure.method) == (400, 0.025, "Clopper-Pearson")
    assert measured.details["bootstrap"]["lower"] == pytest.approx(figure.lower, abs=0.02)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "f1", "roc_auc", "log_loss"])
def test_other_metrics_are_bootstrapped(stage, make_claim, metric):
    direction = "at_most" if metric == "log_loss" else "at_least"
    measured = stage.measure(make_claim("accuracy", metric, 0.7, direction=direction))["logistic", "accuracy"]
    answer, truth = answers_of(stage, "logistic"), truth_of(stage)
    second = answer["probability"][:, 1]
    expected = {
        "balanced_accuracy": lambda: sk.balanced_accuracy_score(truth, answer["label"]),
        "f1": lambda: sk.f1_score(truth, answer["label"], pos_label="c1"),
        "roc_auc": lambda: sk.roc_auc_score(truth == "c1", second),
        "log_loss": lambda: sk.log_loss(truth, np.stack([1 - second, second], axis=1), labels=["c0", "c1"]),
    }[metric]()
    assert measured.figure.estimate == pytest.approx(expected, rel=1e-5)
    assert measured.figure.lower < measured.figure.estimate < measured.figure.upper


@pytest.mark.parametrize("metric", ["r2", "mae", "rmse"])
def test_metrics_of_regression(regression, make_claim, metric):
    direction = "at_least" if metric == "r2" else "at_most"
    measured = regression.measure(make_claim("accuracy", metric, 0.5, direction=direction))["ridge", "accuracy"]
    label, truth = answers_of(regression, "ridge")["label"], truth_of(regression)
    expected = {"r2": sk.r2_score, "mae": sk.mean_absolute_error, "rmse": sk.root_mean_squared_error}[metric]
    assert measured.figure.estimate == pytest.approx(expected(truth, label))
    assert measured.figure.lower < measured.figure.estimate < measured.figure.upper


def test_repeated_people_widen_the_bounds(stage, make_claim):
    one = make_claim("accuracy", "accuracy", 0.7)
    free = stage.measure(one)["logistic", "accuracy"]
    tied = stage.measure(one, outcomes=stage.with_subjects())["logistic", "accuracy"]
    assert tied.details["by_subject"]
    assert tied.figure.estimate == free.figure.estimate
    assert tied.figure.lower <= free.figure.lower


class TestImprovement:
    def test_without_a_champion_the_majority_is_the_rival(self, stage, make_claim):
        measured = stage.measure(make_claim("improvement", "accuracy", 0.0))["logistic", "improvement"]
        truth = truth_of(stage)
        assert measured.champion is None
        assert measured.details["compared_with"] == "majority class or mean"
        assert measured.details["rival"] in (np.mean(truth == "c0"), np.mean(truth == "c1"))
        assert measured.figure.lower > 0.1
        assert measured.details["p_values"] == [measured.figure.p_value]

    def test_a_copy_of_the_champion_is_no_better(self, stage, make_claim):
        champion = stage.contenders["logistic"]
        one = make_claim("improvement", "accuracy", 0.0)
        measured = stage.measure(one, champion=champion)["logistic", "improvement"]
        assert measured.champion == champion.bundle
        assert measured.figure.estimate == 0.0
        assert measured.figure.lower <= 0.0
        assert measured.figure.p_value >= 0.5

    def test_all_candidates_of_a_look_know_each_others_p_values(self, stage, make_claim):
        both = stage.measure(make_claim("improvement", "accuracy", 0.0), contenders=["logistic", "forest"])
        first, second = both["logistic", "improvement"], both["forest", "improvement"]
        assert first.details["p_values"] == second.details["p_values"]
        assert first.details["p_values"] == [first.figure.p_value, second.figure.p_value]
        assert (first.num_candidates, first.figure.alpha) == (2, 0.0125)

    def test_a_lower_error_is_an_improvement(self, regression, make_claim):
        one = make_claim("improvement", "mae", 0.0)
        champion = regression.contenders["ridge"]
        measured = regression.measure(one, contenders=["forest"], champion=champion)["forest", "improvement"]
        assert measured.figure.estimate == pytest.approx(measured.details["rival"] - measured.details["candidate"])
        assert measured.figure.lower > 0.0

    def test_the_mean_is_the_baseline_of_regression(self, regression, make_claim):
        measured = regression.measure(make_claim("improvement", "rmse", 0.0))["ridge", "improvement"]
        assert measured.details["rival"] == pytest.approx(truth_of(regression).std(), rel=0.1)


class TestStability:
    def test_churn_counts_rows_that_hang_on_the_seed(self, stage, make_claim):
        one = make_claim("stability", "churn", 0.2, direction="at_most")
        both = stage.measure(one, contenders=["logistic", "forest"])
        assert both["logistic", "stability"].figure.estimate == 0.0
        assert 0.0 < both["logistic", "stability"].figure.upper < 0.03
        forest = both["forest", "stability"]
        assert forest.figure.estimate >= max(forest.details["by_seed"]) > 0.0
        assert forest.details["num_seeds"] == 3

    def test_spread_and_worst_seed(self, stage, make_claim):
        spread = make_claim("stability", "sd", 0.05, name="sd", direction="at_most", of="roc_auc")
        worst = make_claim("stability", "worst_seed", 0.5, name="worst")
        measured = stage.measure(spread, worst, contenders=["forest"])
        sd = measured["forest", "sd"]
        assert sd.figure.estimate == pytest.approx(np.std(sd.details["by_seed"], ddof=1))
        assert sd.figure.lower < sd.figure.estimate < sd.figure.upper
        assert measured["forest", "worst"].figure.estimate == min(measured["forest", "worst"].details["by_seed"])

    def test_one_seed_is_no_evidence(self, stage, make_claim):
        alone = msgspec.structs.replace(stage.contenders["forest"], seed_bundles=())
        one = make_claim("stability", "churn", 0.2, direction="at_most")
        measured = stage.measure(one, contenders=[alone])["forest", "stability"]
        assert measured.figure is None
        assert measured.problem == "1 seed(s) were fitted, stability needs 3 (train.seeds)"


class TestCalibration:
    def test_error_of_classification(self, stage, make_claim):
        one = make_claim("calibration", "ece", 0.1, direction="at_most", bins=5)
        measured = stage.measure(one)["logistic", "calibration"]
        assert len(measured.details["bins"]) == 5
        assert sum(each["num"] for each in measured.details["bins"]) == 400
        assert measured.figure.lower <= measured.figure.estimate <= measured.details["plain"] < measured.figure.upper

    def test_coverage_of_regression(self, regression, make_claim):
        measured = regression.measure(make_claim("calibration", "coverage", 0.8))["ridge", "calibration"]
        answer, truth = answers_of(regression, "ridge"), truth_of(regression)
        assert measured.figure.estimate == np.mean((answer["lower"] <= truth) & (truth <= answer["upper"]))
        assert measured.figure.lower > 0.8
        assert measured.details["promised"] == 0.9


class TestFairness:
    @pytest.mark.parametrize(
        ("metric", "theirs"),
        [
            ("demographic_parity_difference", demographic_parity_difference),
            ("equalized_odds_difference", equalized_odds_difference),
            ("selection_ratio", demographic_parity_ratio),
        ],
    )
    @pytest.mark.parametrize("column", ["sex", "age"])
    def test_estimates_are_fairlearns(self, stage, make_claim, metric, theirs, column):
        direction = "at_least" if metric == "selection_ratio" else "at_most"
        one = make_claim("fairness", metric, 0.2, direction=direction, column=column)
        measured = stage.measure(one)["logistic", "fairness"]
        judged = measured.details["judged"]
        answer, truth = answers_of(stage, "logistic")["label"] == "c1", truth_of(stage) == "c1"
        groups = group_names(stage, column)
        inside = np.isin(groups, judged)
        expected = theirs(truth[inside], answer[inside], sensitive_features=groups[inside])
        assert measured.figure.estimate == pytest.approx(expected)
        assert measured.figure.lower <= expected <= measured.figure.upper

    def test_small_groups_are_reported_and_not_judged(self, stage, make_claim):
        one = make_claim("fairness", "accuracy_difference", 0.2, direction="at_most", column="age")
        measured = stage.measure(one)["logistic", "fairness"]
        assert "(missing)" not in measured.details["judged"]
        assert measured.groups["(missing)/accuracy"].num < 30

    def test_what_cannot_be_measured_says_why(self, stage, make_claim):
        claims = [
            make_claim("fairness", "demographic_parity_difference", 0.1, name="a", direction="at_most", column="race"),
            make_claim("fairness", "selection_ratio", 0.1, name="b", direction="at_most", column="sex", positive="yes"),
        ]
        measured = stage.measure(*claims)
        assert measured["logistic", "a"].problem == "there is no sensitive column 'race' in the holdout"
        assert "names none of the target's classes" in measured["logistic", "b"].problem


def group_names(stage, column):
    request = stage.request()
    get = stage.blobs.get
    rows = load_rows(
        get(request.holdout_inputs, team=TEAM),
        get(request.holdout_outcomes, team=TEAM),
        target=request.target,
        sensitive=request.sensitive,
    )
    return rows.groups[column].astype(str)


class TestLatency:
    def measure(self, stage, make_claim, replica, metric="latency_ms_p95", **settings):
        contender = msgspec.structs.replace(stage.contenders["logistic"], address="/run/replica")
        settings = {"requests": 200, "warm_up": 5, **settings}
        one = make_claim("latency", metric, 10.0, direction="at_most", **settings)
        found = []

        def open_answerer(address):
            found.append(address)
            return replica

        measured = stage.measure(one, contenders=[contender], clock=replica.clock, open_answerer=open_answerer)
        assert found == ["/run/replica"]
        assert replica.closed
        return measured["logistic", "latency"]

    def test_a_percentile_is_bounded_by_order_statistics(self, stage, make_claim, make_replica):
        slow_one_in_ten = (*[2.0] * 9, 7.0)
        replica = make_replica(stage.predictor("logistic"), AutoClock(), slow_one_in_ten)
        measured = self.measure(stage, make_claim, replica)
        assert (measured.figure.lower, measured.figure.estimate, measured.figure.upper) == (7.0, 7.0, 7.0)
        assert measured.details["latency_ms_p50"] == 2.0
        assert (measured.figure.num, measured.node_class, replica.num_answered) == (200, "node", 206)

    def test_too_few_requests_cannot_bound_a_far_percentile(self, stage, make_claim, make_replica):
        replica = make_replica(stage.predictor("logistic"), AutoClock())
        assert self.measure(stage, make_claim, replica, "latency_ms_p99").figure.upper is None
        again = make_replica(stage.predictor("logistic"), AutoClock())
        assert self.measure(stage, make_claim, again, "latency_ms_p99", requests=1000).figure.upper == 1.0

    def test_on_a_timetable_waiting_counts(self, stage, make_claim, make_replica):
        one_stall = (1.0,) * 100 + (100.0,) + (1.0,) * 1000
        clock = AutoClock()
        closed = self.measure(stage, make_claim, make_replica(stage.predictor("logistic"), clock, one_stall))
        assert closed.figure.upper == 1.0
        replica = make_replica(stage.predictor("logistic"), AutoClock(), one_stall)
        opened = self.measure(stage, make_claim, replica, rate_per_s=500)
        assert opened.figure.upper > 50.0
        assert (opened.details["loop"], closed.details["loop"]) == ("open", "closed")

    def test_another_bundles_replica_is_not_measured(self, stage, make_claim, make_replica):
        predictor = stage.predictor("logistic")

        class Liar:
            def predict(self, columns):
                said = predictor.predict(columns)
                return {"label": np.where(said["label"] == "c0", "c1", "c0").astype(object)}

        measured = self.measure(stage, make_claim, make_replica(Liar(), AutoClock()))
        assert measured.problem == "the replica does not answer like the bundle that is measured"

    def test_a_replica_that_goes_away_is_no_evidence(self, stage, make_claim, make_replica):
        replica = make_replica(stage.predictor("logistic"), AutoClock(), (1.0,) * 30 + (None,))
        measured = self.measure(stage, make_claim, replica)
        assert (measured.figure, measured.problem) == (None, "the replica is gone")

    def test_without_a_replica_there_is_nothing_to_measure(self, stage, make_claim):
        one = make_claim("latency", "latency_ms_p95", 10.0, direction="at_most")
        assert stage.measure(one)["logistic", "latency"].problem == "no replica was started to be measured"
