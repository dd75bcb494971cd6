"""A decision with all that it was taken on."""

from __future__ import annotations

from typing import Any

import msgspec


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a policy: its arguments as plain data, and what it answered."""

    policy: str
    """Name of the module in `datahall.policy`."""
    state: Any
    view: Any
    event: Any
    now: int
    """As the policy was told it: nanoseconds of the monotonic clock for waits, since the epoch elsewhere."""
    draw: float
    new_state: Any
    decision: Any
    reason: str
    code: str = ""
    """Which code decided: the beginning of a digest over all policies; empty where that was not noted."""
