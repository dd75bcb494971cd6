"""The binary tensor data extension: what is read and written, and that whatever else comes is refused."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.core.errors import UserError
from datahall.core.records import Column
from datahall.serve.protocols.binary import read_values, share_out, split, write_values
from datahall.serve.protocols.v2 import TensorReader
from datahall.serve.rows import join, to_columns

DTYPES = {
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
FEATURES = (
    Column(name="age", kind="number", nullable=True),
    Column(name="town", kind="category"),
    Column(name="on", kind="boolean"),
)
INFER = "/v2/models/flowers/infer"


def body_of(document, *parts):
    head = json.dumps(document).encode()
    return str(len(head)).encode(), head + b"".join(parts)


def tensor(name, shape, datatype, size):
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}


@pytest.mark.parametrize("datatype", DTYPES)
@given(data=st.binary(max_size=64))
def test_numbers_are_read_as_numpy_reads_them(datatype, data):
    size = np.dtype(DTYPES[datatype]).itemsize
    if len(data) % size:
        with pytest.raises(UserError, match="whole numbers"):
            read_values("x", datatype, data)
        return
    expected = np.frombuffer(data, dtype=DTYPES[datatype]).astype(float)
    if np.isinf(expected).any():
        with pytest.raises(UserError, match="infinity"):
            read_values("x", datatype, data)
        return
    values = read_values("x", datatype, data)
    np.testing.assert_array_equal(np.array(values, dtype=float), expected)
    assert [value is None for value in values] == np.isnan(expected).tolist()


@given(st.lists(st.text(max_size=5)), st.binary(max_size=20))
def test_texts_are_read_back_and_torn_ones_refused(texts, rest):
    data = write_values("BYTES", texts)
    assert read_values("x", "BYTES", data) == texts
    try:
        more = read_values("x", "BYTES", data + rest)
    except UserError:
        return
    assert write_values("BYTES", more) == data + rest


@given(st.binary(max_size=20))
def test_booleans_are_bytes_of_zero_and_one(data):
    if set(data) <= {0, 1}:
        assert read_values("x", "BOOL", data) == [bool(one) for one in data]
    else:
        with pytest.raises(UserError, match="neither 0 nor 1"):
            read_values("x", "BOOL", data)


@given(st.binary(max_size=30), st.lists(st.none() | st.integers(-2, 12) | st.booleans() | st.just("3"), max_size=4))
def test_parts_are_all_of_the_tail_or_nothing(tail, sizes):
    try:
        parts = share_out(tail, [("x", size) for size in sizes])
    except UserError:
        good = all(size is None or (type(size) is int and size >= 0) for size in sizes)
        assert not good or sum(size or 0 for size in sizes) != len(tail)
        return
    assert b"".join(part or b"" for part in parts) == tail
    assert [None if part is None else len(part) for part in parts] == sizes


@pytest.mark.parametrize("header", [b"", b"-1", b"+1", b"1e1", b" 1", b"1_0", b"9" * 40, "٣".encode(), b"11"])
def test_a_length_that_is_none_is_refused(header):
    with pytest.raises(UserError, match="Inference-Header-Content-Length"):
        split(b"0123456789", header)


def mixed(rows=2):
    parts = (
        np.array([30, np.nan][:rows], dtype="<f4").tobytes(),
        write_values("BYTES", ["Köln", ""][:rows]),
        bytes([1, 0][:rows]),
    )
    inputs = [
        tensor(name, [rows], datatype, len(part))
        for name, datatype, part in zip(("age", "town", "on"), ("FP32", "BYTES", "BOOL"), parts, strict=True)
    ]
    return inputs, parts


def test_each_kind_of_column_is_read(kit):
    inputs, parts = mixed()
    asked = TensorReader(kit.manifest(features=FEATURES)).read_binary(*body_of({"inputs": inputs}, *parts))
    columns = to_columns(FEATURES, join([asked.rows]))
    np.testing.assert_array_equal(columns["age"], [30, np.nan])
    assert columns["town"].tolist() == ["Köln", ""]
    assert columns["on"].tolist() == [1, 0]


def test_binary_and_json_tensors_mix(kit):
    inputs, parts = mixed(1)
    inputs[1] = {"name": "town", "shape": [1], "datatype": "BYTES", "data": ["Köln"]}
    asked = TensorReader(kit.manifest(features=FEATURES)).read_binary(*body_of({"inputs": inputs}, parts[0], parts[2]))
    assert to_columns(FEATURES, join([asked.rows]))["town"].tolist() == ["Köln"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"binary_data_size": 7}, "belong to no tensor"),
        ({"binary_data_size": 9}, "8 bytes are left"),
        ({"binary_data_size": 8.0}, "8 bytes are left"),
        ({"binary_data_size": "8"}, "8 bytes are left"),
        ({"binary_data_size": True}, "8 bytes are left"),
        ({"binary_data_size": -8}, "8 bytes are left"),
        ({"binary_data_size": 10**30}, "8 bytes are left"),
        ({"shared_memory_region": "x"}, "'shared_memory_region' is not done"),
        ({}, "belong to no tensor"),
    ],
)
def test_bad_sizes_are_refused(kit, change, words):
    inputs = [{"name": "input", "shape": [1, 2], "datatype": "FP32", "parameters": change}]
    with pytest.raises(UserError, match=words):
        TensorReader(kit.manifest()).read_binary(*body_of({"inputs": inputs}, bytes(8)))


@pytest.mark.parametrize(
    ("shape", "datatype", "data", "words"),
    [
        ([1, 2], "FP32", np.array([np.nan, 1], dtype="<f4").tobytes(), "no missing values"),
        ([1, 2], "FP32", np.array([np.inf, 1], dtype="<f4").tobytes(), "infinity"),
        ([1, 2], "FP64", bytes(8), "1 values, but its shape"),
        ([2, 2], "FP32", bytes(8), "2 values, but its shape"),
        ([2**62, 2], "FP32", bytes(8), "2 values, but its shape"),
        ([1, 2], "BYTES", struct.pack("<I", 0) * 2, "datatype 'BYTES'"),
        ([0, 2], "FP32", b"", "no rows"),
    ],
)
def test_bad_tensors_are_refused(kit, shape, datatype, data, words):
    whole = tensor("input", shape, datatype, len(data))
    with pytest.raises(UserError, match=words):
        TensorReader(kit.manifest()).read_binary(*body_of({"inputs": [whole]}, data))
    with pytest.raises(UserError, match="`data` and binary data"):
        TensorReader(kit.manifest()).read_binary(
            *body_of({"inputs": [tensor("input", [1, 2], "FP32", 8) | {"data": [1, 2]}]}, bytes(8))
        )


@given(st.data())
def test_whatever_bytes_come_they_end_in_rows_or_in_an_error(kit, data):
    """A good request with some of its bytes changed, cut or doubled."""
    inputs, parts = mixed()
    header, body = body_of({"inputs": inputs}, *parts)
    edits = st.tuples(st.integers(0, len(body)), st.integers(0, 4), st.binary(max_size=4))
    for start, num, new in data.draw(st.lists(edits, max_size=3)):
        body = body[:start] + new + body[start + num :]
    header = data.draw(st.sampled_from([header, header, header, b"0", b"%d" % len(body)]))
    try:
        asked = TensorReader(kit.manifest(features=FEATURES)).read_binary(header, body)
    except UserError:
        return
    columns = to_columns(FEATURES, join([asked.rows]))
    assert {len(column) for column in columns.values()} == {asked.rows.num_rows}
    assert all(isinstance(one, str) for one in columns["town"])
    assert not np.isinf(columns["age"]).any()
    assert not np.isnan(columns["on"]).any()


def ask(world, document, *parts, path=INFER):
    header, body = body_of(document, *parts)
    return world.ask("POST", path, body, headers=(f"Inference-Header-Content-Length: {header.decode()}",))


def test_answers_are_bytes_where_they_are_asked_for(flowers):
    rows = np.array([[2, 1], [-3, 1]], dtype="<f8").tobytes()
    whole = tensor("input", [2, 2], "FP64", len(rows))
    every = {"inputs": [whole], "parameters": {"binary_data_output": True}}
    reply = ask(flowers, every, rows)
    size = int(reply.headers["inference-header-content-length"])
    assert reply.headers["content-type"] == "application/octet-stream"
    label, probability = json.loads(reply.body[:size])["outputs"]
    assert label == {"name": "label", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 18}}
    assert probability["parameters"] == {"labels": ["large", "small"], "binary_data_size": 32}
    assert reply.body[size : size + 18] == b"\5\0\0\0large\5\0\0\0small"
    chances = np.frombuffer(reply.body[size + 18 :]).reshape(2, 2)
    asked = {"inputs": [whole], "outputs": [{"name": "probability"}]}
    plain = ask(flowers, asked, rows)
    assert plain.headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in plain.headers
    assert plain.json()["outputs"][0]["data"] == chances.reshape(-1).tolist()
    asked["outputs"] = [{"name": "probability", "parameters": {"binary_data": True}}, {"name": "label"}]
    some = ask(flowers, asked, rows)
    size = int(some.headers["inference-header-content-length"])
    probability, label = json.loads(some.body[:size])["outputs"]
    assert (label["data"], len(some.body) - size) == (["large", "small"], 32)
    asked = every | {"outputs": [{"name": "label", "parameters": {"binary_data": False}}]}
    assert ask(flowers, asked, rows).json()["outputs"][0]["data"] == ["large", "small"]


def test_a_whole_json_request_may_ask_for_bytes(flowers):
    whole = {"name": "input", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}
    asked = {"inputs": [whole], "parameters": {"binary_data_output": True}}
    assert "inference-header-content-length" in flowers.ask("POST", INFER, asked).headers


def test_what_is_wrong_is_refused_over_http(flowers, kit):
    whole = tensor("input", [1, 2], "FP64", 16)
    assert ask(flowers, {"inputs": [whole]}, bytes(15)).status == 400
    assert ask(flowers, {"inputs": [whole]}, bytes(17)).status == 400
    assert ask(flowers, {"inputs": [whole]}, bytes(16)).status == 200
    assert flowers.ask("POST", INFER, b"{}", headers=("Inference-Header-Content-Length: x",)).status == 400
    assert ask(flowers, {}, path="/predict/flowers").status == 415
    twice = ("Inference-Header-Content-Length: 2",) * 2
    assert flowers.ask("POST", INFER, b"{}", headers=twice).status == 400
    asked = {"inputs": [whole], "parameters": {"binary_data_output": "yes"}}
    assert "true or false" in ask(flowers, asked, bytes(16)).json()["error"]
