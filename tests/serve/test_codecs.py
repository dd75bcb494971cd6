"""Laws of reading and writing: quick readers refuse and return what a slow reader of our own does, writers too."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from datahall.core.errors import DatahallError, UserError
from datahall.core.records import Column
from datahall.serve import keys
from datahall.serve.columns import RowReader
from datahall.serve.keys import refuse_duplicate_keys
from datahall.serve.protocols.plain import PlainWriter
from datahall.serve.protocols.prepared import Asked, begin
from datahall.serve.protocols.v2 import TensorReader
from datahall.serve.protocols.v2_answer import V2Writer
from datahall.serve.rows import Rows, join, to_columns

NUMBERS = (Column(name="a", kind="number"), Column(name="b", kind="number", nullable=True))
MIXED = (*NUMBERS, Column(name="town", kind="category", nullable=True), Column(name="on", kind="boolean"))
ODD = (Column(name='say "x"', kind="number"), Column(name="f0", kind="category"))
SCALARS = ["1", "-0", "1.5", "1e999", "-1e400", "1e308", "9" * 400, "9" * 25, "null", "true", '"t"', '"\\"q\\""', "NaN"]
NAMES = ["a", "b", "town", "on", 'say "x"', "f0", "f1", "input", "rows", "\u00e9"]
KINDS = {"number": (int, float), "category": str, "boolean": bool}
numbers_of = [*["1", "2.5", "-3"] * 4, *SCALARS]


class TwiceError(Exception):
    """An object has a key twice."""


def once(pairs):
    if len({key for key, _ in pairs}) != len(pairs):
        raise TwiceError
    return dict(pairs)


def no_constant(text):
    raise ValueError(text)


def parse(body):
    """Return a document as Python's own parser reads it. Raises ValueError, or TwiceError for a key that comes twice."""
    return json.loads(body, object_pairs_hook=once, parse_constant=no_constant)


def fits(feature, value):
    if value is None:
        return feature.nullable
    if feature.kind == "number" and type(value) in (int, float):
        try:
            return math.isfinite(float(value))
        except OverflowError:
            return False
    return type(value) is KINDS[feature.kind]


def slow_rows(body, features):
    """Return rows as lists, None where they must be refused."""
    try:
        document = parse(body)
    except (ValueError, TwiceError):
        return None
    rows = document["rows"] if set(document) == {"rows"} else [document]
    names = {feature.name for feature in features}
    if not isinstance(rows, list) or not rows:
        return None
    if any(not isinstance(row, dict) or set(row) != names for row in rows):
        return None
    if not all(fits(feature, row[feature.name]) for row in rows for feature in features):
        return None
    return [[row[feature.name] for feature in features] for row in rows]


@st.composite
def objects(draw, names, value):
    """Return the text of an object: its members in any order, now and then one twice, one less or one more."""
    members = [(name, draw(value)) for name in draw(st.permutations(names))]
    change = draw(st.sampled_from(["", "", "", "twice", "less", "more"]))
    if change == "twice":
        members.insert(draw(st.integers(0, len(members))), (draw(st.sampled_from(names)), draw(value)))
    elif change == "less":
        members = members[1:]
    elif change == "more":
        members.append((draw(st.sampled_from(NAMES)), draw(value)))
    space = draw(st.sampled_from(["", "", " ", "\n"]))
    return space + "{" + ",".join(f"{space}{written(draw, name)}:{one}" for name, one in members) + "}"


def written(draw, name):
    """Return a key as JSON, now and then with its first letter escaped: the same key for every parser."""
    if draw(st.integers(0, 9)) == 0:
        return f'"\\u{ord(name[0]):04x}{json.dumps(name)[2 if name[0] != chr(34) else 3 :]}'
    return json.dumps(name, ensure_ascii=False)


@st.composite
def row_bodies(draw, features):
    rows = draw(st.lists(objects([one.name for one in features], st.sampled_from(numbers_of)), max_size=3))
    if len(rows) == 1 and draw(st.booleans()):
        return rows[0]
    return draw(objects(["rows"], st.just("[" + ",".join(rows) + "]")))


def same(left, right, features):
    left, right = to_columns(features, join([left])), to_columns(features, join([right]))
    for feature in features:
        assert left[feature.name].dtype == right[feature.name].dtype
        if feature.kind == "category":
            assert left[feature.name].tolist() == right[feature.name].tolist()
        else:
            np.testing.assert_array_equal(left[feature.name], right[feature.name])


def outcome(read, body):
    try:
        return read(body)
    except UserError:
        return None


