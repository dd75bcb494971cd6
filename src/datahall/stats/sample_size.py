"""How many rows would settle a claim; plain arithmetic, no arrays."""

from __future__ import annotations

import math


def rows_to_settle(*, estimate: float, lower: float | None, upper: float | None, bound: float, num: int) -> int | None:
    """Return about how many rows would put `bound` outside the interval, if the estimate stays as it is.

    The distance between an estimate and its confidence bound shrinks with the square root of the rows, so the
    rows grow with the square of (distance to the confidence bound / distance to the demanded bound); the side
    of the interval that faces `bound` is the one that counts. None where that side is unknown, where the
    estimate sits on the bound, or beyond a thousand million rows. Source: the normal approximation, for
    instance Cochran (1977), Sampling Techniques, chapter 4.
    """
    facing = lower if estimate > bound else upper
    if facing is None or estimate == bound or num < 1:
        return None
    needed = num * ((estimate - facing) / (estimate - bound)) ** 2
    if not math.isfinite(needed) or needed > 1e9:
        return None
    return max(math.ceil(needed), num + 1)
