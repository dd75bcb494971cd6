"""Numbers that JSON can say."""

from __future__ import annotations

from typing import Any

import numpy as np

from datahall.core.errors import DatahallError


def finite_list(array: np.ndarray) -> list[Any]:
    """Return the numbers as (nested) lists. Raises DatahallError for NaN and infinities, which JSON cannot say."""
    if not np.isfinite(array).all():
        raise DatahallError("the model answered with a number that is not finite")
    return array.tolist()  # type: ignore[no-any-return]
