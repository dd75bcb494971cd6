import numpy as np
import pytest

from datahall.core.records import BundleManifest, Column
from datahall.engines.finish import finish
from datahall.optimize.prove import NUM_SINGLE_ROWS, TOLERANCE, compare


class Fixed:
    """Answers by adding `shift` to what it is given; `alone` to rows that come one by one."""

    def __init__(self, task, shift=0.0, *, alone=0.0):
        numbers = task == "regression"
        self.manifest = BundleManifest(
            app="small",
            task=task,
            engine="sklearn",
            engine_settings={},
            features=(Column(name="x", kind="number"),),
            target=Column(name="y", kind="number" if numbers else "category", categories=() if numbers else ("a", "b")),
            threshold=None,
            environment="",
            files={},
        )
        self.shift, self.alone, self.calls = shift, alone, 0

    def predict(self, columns):
        self.calls += 1
        x = columns["x"] + self.shift + (self.alone if len(columns["x"]) == 1 else 0)
        return finish(self.manifest, x if self.manifest.task == "regression" else np.column_stack([1 - x, x]))


def table(*values):
    return {"x": np.array(values, dtype=np.float64)}


def test_equal_answers_are_equal_over_all_tables():
    told = compare(Fixed("classification"), Fixed("classification"), (table(0.1, 0.9), table(0.5)))
    assert (told.equal, told.num_rows, told.num_label_flips, told.max_abs_difference, told.reason) == (
        True,
        3,
        0,
        0,
        "",
    )


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_tolerance_is_a_bound(task):
    rows = (table(0.1, 0.9, 0.3),)
    scale = 1.0 if task == "classification" else np.std([0.1, 0.9, 0.3])  # of the smallest value
    within, beyond = (compare(Fixed(task), Fixed(task, part * TOLERANCE * scale), rows) for part in (0.99, 1.01))
    assert (within.equal, beyond.equal) == (True, False)
    assert "differ by up to 1.01e-05" in beyond.reason


def test_one_flipped_label_is_enough():
    told = compare(Fixed("classification"), Fixed("classification", 4e-6), (table(0.1, 0.499997, 0.9),))
    assert (told.equal, told.num_label_flips) == (False, 2)  # in the batch, and alone


def test_rows_that_differ_only_when_alone_are_found():
    told = compare(Fixed("regression"), Fixed("regression", alone=0.1), (table(*np.linspace(1, 2, 1000)),))
    assert not told.equal


def test_the_first_row_is_among_those_answered_alone():
    assert not compare(Fixed("regression"), Fixed("regression", alone=0.1), (table(1.0),)).equal


def test_a_table_costs_one_batch_and_a_bounded_number_of_single_rows():
    other = Fixed("regression")
    compare(Fixed("regression"), other, (table(*np.linspace(1, 2, 1000)),))
    assert other.calls == 1 + NUM_SINGLE_ROWS


def test_values_near_zero_are_measured_by_the_spread_of_all():
    rows = (table(-1000.0, 0.0, 1000.0),)
    assert compare(Fixed("regression"), Fixed("regression", 1e-3), rows).equal
    assert not compare(Fixed("regression"), Fixed("regression", 1e-1), rows).equal


def test_a_model_that_always_answers_zero_can_be_compared():
    rows = (table(0.0, 0.0),)
    assert compare(Fixed("regression"), Fixed("regression"), rows).equal
    assert not compare(Fixed("regression"), Fixed("regression", 1e-3), rows).equal


def test_no_rows_prove_nothing():
    told = compare(Fixed("classification"), Fixed("classification"), (table(),))
    assert (told.equal, told.num_rows, told.reason) == (False, 0, "there were no rows to compare")
