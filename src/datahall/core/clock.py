"""The clock on the wall; tests and the twin hand in another one."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING


class SystemClock:
    """The machine's own time."""

    # The functions themselves: a gateway asks several times for each answer.
    now_ns = staticmethod(time.time_ns)
    """Return nanoseconds since 1970-01-01 UTC."""

    monotonic_ns = staticmethod(time.monotonic_ns)
    """Return nanoseconds of a clock that never goes back; only differences mean anything."""

    def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        time.sleep(seconds)


def iso(ns: int) -> str:
    """Return nanoseconds since the epoch as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


if TYPE_CHECKING:
    from datahall.core.ports.clock import Clock

    _: Clock = SystemClock()
