import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.core.errors import DataError
from datahall.core.records import Column
from datahall.data.frames import to_parquet
from datahall.train.table import Rows, check_classes, load_rows, nested_parts

LEVEL = Column(name="level", kind="category", categories=("high", "low"))
SHARES = (0.25, 0.5, 1.0)


def rows_of(target):
    return Rows(np.arange(len(target), dtype=np.float32).reshape(-1, 1), np.array(target))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 5))
def test_parts_grow_and_every_class_is_in_each(target, seed):
    rows = rows_of(target)
    parts = nested_parts(rows, "classification", seed, SHARES)
    held = [set(part.matrix[:, 0].tolist()) for part in parts]
    assert held[0] <= held[1] <= held[2] == set(rows.matrix[:, 0].tolist())
    assert all(set(part.target.tolist()) == set(target) for part in parts)
    np.testing.assert_array_equal(parts[-1].matrix, rows.matrix)


@given(st.integers(1, 200))
def test_parts_of_a_regression_have_their_shares(num_rows):
    parts = nested_parts(rows_of(np.linspace(0, 1, num_rows)), "regression", 0, SHARES)
    assert [len(part) for part in parts] == [int(np.ceil(num_rows * share)) for share in SHARES]


def stored(blobs, **columns):
    return blobs.put(to_parquet(pl.DataFrame(columns)), team="main")


def load(blobs, grant, target=LEVEL):
    return load_rows(blobs, grant, team="main", features=(Column(name="x", kind="number"),), target=target)


def test_classes_become_their_index(blobs):
    rows = load(blobs, stored(blobs, x=[1.0, 2.0], level=["low", "high"]))
    assert (rows.target.tolist(), rows.matrix.tolist()) == ([1, 0], [[1.0], [2.0]])


@pytest.mark.parametrize(
    ("columns", "target", "said"),
    [
        ({"x": [1.0], "level": ["middle"]}, LEVEL, "no known class: middle"),
        ({"x": [1.0], "level": pl.Series([None], dtype=pl.String)}, LEVEL, "no known class: None"),
        ({"x": pl.Series([], dtype=pl.Float64), "level": pl.Series([], dtype=pl.String)}, LEVEL, "no rows"),
        (
            {"x": [1.0], "y": pl.Series([None], dtype=pl.Float64)},
            Column(name="y", kind="number"),
            "missing or infinite",
        ),
        ({"x": [1.0], "y": [float("inf")]}, Column(name="y", kind="number"), "missing or infinite"),
    ],
)
def test_rows_that_cannot_be_learnt_from_are_refused(blobs, columns, target, said):
    with pytest.raises(DataError, match=said):
        load(blobs, stored(blobs, **columns), target)


def test_a_class_without_a_training_row_is_refused():
    check_classes(rows_of([0, 1]), LEVEL)
    with pytest.raises(DataError, match="class low of 'level'"):
        check_classes(rows_of([0, 0]), LEVEL)
