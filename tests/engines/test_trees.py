import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from datahall.core.errors import IntegrityError
from datahall.engines.skops import dump_model, load_model
from datahall.engines.trees import check_trees

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(200, 3))
TARGET = (ROWS[:, 0] + ROWS[:, 1] > 0).astype(int)


@pytest.fixture
def forest():
    return RandomForestClassifier(3, random_state=0).fit(ROWS, TARGET)


@pytest.fixture
def booster():
    model = HistGradientBoostingClassifier(max_iter=3, early_stopping=False).fit(ROWS, TARGET)
    model._feature_subsample_rng = None
    return model


def test_trees_that_were_grown_pass(forest, booster):
    check_trees(forest)
    check_trees(booster)


def test_a_child_one_behind_the_last_node_is_refused(forest, booster):
    tree, nodes = forest.estimators_[0].tree_, booster._predictors[0][0].nodes
    tree.children_right[0] = tree.node_count
    nodes["right"][0] = len(nodes)
    for model in (forest, booster):
        with pytest.raises(IntegrityError, match="out of itself"):
            check_trees(model)
        with pytest.raises(IntegrityError, match="out of itself"):
            check_trees(Pipeline([("prepare", StandardScaler()), ("model", model)]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("children_left", 10**6),
        ("children_left", 0),
        ("children_right", 10**6),
        ("children_right", -7),
        ("feature", 3),
        ("feature", -1),
    ],
)
def test_a_forest_that_leads_astray_is_refused(forest, field, value):
    getattr(forest.estimators_[1].tree_, field)[0] = value
    raw = dump_model(forest)
    with pytest.raises(IntegrityError, match="the model holds a tree"):
        load_model(raw)


@pytest.mark.parametrize(
    ("field", "value"),
    [("left", 10**6), ("left", 0), ("right", 2**32 - 1), ("feature_idx", 3), ("is_categorical", 1)],
)
def test_a_booster_that_leads_astray_is_refused(booster, field, value):
    booster._predictors[1][0].nodes[field][0] = value
    raw = dump_model(booster)
    with pytest.raises(IntegrityError, match="the model holds a tree"):
        load_model(raw)
