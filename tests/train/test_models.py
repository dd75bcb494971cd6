import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from datahall.core.errors import UserError
from datahall.core.records import Column
from datahall.testing.models import QUICK
from datahall.train import MODELS
from datahall.train.fit import evaluate_fit, fit_pipeline
from datahall.train.models.base import Choice, TrainableConfig
from datahall.train.table import Rows

FEATURES = tuple(Column(name=name, kind="number") for name in ("a", "b", "c"))
FITS = [(name, task) for name in MODELS.names for task in MODELS.load(name).TASKS]


def config_of(name, **settings):
    if name == "net":
        pytest.importorskip("torch", reason="pip install 'datahall[torch]' for the tests of nets")
    return MODELS.load(name).model_validate(QUICK[name] | settings)


def rows_for(task, num_rows=200, seed=0):
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(num_rows, 3)).astype(np.float32)
    signal = matrix[:, 0] - 0.5 * matrix[:, 1].astype(np.float64)
    return Rows(matrix, (signal > 0).astype(np.int64) if task == "classification" else 1000 + 50 * signal)


@pytest.mark.parametrize("name", MODELS.names)
def test_every_kind_has_described_settings_and_a_space_within_their_bounds(name):
    kind = MODELS.load(name)
    assert issubclass(kind, TrainableConfig)
    assert all(field.description for field in kind.model_fields.values())
    assert set(kind.SPACE) <= set(kind.model_fields) - {"columns"}
    for setting, room in kind.SPACE.items():
        ends = room.options if isinstance(room, Choice) else (room.low, room.high)
        for end in ends:
            whole = not isinstance(room, Choice) and room.whole
            kind.model_validate({setting: int(end) if whole else end})


def test_settings_are_read_without_numeric_libraries():
    code = (
        "import sys\n"
        "from datahall.train import MODELS\n"
        "[MODELS.load(name)() for name in MODELS.names]\n"
        "print(sorted({'numpy', 'sklearn', 'scipy', 'optuna', 'polars', 'skops', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", MODELS.names)
def test_unknown_and_impossible_settings_are_refused(name):
    kind = MODELS.load(name)
    for settings in ({"learning_rat": 1}, {"columns": "a"}, {"columns": [1]}):
        with pytest.raises(ValidationError):
            kind.model_validate(settings)


@pytest.mark.parametrize("name", MODELS.names)
def test_defaults_are_valid_candidates(name):
    kind = MODELS.load(name)
    for task in kind.TASKS:
        kind.model_validate(kind.default(task) or {})


def test_each_task_has_two_or_more_candidates_by_default():
    for task in ("classification", "regression"):
        fitting = [name for name in MODELS.names if task in MODELS.load(name).TASKS]
        assert sum(MODELS.load(name).default(task) is not None for name in fitting) >= 2


@pytest.mark.parametrize(("name", "task"), FITS)
def test_every_model_learns(name, task):
    slow = {"num_epochs": 150} if name in ("mlp", "net") else {}
    pipeline = fit_pipeline(config_of(name, **slow), rows_for(task), FEATURES, task, 1)
    figures, _ = evaluate_fit(pipeline, rows_for(task, seed=1), task)
    assert figures["accuracy" if task == "classification" else "r2"] > 0.75


@pytest.mark.parametrize(("name", "task"), FITS)
def test_only_the_chosen_columns_count(name, task):
    pipeline = fit_pipeline(config_of(name, columns=["a", "c"]), rows_for(task), FEATURES, task, 1)
    rows = rows_for(task, seed=1)
    moved = rows.matrix.copy()
    moved[:, 1] += 5
    np.testing.assert_array_equal(
        evaluate_fit(pipeline, rows, task)[1], evaluate_fit(pipeline, Rows(moved, rows.target), task)[1]
    )
    moved[:, 0] += 5
    assert (evaluate_fit(pipeline, rows, task)[1] != evaluate_fit(pipeline, Rows(moved, rows.target), task)[1]).any()


def test_columns_that_are_no_features_are_refused_with_the_nearest():
    features = (Column(name="radius", kind="number"), Column(name="texture", kind="number"), FEATURES[0])
    with pytest.raises(UserError, match="'radios' is no feature") as caught:
        fit_pipeline(
            config_of("logistic", columns=["radios"]), rows_for("classification"), features, "classification", 1
        )
    assert caught.value.hint == "did you mean 'radius'?"
    with pytest.raises(UserError, match="at least one feature"):
        fit_pipeline(config_of("logistic", columns=[]), rows_for("classification"), features, "classification", 1)


@pytest.mark.parametrize(("name", "differs"), [("forest", True), ("mlp", True), ("logistic", False)])
def test_the_seed_matters_where_the_model_draws(name, differs):
    rows = rows_for("classification")
    first, second = (fit_pipeline(config_of(name), rows, FEATURES, "classification", seed) for seed in (1, 2))
    scores = [evaluate_fit(fit, rows, "classification")[1] for fit in (first, second)]
    assert (scores[0] != scores[1]).any() == differs


def test_a_network_learns_a_target_far_from_zero():
    rows = rows_for("regression")
    pipeline = fit_pipeline(config_of("mlp", num_epochs=60), rows, FEATURES, "regression", 1)
    _, values = evaluate_fit(pipeline, rows, "regression")
    assert abs(values.mean() - rows.target.mean()) < 10
    constant = Rows(rows.matrix, np.full(200, 7.0))
    assert np.isfinite(
        evaluate_fit(fit_pipeline(config_of("mlp"), constant, FEATURES, "regression", 1), rows, "regression")[1]
    ).all()


def test_a_fit_that_fails_is_a_user_error():
    rows = rows_for("classification")
    one_class = Rows(rows.matrix, np.zeros(200, dtype=np.int64))
    with pytest.raises(UserError, match="cannot be fitted"):
        fit_pipeline(config_of("logistic"), one_class, FEATURES, "classification", 1)


def test_a_fit_that_diverges_is_a_user_error():
    class Diverged:
        def predict(self, matrix):
            return np.full(len(matrix), np.nan)

    with pytest.raises(UserError, match="diverged"):
        evaluate_fit(Diverged(), rows_for("regression"), "regression")


def nodes(num_rows, **settings):
    """Return the most nodes of a tree of a forest on rows of which nothing can be learnt: trees grow as they may."""
    random = np.random.default_rng(0)
    matrix = random.normal(size=(num_rows, 3)).astype(np.float32)
    rows = Rows(matrix, random.integers(0, 2, num_rows))
    pipeline = fit_pipeline(config_of("forest", num_trees=2, **settings), rows, FEATURES, "classification", 1)
    return max(tree.tree_.node_count for tree in pipeline.named_steps["model"].estimators_)


def test_the_trees_of_a_forest_do_not_grow_with_the_table():
    assert nodes(80_000) <= nodes(40_000) * 1.3 < 5_000
    assert nodes(40_000, tree_rows=1_000) < 1_000
    # The negative control: without the two settings a tree has about a leaf for every other row.
    assert nodes(40_000, tree_rows=40_000, min_leaf_rows=1) > 20_000


def test_small_tables_are_fitted_to_single_rows():
    assert nodes(2_000) == nodes(2_000, min_leaf_rows=1) > 400
