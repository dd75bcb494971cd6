"""MLflow's scoring protocol: every format, which application is asked, and errors in MLflow's words."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.core.errors import UserError
from datahall.core.records import Column
from datahall.serve.columns import RowReader
from datahall.serve.protocols.mlflow import FORMATS, InvocationReader
from datahall.serve.rows import join, to_columns

NUMBERS = (Column(name="a", kind="number"), Column(name="b", kind="number"))
MIXED = (Column(name="a", kind="number", nullable=True), Column(name="rows", kind="category"))
BOOLEANS = (Column(name="on", kind="boolean", nullable=True), Column(name='say "x"', kind="category", nullable=True))
VALUES = {
    "number": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
    "category": st.text(max_size=3),
    "boolean": st.booleans(),
}
JSON = ("Content-Type: application/json",)
SPLIT = {"columns": ["petal width", "petal length"], "data": [[1, 2.0], [None, -3]]}


@pytest.fixture(scope="module", params=[NUMBERS, MIXED, BOOLEANS], ids=["numbers", "mixed", "booleans"])
def features(request):
    return request.param


def tables(features):
    values = [VALUES[one.kind] | st.none() if one.nullable else VALUES[one.kind] for one in features]
    return st.lists(st.tuples(*values).map(list), min_size=1, max_size=4)


def forms(names, table, order):
    """Return the same rows in each of MLflow's formats."""
    turned = [[row[index] for index in order] for row in table]
    records = [dict(zip(names, row, strict=True)) for row in table]
    split = {"columns": [names[index] for index in order], "data": turned, "index": list(range(len(table)))}
    columns = {names[index]: [row[index] for row in table] for index in order}
    yield from ({"dataframe_split": split}, {"dataframe_records": records}, {"instances": records}, {"inputs": records})
    yield from (
        {"instances": table},
        {"inputs": table},
        {"inputs": columns, "params": {}},
        {"inputs": table, "params": None},
    )


@given(st.data())
def test_every_format_says_the_same_as_plain_rows(kit, features, data):
    manifest = kit.manifest(features=features)
    names = [feature.name for feature in features]
    table = data.draw(tables(features))
    reader = InvocationReader(manifest)
    records = [dict(zip(names, row, strict=True)) for row in table]
    expected = to_columns(features, join([RowReader(manifest).read(json.dumps({"rows": records}).encode())]))
    for form in forms(names, table, data.draw(st.permutations(range(len(names))))):
        got = reader.read(json.dumps(form).encode())
        assert got.num_rows == len(table)
        columns = to_columns(features, join([got]))
        # As text, for a missing number is no number equal to itself.
        assert [repr(columns[name].tolist()) for name in names] == [repr(expected[name].tolist()) for name in names]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "columns", "data", "index"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.data())
