"""Decides what a gateway does with connections whose requests it refuses, when even refusing costs too much.

A refusal is cheap but not free. Up to a rate, each gets its answer at once. Beyond it the connection is not read for a
while, so that the kernel's buffers and TCP's flow control hold back a client that ignores Retry-After, at no cost here;
one that goes on for long is closed.
"""

from __future__ import annotations

from typing import Literal

import msgspec

WINDOW_NS = 100_000_000
"""Refusals are counted over this time, and a rest lasts as long."""


class ShedState(msgspec.Struct, frozen=True, gc=False):
    """Refusals since the window began."""

    began_ns: int = 0
    num_refused: int = 0


class ShedView(msgspec.Struct, frozen=True, gc=False):
    """What the gateway may spend on refusals."""

    max_refusals_per_s: int
    max_in_a_row: int
    """After so many refusals without an answer between them a connection is closed, if that is still too much."""


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A connection's request is refused."""

    num_in_a_row: int
    """Refusals that it got since its last answer, this one included."""


Shed = Literal["go on", "rest", "close"]


def decide(state: ShedState, view: ShedView, event: Refused, now: int, draw: float) -> tuple[ShedState, Shed, str]:
    """Return whether the connection is read on, rests for WINDOW_NS, or is closed. `now` in ns; `draw` is not used."""
    assert 0.0 <= draw < 1.0, "draw is a uniform number"
    if not 0 <= now - state.began_ns < WINDOW_NS:
        state = ShedState(now, 0)
    state = ShedState(state.began_ns, state.num_refused + 1)
    if state.num_refused * 1_000_000_000 <= view.max_refusals_per_s * WINDOW_NS:
        return state, "go on", "refusals are affordable"
    if event.num_in_a_row > view.max_in_a_row:
        return state, "close", f"{event.num_in_a_row} refusals in a row"
    return state, "rest", f"more than {view.max_refusals_per_s} refusals a second"
