"""Checks fitted trees before anything walks them: their compiled code trusts every index it is given."""

from __future__ import annotations

from typing import Any

import numpy as np

from datahall.core.errors import IntegrityError

_LEAF = -1  # scikit-learn's mark for "no child"


def check_trees(pipeline: Any) -> None:
    """Raise IntegrityError where a tree of the pipeline's model would leave its own arrays, or never end.

    In a tree that scikit-learn has grown, both children of a node come after it; so every walk goes forward, within
    the nodes, and ends.
    """
    model = pipeline[-1] if hasattr(pipeline, "steps") else pipeline
    num_features = int(getattr(model, "n_features_in_", 0))
    for estimator in getattr(model, "estimators_", ()):
        tree = estimator.tree_
        inner = tree.children_left != _LEAF
        _check(inner, tree.children_left, tree.children_right, tree.feature, num_features)
        if tree.n_features > num_features or (tree.children_right[~inner] != _LEAF).any():
            raise IntegrityError("the model holds a tree that scikit-learn has not grown")
    for round_ in getattr(model, "_predictors", ()):
        for predictor in round_:
            nodes = predictor.nodes
            if nodes["is_categorical"].any():
                raise IntegrityError("the model holds a tree with splits that our models do not make")
            _check(nodes["is_leaf"] == 0, nodes["left"], nodes["right"], nodes["feature_idx"], num_features)


def _check(inner: np.ndarray, left: np.ndarray, right: np.ndarray, feature: np.ndarray, num_features: int) -> None:
    places = np.flatnonzero(inner)
    if not len(inner):
        raise IntegrityError("the model holds a tree without nodes")
    for child in (left, right):
        # As Python-sized integers: an unsigned index must not wrap into the allowed range.
        reached = child[places].astype(np.int64)
        if (reached <= places).any() or (reached >= len(inner)).any():
            raise IntegrityError("the model holds a tree that leads out of itself")
    split = feature[places].astype(np.int64)
    if (split < 0).any() or (split >= num_features).any():
        raise IntegrityError("the model holds a tree that asks for a feature that it is not given")