def test_whatever_a_body_holds_ends_in_rows_or_in_an_error(kit, features, data):
    keys = st.sampled_from([*FORMATS, "params", "x"])
    document = data.draw(st.dictionaries(keys, json_values, max_size=2) | json_values)
    body = data.draw(st.sampled_from([json.dumps(document).encode(), json.dumps(document).encode()[:-1]]))
    try:
        rows = InvocationReader(kit.manifest(features=features)).read(body)
    except UserError:
        return
    assert rows.num_rows >= 1
    assert all(len(one) == rows.num_rows for one in to_columns(features, join([rows])).values())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{}", "0 of the fields"),
        (b'{"inputs":[[1,2]],"instances":[[1,2]]}', "2 of the fields"),
        (b'{"inputs":[]}', "no rows"),
        (b'{"columns":["a"]}', "no field `columns`"),
        (b'{"inputs":[[1,2]],"inputs":[[1,2]]}', "`inputs` comes twice - at `$`"),
        (b'{"inputs":{"a":[1],"b":[1],"a":[1]}}', "`a` comes twice - at `$.inputs`"),
        (b'{"instances":[{"a":1,"b":1,"a":1}]}', "`a` comes twice - at `$.instances[0]`"),
        (b'{"dataframe_split":{"data":[[1,2]],"columns":["a","b"],"data":[[1,2]]}}', "`data` comes twice"),
        (b'{"dataframe_split":{"columns":["a","a"],"data":[[1,2]]}}', "missing is `b` - at `$.dataframe_split`"),
        (b'{"dataframe_split":{"columns":["a","b","b"],"data":[[1,2,2]]}}', "one comes twice"),
        (b'{"dataframe_split":{"columns":["a","b"],"data":[[1,2],[1]]}}', "at `$.dataframe_split.data[1]`"),
        (b'{"inputs":{"a":[1],"b":[1],"c":[1]}}', "unknown is `c`"),
        (b'{"inputs":{"a":[1,2],"b":[1]}}', "different numbers of rows - at `$.inputs`"),
        (b'{"inputs":[[1,true]]}', "at `$.inputs[0][1]`"),
        (b'{"inputs":[[1,NaN]]}', "at `$.inputs[0][1]`"),
        (b'{"inputs":[[1,NaN],[Infinity,1]]}', "no infinity"),
        (b'{"inputs":[[1,1e999]]}', "out of range"),
        (b'{"inputs":[[1,2]],"params":{"temperature":1}}', "no `params`"),
        (b'{"inputs":[[1,2]]', "ends too early"),
        (b'{"inputs":[[1,NaN]]', "not JSON"),
        (b'{"inputs":[[1,NaN]],"inputs":[[1,NaN]]}', "comes twice"),
        (b'{"inputs":' + b"[" * 100_000, "deep"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(kit, body, words):
    with pytest.raises(UserError) as caught:
        InvocationReader(kit.manifest(features=NUMBERS)).read(body)
    assert words in caught.value.what


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"inputs":[[1,"x"],["1","x"]]}', "`a` is a number - at `$.inputs`, row 1"),
        (b'{"inputs":[[1,null]]}', "`rows` is a string - at `$.inputs`, row 0"),
    ],
)
def test_a_value_of_another_kind_is_named_by_its_column(kit, body, words):
    with pytest.raises(UserError) as caught:
        InvocationReader(kit.manifest(features=MIXED)).read(body)
    assert caught.value.what == words


def test_a_missing_number_may_be_written_as_mlflows_clients_do(kit):
    rows = InvocationReader(kit.manifest(features=MIXED)).read(b'{"inputs":[[NaN,"NaN"]]}')
    assert to_columns(MIXED, join([rows]))["rows"].tolist() == ["NaN"]
    assert str(to_columns(MIXED, join([rows]))["a"].tolist()) == "[nan]"


@pytest.fixture
def two(world, kit):
    """A hall with two applications that speak the protocol, and one that does not."""
    predictor = kit.TinyPredictor(kit.manifest())
    world.deploy(predictor, protocols=("mlflow", "v2"))
    world.deploy(kit.TinyPredictor(kit.manifest(app="price", task="regression")), app="price", protocols=("mlflow",))
    world.deploy(kit.TinyPredictor(kit.manifest(app="silent")), app="silent")
    world.grant("dh_one", scopes=("predict:flowers",))
    world.grant("dh_silent", scopes=("predict:silent",))
    world.publish()
    return world.start()


def invoke(world, path, body, *, key="dh_owner", headers=JSON):
    return world.ask("POST", path, body, key=key, headers=headers)


@pytest.mark.parametrize("path", ["/invocations/flowers", "/endpoints/flowers/invocations"])
def test_answers_have_mlflows_form_and_our_id(two, kit, path):
    reply = invoke(two, path, {"dataframe_split": SPLIT})
    assert reply.json() == {"predictions": ["large", "small"]}
    record = kit.record_of(two.folder / "answers", reply.headers["datahall-answer-id"])
    assert (record.app, record.num_rows) == ("flowers", 2)
    reply = invoke(two, "/invocations/price", {"instances": [[2, 1]]})
    assert reply.json() == {"predictions": [4.0]}


