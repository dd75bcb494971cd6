"""Whether calls are sent to a second replica: when the first was lost, failed or is late, within a budget."""

from __future__ import annotations

from typing import Literal

import msgspec

MAX_ATTEMPTS = 3
"""A call is sent to replicas at most so often, hedges included."""
RATIO = 0.1
"""Each call that comes pays in so much; sending one again costs 1."""
PER_S = 10.0
"""Each second pays in so much, so that an application with few calls has a budget too."""

Why = Literal["lost", "failed", "late"]


class Budget(msgspec.Struct, frozen=True, gc=False):
    """What may be spent on sending calls again, in calls, and when it was last counted."""

    tokens: float
    at_ns: int


class RetryView(msgspec.Struct, frozen=True, gc=False):
    """The calls in question, all of one batch, and what there is for them."""

    num_calls: int
    num_attempts: int
    """How often the most tried of them has been sent."""
    deadline_ns: int
    """The latest of their deadlines."""
    needs_ns: float
    """Predicted time of another try."""
    num_others: int
    """Other replicas that could take them: for a hedge, idle ones."""
    num_new: int
    """Calls that have come since the last decision."""
    reserve: float
    """The most that the budget ever holds: what one lost replica may cost at once."""
    idempotent: bool = True
    """Whether asking twice has no other effect than asking once; predictions are so."""


class Trouble(msgspec.Struct, frozen=True, gc=False, tag=True):
    """What happened to the batch."""

    why: Why


def decide(
    state: Budget, view: RetryView, event: Trouble, now: int, draw: float
) -> tuple[Budget, Literal["again", "stop"], str]:
    """Return the budget left, whether the calls are sent again, and why (not).

    Over any time t (s) with n calls, at most `reserve + RATIO x n + PER_S x t` calls are sent again, so retries cannot
    make an overload worse by more than that. `now` is in nanoseconds; `draw` is not used: nothing here is random.
    """
    assert 0.0 <= draw < 1.0, "draw is a uniform number"
    paid = RATIO * view.num_new + PER_S * (now - state.at_ns) / 1e9
    tokens = min(view.reserve, state.tokens + paid)
    stop = _why_stop(view, now, tokens)
    if stop:
        return Budget(tokens, now), "stop", stop
    return Budget(tokens - view.num_calls, now), "again", event.why


def _why_stop(view: RetryView, now: int, tokens: float) -> str:
    if not view.idempotent:
        return "asking twice could have two effects"
    if view.num_attempts >= MAX_ATTEMPTS:
        return "tried often enough"
    if now + view.needs_ns >= view.deadline_ns:
        return "no answer would come in time"
    if view.num_others < 1:
        return "no other replica could answer"
    if tokens < view.num_calls:
        return "the budget is spent"
    return ""
