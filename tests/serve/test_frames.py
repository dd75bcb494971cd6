"""Frames survive the trip in any pieces, and nothing that is sent can do harm."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.serve.frames import _ENCODER, _LENGTHS, MAX_FRAME_BYTES, FrameError, FrameReader, Header, Tensor, encode

names = st.text(max_size=8)
floats = st.floats(width=64)
texts = st.lists(st.none() | st.text(max_size=12), max_size=8)


@st.composite
def tables(draw):
    num_rows = draw(st.integers(0, 6))
    columns = {}
    for name in draw(st.lists(names, unique=True, max_size=6)):
        kind = draw(st.sampled_from(["number", "text", "matrix"]))
        if kind == "number":
            columns[name] = np.array(draw(st.lists(floats, min_size=num_rows, max_size=num_rows)), dtype=np.float64)
        elif kind == "matrix":
            width = draw(st.integers(0, 3))
            size = num_rows * width
            values = draw(st.lists(floats, min_size=size, max_size=size))
            columns[name] = np.array(values, dtype=np.float64).reshape(num_rows, width)
        else:
            column = np.empty(num_rows, dtype=object)
            column[:] = draw(st.lists(st.none() | st.text(max_size=5), min_size=num_rows, max_size=num_rows))
            columns[name] = column
    return columns


headers = st.builds(
    Header,
    kind=st.sampled_from(["infer", "result", "error", "ping", "ready", "drain"]),
    id=st.integers(0, 2**63),
    num_rows=st.integers(0, 2**31),
    error=st.sampled_from(["", "user", "model", "unavailable"]),
    text=st.text(max_size=20),
    bundle=st.text(max_size=8),
)


def same(left, right):
    assert set(left) == set(right)
    for name, array in left.items():
        assert array.dtype == right[name].dtype
        np.testing.assert_array_equal(array, right[name])


@given(st.lists(st.tuples(headers, tables()), max_size=4), st.randoms(use_true_random=False))
def test_frames_survive_any_cutting(messages, random):
    data = b"".join(encode(header, arrays) for header, arrays in messages)
    reader = FrameReader()
    frames = []
    while data:
        size = random.randint(1, len(data))
        frames += reader.feed(data[:size])
        data = data[size:]
    assert reader.num_waiting_bytes == 0
    for frame, (header, arrays) in zip(frames, messages, strict=True):
        assert (frame.header.kind, frame.header.id, frame.header.text) == (header.kind, header.id, header.text)
        same(arrays, frame.arrays)


@given(st.binary(max_size=300))
def test_garbage_gives_frames_or_an_error(data):
    reader = FrameReader(max_frame_bytes=200)
    try:
        reader.feed(data)
    except FrameError:
        return
    assert reader.num_waiting_bytes <= 204


@given(headers, tables(), st.data())
def test_damaged_frames_give_frames_or_an_error(header, arrays, data):
    raw = bytearray(encode(header, arrays))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FrameError):
        FrameReader().feed(bytes(raw))


def test_a_long_frame_is_refused_by_its_first_eight_bytes():
    with pytest.raises(FrameError, match="announces"):
        FrameReader().feed(_LENGTHS.pack(MAX_FRAME_BYTES + 1, 10))
    with pytest.raises(FrameError, match="longer than"):
        encode(Header("infer"), {"x": np.zeros(MAX_FRAME_BYTES // 8 + 1)})


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("columns", ("a",), (1, 1), 16),
        Tensor("columns", ("a", "b"), (1, 1), 8),
        Tensor("columns", ("a",), (1, 2**40), 8),
        Tensor("columns", ("a",), (-1, -1), 8),
        Tensor("columns", ("a",), (), 8),
        Tensor("matrix", (), (1, 1), 8),
        Tensor("matrix", ("a",), (1, 1, 1), 8),
        Tensor("text", ("a",), (3,), 8),
        Tensor("text", ("a",), (1,), 8),
        Tensor("text", ("a", "b"), (1,), 8),
        Tensor("text", ("a",), (0,), 8),
        Tensor("columns", ("a",), (1, 1), -8),
        Tensor("columns", ("a",), (0, 1), 0),
    ],
)
def test_tensors_that_lie_are_refused(tensor):
    head = _ENCODER.encode(Header("infer", tensors=(tensor,)))
    body = b"\x00\x00\x00\xff" + b"\0" * 4
    with pytest.raises(FrameError):
        FrameReader().feed(_LENGTHS.pack(4 + len(head) + len(body), len(head)) + head + body)


def test_a_name_that_comes_twice_is_refused():
    head = _ENCODER.encode(Header("infer", tensors=(Tensor("matrix", ("a",), (1, 0), 0),) * 2))
    with pytest.raises(FrameError, match="twice"):
        FrameReader().feed(_LENGTHS.pack(4 + len(head), len(head)) + head)


def test_an_honest_tensor_is_read():
    """The negative control of the two above."""
    head = _ENCODER.encode(Header("infer", tensors=(Tensor("columns", ("a",), (1, 1), 8),)))
    frames = FrameReader().feed(_LENGTHS.pack(12 + len(head), len(head)) + head + np.array([2.5]).tobytes())
    assert frames[0].arrays["a"].tolist() == [2.5]
