"""Decides whether a request fits into a rate, and if not, exactly when it would."""

from __future__ import annotations

from typing import Final

import msgspec

NEVER: Final = -1
"""The wait of a request that costs more than the whole burst."""


class RateLimit(msgspec.Struct, frozen=True, gc=False):
    """One request each `interval_ns`; `span_ns` is what a whole burst takes at that pace, 0 where nothing may come."""

    interval_ns: int
    span_ns: int

    @property
    def burst(self) -> int:
        """How many requests may come at once."""
        return self.span_ns // self.interval_ns


def decide(
    state: int,
    view: RateLimit,
    event: int,
    now: int,
    draw: float,  # noqa: ARG001  every policy takes one; an assertion would cost a tenth of the decision
) -> tuple[int, int, str]:
    """Return the state after a request that costs `event`, and 0, or the nanoseconds until it would fit, or NEVER.

    The generic cell rate algorithm in its virtual scheduling form (ITU-T Recommendation I.371, annex A). The state is the
    theoretical arrival time in nanoseconds, 0 at first: when the next request would come if all came evenly.
    From any moment, in any stretch of W nanoseconds, requests that cost at most burst + W / interval are admitted. A clock
    that goes back admits nothing more. A refused request costs nothing. `draw` is not used: nothing here is random.
    """
    cost_ns = event * view.interval_ns
    after = (max(now, state)) + cost_ns  # `max` would cost twice as much as all the rest
    wait_ns = after - view.span_ns - now
    if wait_ns <= 0:
        return after, 0, "admitted"
    if cost_ns > view.span_ns:
        return state, NEVER, "never"
    return state, wait_ns, "wait"


def refit(state: int, old: RateLimit, new: RateLimit, now: int) -> int:
    """Return the state under another limit with as many requests to spare as before, or the whole new burst if that is less.

    So a change of limits gives nobody a second burst. Fractions of a request are rounded against the asker.
    """
    spare_ns = min(old.span_ns, old.span_ns - (state - now))
    spare = spare_ns * new.interval_ns // old.interval_ns
    return now + new.span_ns - min(spare, new.span_ns)