@pytest.fixture(scope="module", params=[NUMBERS, MIXED, ODD], ids=["numbers", "mixed", "odd"])
def features(request):
    return request.param


@given(st.data())
def test_rows_are_read_as_by_a_slow_reader(kit, features, data):
    body = data.draw(row_bodies(features)).encode()
    reader = RowReader(kit.manifest(features=features))
    expected, got = slow_rows(body, features), outcome(reader.read, body)
    assert (got is None) == (expected is None), body
    if got is not None:
        assert got.num_rows == len(expected)
        columns = to_columns(features, join([got]))
        for index, feature in enumerate(features):
            wanted = [row[index] for row in expected]
            if feature.kind == "category":
                assert columns[feature.name].tolist() == wanted
            else:
                np.testing.assert_array_equal(columns[feature.name], np.array(wanted, dtype=float))


shapes = st.sampled_from(["[1]", "[1,1]", "[2]", "[2,2]", "[1,2]", "[2,1]", "[]", "[0]", "[0,2]", "[-1]", "[1,3]"])
datatypes = st.sampled_from([*['"FP64"'] * 4, '"INT8"', '"BYTES"', '"BOOL"', '"X"', "1"])


@st.composite
def tensor_texts(draw, name):
    data = draw(st.lists(st.sampled_from(numbers_of), max_size=4))
    values = {
        "name": json.dumps(name),
        "shape": draw(shapes),
        "datatype": draw(datatypes),
        "data": f"[{','.join(data)}]",
    }
    text = draw(objects(list(values), st.just("@")))
    for key, value in values.items():
        text = text.replace(f'"{key}":@', f'"{key}":{value}')
    return text.replace("@", draw(st.sampled_from(["[1]", '"a"', "{}", '{"a":1,"a":2}'])))


@st.composite
def infer_bodies(draw, features):
    names = draw(st.sampled_from([["input"], [one.name for one in features], ["a", "a"], ["b", "a"]]))
    inputs = ",".join(draw(tensor_texts(name)) for name in names)
    members = [f'"inputs":[{inputs}]']
    extra = ['"id":"x"', '"outputs":[{"name":"label"}]', '"outputs":[]', '"parameters":{"p":"\\""}', '"id":"\\"y"']
    extra += ['"model_name":"flowers"', '"model_name":"other"', '"model_name":null']
    members += draw(st.lists(st.sampled_from(extra), max_size=2))
    return "{" + ",".join(draw(st.permutations(members))) + "}"


def agree(kit, features, body):
    reader = TensorReader(kit.manifest(features=features))
    quick, slow = outcome(reader.read, body), outcome(lambda body: reader._read(body, b""), body)
    assert (quick is None) == (slow is None), body
    try:
        parse(body)
    except TwiceError:
        assert quick is None, body
    except ValueError:
        pass
    if quick is not None:
        assert (quick.id, quick.outputs, quick.rows.num_rows) == (slow.id, slow.outputs, slow.rows.num_rows)
        same(quick.rows, slow.rows, features)


@given(st.data())
def test_tensors_are_read_quickly_as_they_are_slowly(kit, features, data):
    agree(kit, features, data.draw(infer_bodies(features)).encode())


WHOLE = '{"inputs":[{"name":"input","shape":%s,"datatype":"%s","data":%s}]}'
PAIR = (
    '{"inputs":[{"name":"%s","shape":%s,"datatype":"FP32","data":%s},'
    '{"name":"%s","shape":%s,"datatype":"INT8","data":%s}]}'
)
QUICK = (
    WHOLE % ("[2,2]", "FP64", "[1,2,3,4]"),
    WHOLE % ("[1,2]", "INT8", "[1,null]"),
    WHOLE % ("[2,2]", "FP32", "[[1,2],[3,null]]"),
    PAIR % ("b", "[2]", "[1,null]", "a", "[2,1]", "[1,2]"),
)
NEAR = (
    *QUICK,
    WHOLE % ("[1,2]", "INT8", "[1,2.5]"),
    WHOLE % ("[1,2]", "FP32", "[null,2]"),
    WHOLE % ("[2,2]", "FP32", "[1,2,null,2]"),
    WHOLE % ("[1,2]", "FP32", "[true,2]"),
    WHOLE % ("[1,2]", "FP32", "[1e999,2]"),
    WHOLE % ('[1,2],"shape":[1,2]', "FP32", "[1,2]"),
    WHOLE % ("[2,2]", "FP32", "[[1,2,3],[4]]"),
    WHOLE % ("[2,2]", "FP32", "[[1,2]]"),
    WHOLE % ("[1,2]", "INT64", "[[1,0.5]]"),
    WHOLE % ("[1,2]", "FP64", "[[[1,2]]]"),
    PAIR % ("a", "[1]", "[null]", "b", "[1]", "[2]"),
    PAIR % ("a", "[1]", "[1]", "b", "[2]", "[2,3]"),
    PAIR % ("input", "[1,2]", "[[1,2]]", "input", "[1,2]", "[[1,2]]"),
)


