"""The binary tensor data extension of the Open Inference Protocol: tensors as bytes behind the JSON.

A body is the JSON, as long as the header `Inference-Header-Content-Length` says, and then, in the order of their
tensors, as many bytes as each tensor's `binary_data_size` says. Numbers are little-endian, a BOOL is one byte, 0 or
1, and each element of a BYTES tensor is its length as a 32-bit number and then its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from datahall.core.errors import UserError

LENGTH_HEADER = "Inference-Header-Content-Length"
SIZE = "binary_data_size"
BINARY_TYPE = b"application/octet-stream"
_DTYPES: Mapping[str, np.dtype[Any]] = {
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_LENGTH = struct.Struct("<I")
_MAX_DIGITS = 12


def split(body: bytes | bytearray, header: bytes) -> tuple[bytes, bytes]:
    """Return the JSON of a body and what stands behind it; `header` says how long the JSON is.

    Raises UserError where that is no length, or more than there is.
    """
    if not header.isdigit() or len(header) > _MAX_DIGITS:
        raise UserError(f"{LENGTH_HEADER} is no number of bytes", hint="send the length of the JSON in digits")
    length = int(header)
    if length > len(body):
        raise UserError(f"{LENGTH_HEADER} is {length}, but the body has {len(body)} bytes", hint="send all of it")
    return bytes(body[:length]), bytes(body[length:])


def share_out(tail: bytes, named_sizes: Sequence[tuple[str, Any]]) -> list[bytes | None]:
    """Return each tensor's bytes, None for one without; `named_sizes` are names and `binary_data_size`, None too.

    Raises UserError where a size is none, or where the sizes and the bytes do not agree.
    """
    parts: list[bytes | None] = []
    start = 0
    for name, size in named_sizes:
        if size is None:
            parts.append(None)
            continue
        if type(size) is not int or not 0 <= size <= len(tail) - start:
            raise UserError(
                f"'{name[:80]}' has the {SIZE} {str(size)[:20]}, and {len(tail) - start} bytes are left",
                hint=f"send as many bytes behind the JSON as the tensors' {SIZE} say",
            )
        parts.append(tail[start : start + size])
        start += size
    if start != len(tail):
        raise UserError(
            f"{len(tail) - start} bytes behind the JSON belong to no tensor",
            hint=f"give each binary tensor its {SIZE}",
        )
    return parts


def read_values(name: str, datatype: str, data: bytes) -> list[Any]:
    """Return one tensor's elements. A NaN is a missing value, as JSON's null is.

    Raises UserError where the bytes are not elements of `datatype`.
    """
    if datatype == "BYTES":
        return _read_texts(name, data)
    if datatype == "BOOL":
        if data.translate(None, b"\0\1"):
            raise UserError(f"'{name[:80]}' has a BOOL that is neither 0 nor 1", hint="send one byte for each")
        return [byte == 1 for byte in data]
    dtype = _DTYPES[datatype]
    if len(data) % dtype.itemsize:
        raise UserError(
            f"'{name[:80]}' has {len(data)} bytes, and an {datatype} has {dtype.itemsize}", hint="send whole numbers"
        )
    with np.errstate(invalid="ignore"):  # a signalling NaN is one like any other
        array = np.frombuffer(data, dtype=dtype).astype(np.float64)
    if np.isinf(array).any():
        raise UserError(f"'{name[:80]}' has an infinity", hint="send finite numbers")
    return np.where(np.isnan(array), None, array).tolist() if np.isnan(array).any() else array.tolist()  # type: ignore[no-any-return, call-overload]


def _read_texts(name: str, data: bytes) -> list[str]:
    texts = []
    start = 0
    while start < len(data):
        stop = start + _LENGTH.size
        if stop > len(data):
            raise UserError(f"'{name[:80]}' ends within the length of a text", hint="send whole elements")
        (length,) = _LENGTH.unpack_from(data, start)
        start, stop = stop, stop + length
        if stop > len(data):
            raise UserError(f"'{name[:80]}' has a text that is longer than its data", hint="send whole elements")
        try:
            texts.append(data[start:stop].decode())
        except UnicodeDecodeError:
            raise UserError(f"'{name[:80]}' has a text that is not UTF-8", hint="encode texts as UTF-8") from None
        start = stop
    return texts


def write_values(datatype: str, values: Sequence[Any]) -> bytes:
    """Return elements as bytes: numbers as FP64, texts as BYTES."""
    if datatype == "BYTES":
        encoded = [str(value).encode() for value in values]
        return b"".join(_LENGTH.pack(len(one)) + one for one in encoded)
    return np.array(values, dtype="<f8").tobytes()
