"""The frame protocol between gateway and replica, without I/O: bytes in, frames out, and back.

A frame is `u32 length | u32 header length | header | tensors`, all big-endian; the length counts what follows it.
The header is MessagePack; the tensors lie behind it raw, in the order in which the header lists them: float64
little-endian, or text as `u32 length` for each row (0xFFFFFFFF for a missing value) and then the UTF-8 bytes.
Whatever the other side sends, reading ends in frames or in a FrameError, and never holds more than one frame.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Literal

import msgspec
import numpy as np

from datahall.core.errors import IntegrityError

MAX_FRAME_BYTES = 64 << 20
MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 4096

_LENGTHS = struct.Struct(">II")
_MISSING = 0xFFFFFFFF

Kind = Literal["infer", "result", "error", "ping", "ready", "drain"]
Layout = Literal["columns", "matrix", "text"]
ErrorKind = Literal["", "user", "model", "unavailable"]


class FrameError(IntegrityError):
    """The other side does not speak this protocol; the connection is of no more use."""


class Tensor(msgspec.Struct, frozen=True, array_like=True):
    """How to read one stretch of raw bytes.

    `columns` is float64 of shape (len(names), rows), one row of it a named column; `matrix` is one named float64
    array of shape `shape`; `text` is one named column of strings, `shape` = (rows,).
    """

    layout: Layout
    names: tuple[str, ...]
    shape: tuple[int, ...]
    num_bytes: int


class Header(msgspec.Struct, frozen=True, array_like=True):
    """What a frame is about; `id` pairs a result, or an error, with its request."""

    kind: Kind
    id: int = 0
    num_rows: int = 0
    tensors: tuple[Tensor, ...] = ()
    error: ErrorKind = ""
    text: str = ""
    hint: str = ""
    bundle: str = ""
    replica: str = ""
    max_rows: int = 0
    """Of a `ready` frame: rows of a batch beyond which this replica's time a row no longer falls."""


class Frame(msgspec.Struct, frozen=True):
    """One message: its header, and its arrays by name."""

    header: Header
    arrays: dict[str, np.ndarray]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Header)


def encode(header: Header, arrays: Mapping[str, np.ndarray] | None = None) -> bytes:
    """Return one frame. Arrays are float64 of one or two dimensions, or one-dimensional object arrays of str or None.

    Raises FrameError where the frame would be longer than MAX_FRAME_BYTES.
    """
    tensors, parts = _pack(arrays or {})
    if tensors:
        header = msgspec.structs.replace(header, tensors=tuple(tensors))
    head = _ENCODER.encode(header)
    length = 4 + len(head) + sum(map(len, parts))
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {length} bytes is longer than {MAX_FRAME_BYTES}", hint="send fewer rows at once")
    return b"".join((_LENGTHS.pack(length, len(head)), head, *parts))


def _pack(arrays: Mapping[str, np.ndarray]) -> tuple[list[Tensor], list[bytes]]:
    numbers: list[str] = []
    tensors: list[Tensor] = []
    parts: list[bytes] = []
    for name, array in arrays.items():
        if array.dtype == object:
            part = _pack_text(array)
            tensors.append(Tensor("text", (name,), array.shape, len(part)))
            parts.append(part)
        elif array.ndim == 1:
            numbers.append(name)
        else:
            part = np.ascontiguousarray(array, dtype="<f8").tobytes()
            tensors.append(Tensor("matrix", (name,), array.shape, len(part)))
            parts.append(part)
    if numbers:
        part = b"".join(np.ascontiguousarray(arrays[name], dtype="<f8").tobytes() for name in numbers)
        tensors.append(Tensor("columns", tuple(numbers), (len(numbers), len(arrays[numbers[0]])), len(part)))
        parts.append(part)
    return tensors, parts


