"""Time as an argument."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Tells the time and waits."""

    def now_ns(self) -> int:
        """Return nanoseconds since 1970-01-01 UTC."""

    def monotonic_ns(self) -> int:
        """Return nanoseconds of a clock that never goes back."""

    def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
