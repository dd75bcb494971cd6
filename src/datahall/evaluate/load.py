"""The load generator: sends requests one after another or on a timetable, and says how long each took."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from datahall.core.ports import Clock


def generate(
    send: Callable[[int], None], *, num_requests: int, clock: Clock, rate_per_s: float | None = None
) -> np.ndarray:
    """Call `send(0)`, `send(1)`, ... and return each request's latency in milliseconds, shape (num_requests,).

    Without a rate each request is sent when the one before is answered. With one, requests are due on a timetable
    and latency counts from then, so that waiting behind a slow answer is not left out (Tene's "coordinated
    omission"). Whatever `send` raises ends the measurement.
    """
    took_ns = np.empty(num_requests)
    begin_ns = clock.monotonic_ns()
    for number in range(num_requests):
        due_ns = clock.monotonic_ns()
        if rate_per_s is not None:
            due_ns = begin_ns + int(number * 1e9 / rate_per_s)
            ahead_ns = due_ns - clock.monotonic_ns()
            if ahead_ns > 0:
                clock.sleep(ahead_ns / 1e9)
        send(number)
        took_ns[number] = clock.monotonic_ns() - due_ns
    return took_ns / 1e6
