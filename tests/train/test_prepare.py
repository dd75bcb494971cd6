import numpy as np
import pytest

from datahall.core.records import Column
from datahall.engines.encode import CODE_MISSING, CODE_UNSEEN
from datahall.train.prepare import build_preparation

NUMBER = Column(name="n", kind="number")
BOOLEAN = Column(name="b", kind="boolean", nullable=True)
CITY = Column(name="c", kind="category", categories=("athens", "bonn"))
MAYBE = Column(name="m", kind="category", categories=("x",), nullable=True)


def prepared(features, train, rows, *, scaled=False, columns=None):
    preparation = build_preparation(features, columns, scaled=scaled).fit(np.array(train, dtype=float))
    return preparation.transform(np.array(rows, dtype=float)).tolist()


def test_missing_numbers_become_the_training_median():
    assert prepared((NUMBER,), [[1], [2], [9]], [[np.nan], [5]]) == [[2], [5]]


def test_numbers_are_scaled_by_the_training_rows():
    assert prepared((NUMBER,), [[1], [3]], [[5], [np.nan]], scaled=True) == [[3], [0]]


def test_missing_booleans_become_the_commoner_value():
    assert prepared((BOOLEAN,), [[1], [1], [0]], [[np.nan], [0]]) == [[1], [0]]


def test_an_unseen_category_is_all_zero_and_so_is_a_gap_that_training_never_had():
    rows = [[0], [1], [CODE_UNSEEN], [CODE_MISSING]]
    assert prepared((CITY,), [[0], [1]], rows) == [[1, 0], [0, 1], [0, 0], [0, 0]]


def test_a_nullable_category_has_a_column_for_missing():
    assert prepared((MAYBE,), [[0], [CODE_MISSING]], [[0], [CODE_MISSING], [CODE_UNSEEN]]) == [[0, 1], [1, 0], [0, 0]]


@pytest.mark.parametrize("scaled", [True, False])
def test_an_empty_column_keeps_its_place(scaled):
    two = (NUMBER, Column(name="e", kind="number"))
    width = prepared(two, [[1, np.nan], [3, np.nan]], [[2, 4]], scaled=scaled)
    assert len(width[0]) == 2
    assert np.isfinite(width).all()
