"""A clock that goes on only when somebody waits for it, and whose wall can be set, as machines' can."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

_START_NS = 1_700_000_000 * 1_000_000_000  # an ordinary day, so that ids and dates look like real ones


class AutoClock:
    """Time that stands still until `sleep` or `advance` moves it, at once (the idea of trio's MockClock).

    Safe to share between threads.
    """

    def __init__(self, now_ns: int = _START_NS) -> None:
        self._now_ns = now_ns
        self._monotonic_ns = 0
        self.frozen = False
        """Whether the wall's time stands still, whatever goes on."""
        self._guard = threading.Lock()

    def now_ns(self) -> int:
        """Return nanoseconds since 1970-01-01 UTC."""
        return self._now_ns

    def monotonic_ns(self) -> int:
        """Return nanoseconds since this clock was made."""
        return self._monotonic_ns

    def sleep(self, seconds: float) -> None:
        """Move time on by `seconds`, without waiting."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move time on by `seconds`, which may not be negative."""
        assert seconds >= 0, "time does not go back"
        with self._guard:
            self._monotonic_ns += round(seconds * 1_000_000_000)
            if not self.frozen:
                self._now_ns += round(seconds * 1_000_000_000)

    def jump(self, seconds: float) -> None:
        """Set the wall's time on, or back where `seconds` is negative; the monotonic clock hears nothing of it."""
        with self._guard:
            self._now_ns += round(seconds * 1_000_000_000)


class JumpingClock(AutoClock):
    """As AutoClock, on a machine whose wall clock is set to another time now and then."""

    _off_ns = 0

    def now_ns(self) -> int:
        """Return nanoseconds since 1970-01-01 UTC, as the wall clock shows them."""
        return super().now_ns() + self._off_ns

    def jump(self, seconds: float) -> None:
        """Set the wall clock forth, or back; no time passes."""
        self._off_ns += round(seconds * 1_000_000_000)


if TYPE_CHECKING:
    from datahall.core.ports import Clock

    _: Clock = AutoClock()
