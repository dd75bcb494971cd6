import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.core.errors import UserError
from datahall.core.records import Column
from datahall.engines.encode import CODE_MISSING, CODE_UNSEEN, Encoder, encode

FEATURES = (
    Column(name="size", kind="number"),
    Column(name="member", kind="boolean"),
    Column(name="city", kind="category", categories=("athens", "bonn")),
)


def columns(**changes):
    good = {
        "size": np.array([1.5, np.nan, -2.0]),
        "member": np.array([0.0, 1.0, np.nan]),
        "city": np.array(["bonn", None, "quito"], dtype=object),
    }
    return good | changes


def test_columns_become_a_float32_matrix_in_the_manifests_order():
    matrix = encode(dict(reversed(columns().items())), FEATURES)
    expected = np.array(
        [[1.5, 0, 1], [np.nan, 1, CODE_MISSING], [-2, np.nan, CODE_UNSEEN]],
        dtype=np.float32,
    )
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, expected)


def test_no_rows_are_allowed():
    none = {"size": np.array([]), "member": np.array([]), "city": np.array([], dtype=object)}
    assert encode(none, FEATURES).shape == (0, 3)


def test_the_largest_float32_is_still_a_number():
    largest = float(np.finfo(np.float32).max)
    assert encode({"size": np.array([largest, -largest])}, FEATURES[:1])[:, 0].tolist() == [largest, -largest]


def test_whole_numbers_and_truth_values_are_numbers_too():
    matrix = encode(columns(size=np.array([1, 2, 3]), member=np.array([True, False, True])), FEATURES)
    assert matrix[:, :2].tolist() == [[1, 1], [2, 0], [3, 1]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": None}, "column 'size' is not a one-dimensional array"),
        ({"size": [1.0, 2.0, 3.0]}, "column 'size' is not a one-dimensional array"),
        ({"size": np.zeros((3, 1))}, "column 'size' is not a one-dimensional array"),
        ({"size": np.zeros(2)}, "different numbers of rows: 'size' has 2, 'member' has 3"),
        ({"size": np.array(["1", "2", "3"])}, "column 'size' takes numbers"),
        ({"size": np.array([1.0, None, 2.0], dtype=object)}, "column 'size' takes numbers"),
        ({"size": np.array([1.0, 2.0, np.inf])}, "column 'size', row 2: inf is not a finite number"),
        ({"size": np.array([1.0, -1e39, 0.0])}, "column 'size', row 1: -1e+39 is not a finite number"),
        ({"member": np.array([0.0, 0.5, 1.0])}, "column 'member', row 1: 0.5 is not 0, 1 or missing"),
        ({"city": np.array([1.0, 2.0, 3.0])}, "column 'city' takes text"),
        ({"city": np.array(["bonn", 3, None], dtype=object)}, "column 'city', row 1: 3 is not text"),
        ({"city": np.array(["bonn", ["x"], None], dtype=object)}, "column 'city', row 1: ['x'] is not text"),
        ({"city": np.array(["bonn", float("nan"), None], dtype=object)}, "column 'city', row 1: nan is not text"),
        ({"town": np.zeros(3)}, "columns that the model does not know: 'town'"),
    ],
)
def test_what_does_not_fit_is_refused_by_column_and_row(changes, said):
    with pytest.raises(UserError) as caught:
        encode(columns(**changes), FEATURES)
    assert said in caught.value.what


def test_missing_columns_are_named_and_a_near_spelling_is_offered():
    with pytest.raises(UserError, match="missing columns: 'size', 'member'"):
        encode({"city": np.array(["bonn"], dtype=object)}, FEATURES)
    with pytest.raises(UserError) as caught:
        encode(columns(citty=np.zeros(3)), FEATURES)
    assert caught.value.hint == "did you mean 'city'?"


@given(values=st.lists(st.floats(width=64), max_size=20))
def test_any_number_is_either_encoded_or_refused(values):
    array = np.array(values, dtype=np.float64)
    try:
        matrix = encode({"size": array}, FEATURES[:1])
    except UserError:
        assert (np.abs(array) > 3.4e38).any()
    else:
        assert not np.isinf(matrix).any()
        np.testing.assert_allclose(matrix[:, 0], array, rtol=1e-7, atol=1e-38)


TABLE_COLUMNS = (
    Column(name="a", kind="number"),
    Column(name="b", kind="number", nullable=True),
    Column(name="c", kind="boolean"),
)
CELLS = st.one_of(st.floats(width=64), st.sampled_from([0.0, 1.0, np.nan, 3.4e38, 3.5e38, -3.5e38, 1e-45]))


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=5), st.integers(2, 3))
def test_law_a_table_is_encoded_as_its_columns_are(rows, num_columns):
    features = TABLE_COLUMNS[:num_columns]  # with and without a boolean
    table = np.array([row[:num_columns] for row in rows], dtype=np.float64).reshape(len(rows), num_columns)
    encoder = Encoder(features)
    columns = {feature.name: table[:, place] for place, feature in enumerate(features)}
    expected, refused = outcome_of(lambda: encoder.encode(columns))
    got, refused_too = outcome_of(lambda: encoder.encode_table(table))
    assert refused_too == refused
    if expected is not None:
        assert (got.dtype, got.shape, got.flags.c_contiguous) == (expected.dtype, expected.shape, True)
        assert got.tobytes() == expected.tobytes()


def outcome_of(encode_it):
    try:
        return encode_it(), None
    except UserError as error:
        return None, (error.what, error.where)


@pytest.mark.parametrize(
    "table", [np.zeros((2, 2)), np.zeros(3), np.zeros((1, 3), np.float32), np.zeros((1, 3), object)]
)
def test_a_table_of_another_shape_or_type_is_refused(table):
    with pytest.raises(UserError, match="float64 rows of 3 values"):
        Encoder(TABLE_COLUMNS).encode_table(table)


def test_categories_do_not_come_as_a_table():
    with pytest.raises(UserError, match="categories"):
        Encoder((Column(name="t", kind="category", categories=("x",)),)).encode_table(np.zeros((1, 1)))
