import numpy as np
import pytest

from datahall.core.errors import UserError
from datahall.core.records import Column
from datahall.testing.clock import AutoClock
from datahall.train import MODELS
from datahall.train.models.base import EstimatorConfig, Range
from datahall.train.search import RUNGS, Assignment, SearchSettings, open_space, search
from datahall.train.table import Rows

FEATURES = tuple(Column(name=name, kind="number") for name in ("a", "b"))


def rows(seed, num_rows=160):
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(num_rows, 2)).astype(np.float32)
    return Rows(matrix, (np.hypot(matrix[:, 0], matrix[:, 1]) > 1.1).astype(np.int64))


def assignment(config, *, metric="log_loss", seed=3):
    return Assignment(
        config=config,
        task="classification",
        features=FEATURES,
        train=rows(1),
        validation=rows(2),
        metric=metric,
        seed=seed,
    )


def boosting(**settings):
    return MODELS.load("boosting").model_validate({"num_rounds": 8, **settings})


def run(asked, trials=14, clock=None, **limits):
    told = []
    found = search(
        asked, SearchSettings(trials=trials, **limits), clock or AutoClock(), lambda *heard: told.append(heard)
    )
    assert [trial for trial, _ in told] == list(found.trials)
    return found, [best for _, best in told]


def test_a_search_prunes_and_ends_no_worse_than_the_settings_it_began_with():
    found, bests = run(assignment(boosting()))
    states = [trial.state for trial in found.trials]
    assert states.count("pruned") >= 2
    assert states[0] == "complete"
    assert len(states) == 14
    assert all(len(trial.rungs) < len(RUNGS) for trial in found.trials if trial.state == "pruned")
    complete = [trial for trial in found.trials if trial.state == "complete"]
    best = min(complete, key=lambda trial: trial.value)
    assert {name: getattr(found.config, name) for name in best.params} == best.params
    assert best.value <= complete[0].value
    assert bests == sorted(bests)


def test_equal_assignments_give_equal_trials_and_another_seed_others():
    first, second = (run(assignment(boosting()))[0] for _ in range(2))
    assert first.trials == second.trials
    assert run(assignment(boosting(), seed=4))[0].trials != first.trials


def test_the_first_trial_is_the_settings_as_they_stand():
    found, _ = run(assignment(boosting()), trials=1)
    assert found.config == boosting()
    assert found.trials[0].params["learning_rate"] == boosting().learning_rate


def test_what_a_person_chose_stays():
    assert "num_rounds" not in open_space(boosting())
    found, _ = run(assignment(boosting(learning_rate=0.2)), trials=6)
    assert all(trial.params.keys().isdisjoint({"num_rounds", "learning_rate"}) for trial in found.trials)
    assert (found.config.num_rounds, found.config.learning_rate) == (8, 0.2)


def test_a_search_with_nothing_to_vary_is_refused():
    config = MODELS.load("ridge").model_validate({"penalty": 2.0})
    with pytest.raises(UserError, match="nothing to vary") as caught:
        open_space(config)
    assert "penalty" in caught.value.hint


def test_no_trial_begins_after_the_time_limit():
    class TickingClock(AutoClock):
        """Each look at it takes a second."""

        def monotonic_ns(self):
            self.advance(1)
            return super().monotonic_ns()

    assert len(run(assignment(boosting()), clock=TickingClock(), timeout_s=8.0)[0].trials) == 3
    assert len(run(assignment(boosting()), clock=TickingClock(), timeout_s=0.5)[0].trials) == 1


class Fragile(EstimatorConfig):
    TASKS = ("classification",)
    SPACE = {"power": Range(0.0, 1.0)}  # noqa: RUF012  (a test's own kind)
    SCALED = False
    power: float = 0.9

    def build(self, task, seed):
        return MODELS.load("logistic")().build(task, seed)

    def fit(self, estimator, features, target):
        if self.power < 0.6:
            raise ValueError("too weak")
        return super().fit(estimator, features, target)


class Weak(Fragile):
    power: float = 0.5
    SPACE = {"power": Range(0.0, 0.5)}  # noqa: RUF012  (as above)


def test_a_trial_that_fails_ends_itself_only():
    found, _ = run(assignment(Fragile()), trials=8)
    failed = [trial for trial in found.trials if trial.state == "failed"]
    assert failed
    assert len(found.trials) == 8
    assert {(trial.value, trial.reason) for trial in failed} == {(None, "the model cannot be fitted: too weak")}
    assert found.config.power >= 0.6


def test_a_search_of_failures_only_is_refused_with_the_reason():
    with pytest.raises(UserError, match=r"every trial of the search failed; the last: .*too weak"):
        run(assignment(Weak()), trials=1)


@pytest.mark.parametrize("name", ["forest", "logistic", "mlp"])
def test_every_space_can_be_searched(name):
    quick = {"forest": {"num_trees": 5}, "logistic": {}, "mlp": {"num_epochs": 3}}[name]
    found, _ = run(assignment(MODELS.load(name).model_validate(quick), metric="accuracy"), trials=7)
    assert {trial.state for trial in found.trials} <= {"complete", "pruned"}


def test_a_metric_of_the_other_task_is_refused():
    with pytest.raises(UserError, match="cannot use 'rmse'"):
        run(assignment(boosting(), metric="rmse"))
