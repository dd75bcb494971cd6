"""One byte form for one value, so that equal things have equal digests."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import msgspec

_ENCODER = msgspec.json.Encoder(order="sorted")


def canonical_json(value: Any) -> bytes:
    """Return `value` as UTF-8 JSON with sorted keys and no white space.

    Raises ValueError for NaN and infinities, which JSON cannot say and which would otherwise become null.
    """
    encoded = _ENCODER.encode(value)
    if b"null" in encoded:  # the encoder writes NaN and infinities as null too: only then is a look worth its time
        _refuse_non_finite(msgspec.to_builtins(value))
    return encoded


def digest_bytes(data: bytes | bytearray | memoryview) -> str:
    """Return the SHA-256 of `data` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of `value`."""
    return digest_bytes(canonical_json(value))


def _refuse_non_finite(value: Any) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"{item} has no canonical form; store None or leave the field out")
        if isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)