@pytest.mark.parametrize("body", NEAR)
def test_bodies_at_the_border_of_the_quick_way(kit, body):
    agree(kit, NUMBERS, body.encode())


def test_the_usual_bodies_go_the_quick_way(kit):
    """The negative control of the law above: it is not met because nothing is read quickly."""
    reader = TensorReader(kit.manifest(features=NUMBERS))
    assert tuple(body for body in NEAR if reader._fast.read(body.encode()) is not None) == QUICK
    town = '{"name":"town","shape":[1],"datatype":"BYTES","data":["Bern"]}'
    rest = '{"name":"a","shape":[1],"datatype":"FP64","data":[1]},{"name":"b","shape":[1],"datatype":"FP64","data":[1]}'
    body = f'{{"inputs":[{rest},{town},{{"name":"on","shape":[1,1],"datatype":"BOOL","data":[true]}}]}}'
    assert TensorReader(kit.manifest(features=MIXED))._fast.read(body.encode()) is not None


# Keys that come twice.

documents = st.recursive(
    st.sampled_from(["1", "null", '"v"', '"\\""', '"a\\\\"']),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda many: "[" + ",".join(many) + "]")
        | st.lists(st.tuples(st.sampled_from(['"a"', '"b"', '"\\u0061"', '"\\""']), inner), max_size=3).map(
            lambda pairs: "{" + ",".join(f"{key}:{value}" for key, value in pairs) + "}"
        )
    ),
    max_leaves=10,
)


@given(documents)
def test_strings_are_counted_in_the_text_as_in_the_document(text):
    seen = []
    json.loads(text, object_pairs_hook=lambda pairs: seen.extend(key for key, _ in pairs) or [one for _, one in pairs])
    values = keys.count_strings(json.loads(text, object_pairs_hook=lambda pairs: [one for _, one in pairs]))
    assert keys.count_written(text.encode()) == len(seen) + values


@given(documents)
@example('{"a":1,"\\u0061":2}')
@example('{"a":{"b":"\\"","b":"\\""}}')
def test_keys_that_come_twice_are_refused_and_no_others(text):
    body = text.encode()
    num_strings = keys.count_strings(msgspec.json.decode(body))
    try:
        parse(body)
    except TwiceError:
        with pytest.raises(UserError, match="comes twice"):
            refuse_duplicate_keys(body, num_strings)
    else:
        refuse_duplicate_keys(body, num_strings)


def test_a_key_that_comes_twice_is_told_with_its_place(kit):
    read = RowReader(kit.manifest(features=NUMBERS)).read
    with pytest.raises(UserError) as caught:
        read(b'{"rows":[{"a":1,"b":2},{"a":1,"b":2,"a":3}]}')
    assert caught.value.what == "the key `a` comes twice - at `$.rows[1]`"
    with pytest.raises(UserError, match=r"`rows` comes twice - at `\$`"):
        read(b'{"rows":[],"rows":[{"a":1,"b":2}]}')
    large = b'{"rows":[' + b'{"a":1,"b":2},' * 100_000 + b'{"a":1,"b":2,"a":3}]}'
    with pytest.raises(UserError, match="comes twice in an object"):
        read(large)
    with pytest.raises(UserError, match="nested too deeply"):
        refuse_duplicate_keys(b"[" * 100_000 + b"]" * 100_000, -1)
    with pytest.raises(UserError, match="in two ways"):
        refuse_duplicate_keys(b"{", -1)


def test_without_the_count_of_quotes_a_key_could_come_twice(kit, monkeypatch):
    """The negative control: the decoder takes the last of two keys, and nothing but the count notices."""
    body = b'{"rows":[{"a":1,"b":2,"a":3}]}'
    monkeypatch.setattr("datahall.serve.columns.refuse_duplicate_keys", lambda *_: None)
    assert RowReader(kit.manifest(features=NUMBERS)).read(body).values == [(3.0, 2.0)]


# Writing.

LABELS = ('1"0%', "Zürich", "c")
NOTHING = Asked(Rows(1))
finite = st.floats(allow_nan=False, allow_infinity=False)