def test_without_a_name_the_only_application_that_a_key_may_ask_answers(two):
    one = {"inputs": [[2, 1]]}
    assert invoke(two, "/invocations", one, key="dh_one").json() == {"predictions": ["large"]}
    named = (*JSON, "Datahall-App: price")
    assert invoke(two, "/invocations", one, headers=named).json() == {"predictions": [4.0]}
    assert invoke(two, "/invocations", one, headers=(*named, "Datahall-App: flowers")).status == 400
    assert invoke(two, "/invocations", one, key="dh_one", headers=named).status == 403
    reply = invoke(two, "/invocations", one)
    assert (reply.status, reply.json()["error_code"]) == (400, "BAD_REQUEST")
    assert reply.json()["error"] == "this key may ask 2 applications: flowers, price"
    assert invoke(two, "/invocations", one, key="dh_silent").status == 404


def test_errors_are_in_mlflows_words_too(two):
    for path, body, key, headers, status, code in (
        ("/invocations/flowers", b"{}", "dh_owner", JSON, 400, "BAD_REQUEST"),
        ("/invocations/flowers", b"{}", None, JSON, 401, "UNAUTHENTICATED"),
        ("/invocations/price", b"{}", "dh_one", JSON, 403, "PERMISSION_DENIED"),
        ("/invocations/nobody", b"{}", "dh_owner", JSON, 404, "RESOURCE_DOES_NOT_EXIST"),
        ("/invocations/silent", b"{}", "dh_owner", JSON, 404, "RESOURCE_DOES_NOT_EXIST"),
        ("/invocations/flowers", b"a,b", "dh_owner", ("Content-Type: text/csv",), 415, "BAD_REQUEST"),
        ("/invocations/flowers", b"{}", "dh_owner", (JSON[0] + "; charset=latin-1",), 415, "BAD_REQUEST"),
        ("/invocations/flowers", b"{}", "dh_owner", (), 415, "BAD_REQUEST"),
    ):
        reply = invoke(two, path, body, key=key, headers=headers)
        said = reply.json()
        assert (reply.status, said["error_code"]) == (status, code), path
        assert set(said) == {"error_code", "message", "error", "hint"}
        assert said["message"].startswith(said["error"])
    good = (JSON[0] + '; charset="UTF-8"',)
    assert invoke(two, "/invocations/flowers", {"inputs": [[2, 1]]}, headers=good).status == 200


def test_a_number_that_is_not_finite_is_an_error_of_mlflows_kind(two):
    reply = invoke(two, "/invocations/price", {"inputs": [[1.5e308, 1]]})
    assert (reply.status, reply.json()["error_code"]) == (500, "INTERNAL_ERROR")


def test_health_and_version(two):
    assert two.ask("GET", "/ping", key=None).status == two.ask("GET", "/health", key=None).status == 200
    assert two.ask("GET", "/version", key=None).json() == two.ask("GET", "/v2", key=None).json()["version"]


def test_a_key_may_come_as_a_password(two):
    def basic(text):
        return (*JSON, "Authorization: Basic " + base64.b64encode(text.encode()).decode())

    one = {"inputs": [[2, 1]]}
    assert invoke(two, "/invocations", one, key=None, headers=basic("me:dh_one")).status == 200
    assert invoke(two, "/invocations", one, key=None, headers=basic(":dh_one")).status == 200
    for bad in ("dh_one", "me:", "dh_one:me", "me:dh_one:"):
        assert invoke(two, "/invocations", one, key=None, headers=basic(bad)).status == 401
    assert invoke(two, "/invocations", one, key=None, headers=(*JSON, "Authorization: Basic %%%")).status == 401


def test_the_header_of_binary_tensors_is_refused_where_there_are_none(two):
    reply = invoke(two, "/invocations/flowers", b"{}", headers=(*JSON, "Inference-Header-Content-Length: 2"))
    assert reply.status == 415


@pytest.mark.parametrize("body", [b'{"rows":[{"a":1,"b":1}]}', b"{}"])
def test_whoever_sends_another_protocols_body_is_told_what_this_one_takes(kit, body):
    with pytest.raises(UserError) as caught:
        InvocationReader(kit.manifest(features=NUMBERS)).read(body)
    assert "dataframe_split, dataframe_records" in caught.value.hint
