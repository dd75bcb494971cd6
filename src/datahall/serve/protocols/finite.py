"""Numbers that JSON can say."""

from __future__ import annotations

from typing import Any

import msgspec

from datahall.core.errors import DatahallError

_encode = msgspec.json.Encoder().encode
_NOT_FINITE = "the model answered with a number that is not finite"


def encode_finite(numbers: Any) -> bytes:
    """Return a number, or (nested) lists of numbers, as JSON.

    Raises DatahallError for NaN and infinities, which JSON cannot say.
    """
    encoded = _encode(numbers)
    if b"n" in encoded:  # msgspec writes `null` for them, and no number has an n
        raise DatahallError(_NOT_FINITE)
    return encoded