def encode_plainly(answer_id, version, manifest, arrays):
    """Return a plain answer as one dictionary at a time makes it."""
    if manifest.task == "regression":
        names = {"label": "value", "lower": "lower", "upper": "upper"}
        columns = {said: arrays[name].tolist() for name, said in names.items() if name in arrays}
        predictions = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    else:
        both = zip(arrays["label"].tolist(), arrays["probability"].tolist(), strict=True)
        classes = manifest.target.categories
        predictions = [{"label": label, "probabilities": dict(zip(classes, row, strict=True))} for label, row in both]
    return msgspec.json.encode({"id": answer_id, "version": version, "predictions": predictions})


def encode_tensors(number, manifest, arrays, asked):
    """Return an inference response as one dictionary a tensor makes it."""
    labels = list(manifest.target.categories)
    described = {
        "label": {"name": "label", "datatype": "BYTES"},
        "probability": {"name": "probability", "datatype": "FP64", "parameters": {"labels": labels}},
    } | {name: {"name": name, "datatype": "FP64"} for name in ("value", "lower", "upper")}
    outputs = []
    for name in asked.outputs:
        array = arrays["label" if name == "value" else name]
        tensor = dict(described[name])
        parameters = {"parameters": tensor.pop("parameters")} if "parameters" in tensor else {}
        shaped = {**tensor, "shape": list(array.shape), **parameters, "data": array.reshape(-1).tolist()}
        outputs.append(shaped)
    answer = {"model_name": manifest.app, "model_version": number, "outputs": outputs}
    return msgspec.json.encode(answer | ({"id": asked.id} if asked.id else {}))


@st.composite
def batches(draw, task):
    num_rows = draw(st.integers(1, 5))
    column = st.lists(finite, min_size=num_rows, max_size=num_rows).map(np.array)
    if task == "regression":
        return {name: draw(column) for name in ("label", "lower", "upper")}
    labels = draw(st.lists(st.sampled_from(LABELS), min_size=num_rows, max_size=num_rows))
    arrays = {"label": np.array(labels, dtype=object)}
    arrays["probability"] = np.column_stack([draw(column) for _ in LABELS])
    return arrays


@pytest.mark.parametrize("task", ["classification", "regression"])
@given(data=st.data())
def test_answers_are_byte_for_byte_what_an_encoder_of_dictionaries_writes(kit, task, data):
    settings = {"interval": {"confidence": 0.9}}
    target = Column(name="kind", kind="category", categories=LABELS)
    manifest = kit.manifest(task=task, target=target, engine_settings=settings)
    arrays = data.draw(batches(task))
    start = data.draw(st.integers(0, len(arrays["label"]) - 1))
    stop = data.draw(st.integers(start + 1, len(arrays["label"])))
    part = {name: array[start:stop] for name, array in arrays.items()}
    prepared = begin(manifest, arrays)
    writer = PlainWriter("n@1", manifest)
    assert writer.write(prepared, start, stop, NOTHING, "ans_1") == encode_plainly("ans_1", "n@1", manifest, part)
    names = ["label", "probability"] if task == "classification" else ["value", "lower", "upper"]
    outputs = tuple(data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3)))
    asked = Asked(Rows(stop - start), data.draw(st.sampled_from(["", "x", 'a"b'])), outputs)
    written = V2Writer(manifest.app, "1", manifest).write(prepared, start, stop, asked, "")
    assert written == encode_tensors("1", manifest, part, asked)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_fails_its_own_request_alone(kit, bad):
    manifest = kit.manifest()
    arrays = {"label": np.array(["large"] * 3, dtype=object), "probability": np.array([[0.5, 0.5]] * 3)}
    arrays["probability"][1, 0] = bad
    prepared = begin(manifest, arrays)
    plain, tensors = PlainWriter("n@1", manifest), V2Writer("n", "1", manifest)
    asked = Asked(Rows(1), "", ("probability",), (True,))
    for start, stop in ((1, 2), (0, 2)):
        with pytest.raises(DatahallError, match="not finite"):
            plain.write(prepared, start, stop, NOTHING, "ans_1")
        with pytest.raises(DatahallError, match="not finite"):
            tensors.write(prepared, start, stop, asked, "")
        with pytest.raises(DatahallError, match="not finite"):
            tensors.write_binary(prepared, start, stop, asked)
    assert b"0.5" in plain.write(prepared, 2, 3, NOTHING, "ans_1")
    assert tensors.write(prepared, 0, 1, Asked(Rows(1), "", ("label",)), "")


def test_probabilities_of_another_width_are_the_models_fault(kit):
    arrays = {"label": np.array(["large"], dtype=object), "probability": np.array([[0.5]])}
    with pytest.raises(DatahallError, match="shape"):
        begin(kit.manifest(), arrays)