def _pack_text(array: np.ndarray) -> bytes:
    texts: list[str | None] = array.tolist()
    joined = "".join([text or "" for text in texts])
    raw = joined.encode()
    if len(raw) == len(joined):  # as many bytes as characters: one look at all of them instead of one at each
        lengths = [_MISSING if text is None else len(text) for text in texts]
    else:
        lengths = [_MISSING if text is None else len(text.encode()) for text in texts]
    return struct.pack(f">{len(lengths)}I", *lengths) + raw


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._max = max_frame_bytes

    @property
    def num_waiting_bytes(self) -> int:
        """How much of an unfinished frame is held."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Take what arrived and return every frame that is now complete.

        Raises FrameError as soon as a length or a header is out of bounds; the reader is then of no more use.
        """
        held: bytes | bytearray | memoryview = data
        if self._buffer:
            self._buffer += data
            held = self._buffer
        frames = []
        start, num_bytes = 0, len(held)
        while num_bytes - start >= _LENGTHS.size:
            length, head_length = _LENGTHS.unpack_from(held, start)
            if not 4 < length <= self._max or not 0 < head_length <= min(length - 4, MAX_HEADER_BYTES):
                raise FrameError(f"a frame announces {length} bytes with a header of {head_length}")
            end = start + 4 + length
            if num_bytes < end:
                break
            head = start + _LENGTHS.size
            frames.append(_decode(bytes(held[head : head + head_length]), bytes(held[head + head_length : end])))
            start = end
        if held is self._buffer:
            del self._buffer[:start]
        elif start < num_bytes:  # most often the bytes end where a frame ends, and nothing need be held
            self._buffer += held[start:]
        return frames


def _decode(head: bytes, body: bytes) -> Frame:
    try:
        header = _DECODER.decode(head)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise FrameError(f"a frame's header is not readable: {error}") from error
    if len(header.tensors) > MAX_TENSORS:
        raise FrameError(f"a frame lists {len(header.tensors)} tensors")
    arrays: dict[str, np.ndarray] = {}
    offset = 0
    for tensor in header.tensors:
        if tensor.num_bytes < 0 or offset + tensor.num_bytes > len(body):
            raise FrameError("a tensor reaches beyond its frame")
        for name, array in _unpack(tensor, memoryview(body)[offset : offset + tensor.num_bytes]):
            if name in arrays:
                raise FrameError(f"a frame names '{name}' twice")
            arrays[name] = array
        offset += tensor.num_bytes
    if offset != len(body):
        raise FrameError("a frame is longer than its tensors")
    return Frame(header, arrays)


def _unpack(tensor: Tensor, raw: memoryview) -> list[tuple[str, np.ndarray]]:
    shape = tensor.shape
    if not 1 <= len(shape) <= 2 or min(shape) < 0 or max(shape) > MAX_FRAME_BYTES:
        raise FrameError(f"a tensor has the shape {shape}")
    if tensor.layout == "text":
        if len(shape) != 1 or len(tensor.names) != 1:
            raise FrameError("a text tensor is not one column")
        return [(tensor.names[0], _unpack_text(shape[0], raw))]
    if math.prod(shape) * 8 != len(raw):
        raise FrameError(f"a tensor of shape {shape} has {len(raw)} bytes")
    values = np.frombuffer(raw, dtype="<f8").reshape(shape)
    if tensor.layout == "matrix":
        if len(tensor.names) != 1:
            raise FrameError("a matrix has one name")
        return [(tensor.names[0], values)]
    if len(shape) != 2 or len(tensor.names) != shape[0]:
        raise FrameError("a tensor's names do not fit its columns")
    return list(zip(tensor.names, values, strict=True))


def _unpack_text(num_rows: int, raw: memoryview) -> np.ndarray:
    start = num_rows * 4
    if start > len(raw):
        raise FrameError("a text tensor is shorter than its rows")
    lengths = struct.unpack_from(f">{num_rows}I", raw)
    missing = [row for row, length in enumerate(lengths) if length == _MISSING] if _MISSING in lengths else ()
    stops = list(accumulate([0 if length == _MISSING else length for length in lengths] if missing else lengths))
    num_bytes = stops[-1] if stops else 0
    if num_bytes != len(raw) - start:
        raise FrameError(f"the texts of a tensor should have {num_bytes} bytes and have {len(raw) - start}")
    array = np.empty(num_rows, dtype=object)
    try:
        whole = str(raw[start:], "utf-8")
        if len(whole) == num_bytes:  # as many characters as bytes: cut what was decoded at once
            array[:] = [whole[begin:stop] for begin, stop in pairwise((0, *stops))]
        else:
            array[:] = [str(raw[start + begin : start + stop], "utf-8") for begin, stop in pairwise((0, *stops))]
    except UnicodeDecodeError as error:
        raise FrameError("a text is not UTF-8") from error
    for row in missing:
        array[row] = None
    return array
