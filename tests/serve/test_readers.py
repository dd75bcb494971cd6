"""Whatever a body holds, reading it ends in columns or in a UserError."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.core.errors import UserError
from datahall.core.records import Column
from datahall.serve.columns import RowReader
from datahall.serve.protocols.prepared import Asked, begin
from datahall.serve.protocols.v2 import TensorReader
from datahall.serve.protocols.v2_answer import V2Writer
from datahall.serve.rows import Rows, join, to_columns

FEATURES = (
    Column(name="age", kind="number"),
    Column(name="town", kind="category", categories=("Bern",), nullable=True),
    Column(name='"odd"', kind="boolean", nullable=True),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["age", "town", '"odd"', "x"]), inner),
    max_leaves=12,
)
rows = st.fixed_dictionaries(
    {"age": st.floats(allow_nan=False, allow_infinity=False), "town": st.none() | st.text(max_size=4)},
    optional={'"odd"': st.none() | st.booleans(), "x": st.integers()},
)
shapes = st.lists(st.integers(-2, 5), max_size=3)
tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["age", "town", '"odd"', "input", "x"]),
        "shape": shapes,
        "datatype": st.sampled_from(["FP64", "FP32", "INT8", "BOOL", "BYTES", "X"]),
    },
    optional={"data": json_values | st.lists(st.integers(0, 3), max_size=6), "parameters": json_values},
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=4) | json_values},
    optional={"id": st.text(max_size=3), "outputs": json_values},
)
numbers = (Column(name="a", kind="number"), Column(name="b", kind="number", nullable=True))


@pytest.fixture(scope="module", params=[FEATURES, FEATURES[:2], numbers], ids=["odd", "mixed", "numbers"])
def manifest(request, kit):
    return kit.manifest(features=request.param)


def lawful(read, body, features):
    try:
        columns = read(body)
    except UserError:
        return
    assert list(columns) == [feature.name for feature in features]
    for feature in features:
        array = columns[feature.name]
        assert array.ndim == 1
        assert len(array) == len(columns[features[0].name]) > 0
        if feature.kind == "category":
            assert all(isinstance(value, str) or (value is None and feature.nullable) for value in array)
        else:
            assert not np.isinf(array).any()
            assert feature.nullable or not np.isnan(array).any()


def columns_of(manifest, rows):
    return to_columns(manifest.features, join([rows]))


@given(st.data())
def test_rows(manifest, data):
    value = data.draw(json_values | rows | st.fixed_dictionaries({"rows": st.lists(rows, max_size=3) | json_values}))
    reader = RowReader(manifest)
    lawful(lambda body: columns_of(manifest, reader.read(body)), json.dumps(value).encode(), manifest.features)


@given(st.data())
def test_tensor_requests(manifest, data):
    reader = TensorReader(manifest)
    body = json.dumps(data.draw(requests)).encode()
    lawful(lambda body: columns_of(manifest, reader.read(body).rows), body, manifest.features)


@given(st.binary(max_size=60))
def test_bytes(manifest, body):
    lawful(lambda body: columns_of(manifest, RowReader(manifest).read(body)), body, manifest.features)
    lawful(lambda body: columns_of(manifest, TensorReader(manifest).read(body).rows), body, manifest.features)


def test_good_rows_and_tensors_are_read_alike(kit):
    """The negative control: the laws above are not met by refusing everything."""
    manifest = kit.manifest(features=FEATURES)
    by_row = RowReader(manifest).read(json.dumps({"age": 3, "town": "Ulm", '"odd"': None}).encode())
    inputs = [
        {"name": "age", "shape": [1], "datatype": "INT8", "data": [3]},
        {"name": "town", "shape": [1, 1], "datatype": "BYTES", "data": [["Ulm"]]},
        {"name": '"odd"', "shape": [1], "datatype": "BOOL", "data": [None]},
    ]
    asked = TensorReader(manifest).read(json.dumps({"inputs": inputs}).encode())
    assert by_row.num_rows == asked.rows.num_rows == 1
    asked_columns = columns_of(manifest, asked.rows)
    for name, array in columns_of(manifest, by_row).items():
        np.testing.assert_array_equal(array, asked_columns[name])


def refusal(read, body):
    with pytest.raises(UserError) as caught:
        read(body if isinstance(body, bytes) else json.dumps(body).encode())
    return caught.value


WIDE = tuple(Column(name=f"c{i}", kind="number") for i in range(8))
LISTED = "GET /v2/models/flowers lists the columns"


def test_every_column_that_a_row_lacks_is_named(kit):
    read = RowReader(kit.manifest(features=WIDE)).read
    whole = {column.name: 1 for column in WIDE}
    error = refusal(read, {"rows": [whole, {"c1": 1, "c3": 2}]})
    assert error.what == "a row lacks the columns `c0`, `c2`, `c4`, `c5`, `c6` and 1 more - at `$.rows[1]`"
    assert error.hint.startswith(LISTED)
    del whole["c7"]
    assert refusal(read, whole).what == "a row lacks the column `c7` - at `$`"
    unknown = refusal(read, {"zzz": 1})
    assert (unknown.what.split(" - ")[0], unknown.hint) == ("there is no column `zzz`", LISTED)
    # What follows may be so deep that nothing more can be said than the first name.
    deep = b'{"rows":[{"c0":1}],"x":' + b"[" * 100_000
    assert "c1" in refusal(read, deep).what


def test_columns_with_odd_names_are_named_too(kit):
    read = RowReader(kit.manifest(features=FEATURES)).read
    for body, place in (({"rows": [{"age": 1}]}, "$.rows[0]"), ({"age": 1}, "$.rows[0]")):
        assert refusal(read, body).what == f'a row lacks the columns `town`, `"odd"` - at `{place}`'


def test_tensors_that_are_missing_are_named_with_the_application(kit):
    read = TensorReader(kit.manifest(features=WIDE)).read
    given = [{"name": "c1", "shape": [1], "datatype": "FP64", "data": [1]}]
    error = refusal(read, {"inputs": given})
    assert error.what.endswith("missing are 'c0', 'c2', 'c3', 'c4', 'c5' and 2 more")
    assert "GET /v2/models/flowers describes them" in error.hint


def test_probabilities_say_which_class_they_are_of(kit):
    """Rows of probabilities mean nothing to a client that does not know the order of the classes."""
    manifest = kit.manifest()
    asked = Asked(Rows(1), "", ("label", "probability"))
    arrays = {"label": np.array(["small"], dtype=object), "probability": np.array([[0.25, 0.75]])}
    writer = V2Writer("flowers", "1.0.0", manifest)
    label, probability = json.loads(writer.write(begin(manifest, arrays), 0, 1, asked, ""))["outputs"]
    assert probability["parameters"] == {"labels": ["large", "small"]}
    assert probability["data"] == [0.25, 0.75]
    assert "parameters" not in label
