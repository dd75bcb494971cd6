import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from datahall.core.errors import IntegrityError, UserError
from datahall.core.records import BundleManifest, Column
from datahall.engines.finish import decide, finish


def manifest(categories=("no", "yes"), *, threshold=None, settings=None):
    task = "classification" if categories else "regression"
    return BundleManifest(
        app="small",
        task=task,
        engine="sklearn",
        engine_settings=settings or {},
        features=(),
        target=Column(name="y", kind="category" if categories else "number", categories=categories),
        threshold=threshold,
        environment="",
        files={},
    )


def test_the_likeliest_class_is_the_label_and_the_first_on_a_tie():
    scores = np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4], [1 / 3, 1 / 3, 1 / 3]])
    answer = finish(manifest(("a", "b", "c")), scores)
    assert answer["label"].tolist() == ["b", "a", "a"]
    assert answer["label"].dtype == object
    np.testing.assert_array_equal(answer["probability"], scores)


def test_the_second_class_is_answered_from_the_threshold_on():
    scores = np.array([[0.71, 0.29], [0.7, 0.3], [0.69, 0.31]])
    assert finish(manifest(threshold=0.3), scores)["label"].tolist() == ["no", "yes", "yes"]


@example(500, 2e-7, None)  # an exact tie, which a draw would seldom meet
@example(500, -2e-7, None)
@example(250, -2e-7, 0.25)
@given(st.integers(0, 1000), st.floats(-2e-7, 2e-7), st.sampled_from([None, 0.25, 0.5, 0.8]))
def test_the_last_bits_of_an_engine_never_flip_a_label(thousandths, noise, threshold):
    p = thousandths / 1000  # shares of trees and the like, on which ties fall
    exact, rough = (np.array([[1 - x, x]]) for x in (p, p + noise))
    assert decide(exact, threshold) == decide(rough, threshold)


def test_control_unrounded_scores_would_flip():
    assert np.argmax([0.5, np.nextafter(0.5, 1)]) != np.argmax([0.5, 0.5])


def test_regression_answers_its_interval():
    interval = {"interval": {"confidence": 0.9, "half_width": 2.5}}
    answer = finish(manifest((), settings=interval), np.array([1.0, 10.0]))
    assert (answer["lower"].tolist(), answer["upper"].tolist()) == ([-1.5, 7.5], [3.5, 12.5])
    assert set(finish(manifest(()), np.array([1.0]))) == {"label"}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_is_refused_by_row(bad):
    with pytest.raises(UserError, match="row 1"):
        finish(manifest(()), np.array([1.0, bad]))
    with pytest.raises(UserError, match="row 1"):
        finish(manifest(), np.array([[0.5, 0.5], [0.5, bad]]))


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 2, 1)])
def test_scores_of_another_shape_are_refused(shape):
    with pytest.raises(IntegrityError):
        finish(manifest(), np.zeros(shape))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=4))
def test_law_labels_are_decided_on_what_numpy_rounds(row):
    scores = np.array([row])
    assert decide(scores, None) == np.argmax(np.round(scores, 6), axis=1)
    assert decide(scores, 0.3) == (np.round(scores, 6)[:, 1] >= 0.3)
