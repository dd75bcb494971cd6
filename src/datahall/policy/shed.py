"""Decides what a gateway does with connections whose requests it refuses, when even refusing costs too much.

A refusal is cheap but not free, and a client that asks again at once makes thousands of them. Up to a rate, each gets its
answer at once. Beyond it the connection is not read until its refusal is paid for, so that the kernel's buffers and TCP's
flow control hold back a client that ignores Retry-After, at no cost here; one that goes on for long is closed. Mistakes
count like want of room, for they are in no quota: else wrong keys could be tried for free, as fast as a machine can.
"""

from __future__ import annotations

from typing import Final

import msgspec

WINDOW_NS: Final = 100_000_000
"""Refusals of so long come at once before a connection must rest; no rest is shorter."""
MAX_REST_NS: Final = 1_000_000_000
FEW_MISTAKES: Final = 8
"""A client that is told of so many mistakes in a row notices nothing, whatever others do."""

GO_ON: Final = 0
CLOSE: Final = -1


class ShedState(msgspec.Struct, frozen=True, gc=False):
    """What was refused."""

    paid_ns: int = 0
    """When all refusals so far are paid for, at the rate that is affordable."""


class ShedView(msgspec.Struct, frozen=True, gc=False):
    """What the gateway may spend on refusals."""

    max_refusals_per_s: int
    max_in_a_row: int
    """After so many refusals without an answer between them a connection is closed, if that is still too much."""


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A connection's request is refused."""

    num_in_a_row: int
    """Refusals that it got since its last answer, this one included."""
    mistaken: bool = False
    """Whether it is the client's mistake (a wrong key, what it may not do, what is not there), not want of room."""


def decide(state: ShedState, view: ShedView, event: Refused, now: int, draw: float) -> tuple[ShedState, int, str]:
    """Return for how many nanoseconds the connection is not read: `GO_ON`, a rest, or `CLOSE`, for good.

    Rests end one after another at the rate, however many connections there are: n that ask again at once, whatever they
    are told, cost no more than that rate until it takes longer than `MAX_REST_NS` to pay for one refusal each. `now` in
    ns; `draw` is not used.
    """
    assert 0.0 <= draw < 1.0, "draw is a uniform number"
    paid_ns = max(state.paid_ns, now) + 1_000_000_000 // view.max_refusals_per_s
    rest_ns = min(paid_ns - now, MAX_REST_NS)
    state = ShedState(now + rest_ns)
    if rest_ns <= WINDOW_NS:
        return state, GO_ON, "refusals are affordable"
    if event.mistaken and event.num_in_a_row <= FEW_MISTAKES:
        return state, GO_ON, "a few mistakes"
    if event.num_in_a_row > view.max_in_a_row:
        return state, CLOSE, f"{event.num_in_a_row} refusals in a row"
    return state, rest_ns, f"more than {view.max_refusals_per_s} refusals a second"
