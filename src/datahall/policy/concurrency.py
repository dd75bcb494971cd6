"""Decides how many requests may be worked on at a time, from how much longer answers take than when little is asked."""

from __future__ import annotations

import math
from typing import Final

import msgspec

PROBE_EVERY_NS: Final = 10_000_000_000
PROBE_MAX_NS: Final = 2_000_000_000
_EWMA: Final = 0.2
"""The weight of a new window in the base."""


class LimitView(msgspec.Struct, frozen=True, gc=False):
    """Bounds of the limit, and how many times the base an answer may take."""

    floor: int = 16
    """A probe goes below it for a moment."""
    ceiling: int = 4096
    calm: int = 256
    """What the limit is without any measurement, and comes back to while nothing is slow."""
    tolerance: float = 3.0
    unfelt_ns: float = 10_000_000.0
    """No answer that takes less is too late, however many times the base it is."""
    learns: bool = True
    """Whether the base follows what is measured; otherwise it stays as the state has it."""
    crowd_ns: float = 200_000_000.0
    """What an answer may take where it is cheap: a crowd that waits its turn bounds itself, and one refused asks again."""
    cheap_ns: float = 150_000.0
    """Answers are cheap that follow one another so closely or more. A refusal costs about a tenth of such an answer or more,
    so refusing is no way to do more; for dearer ones the time falls with the cube of the price."""


class Window(msgspec.Struct, frozen=True, gc=False):
    """What was measured since the last decision."""

    mean_ns: float
    """How long answers took; above 0."""
    peak_in_flight: int
    pace_ns: float = 0.0
    """From one answer to the next, idle times included; 0 is not known."""


class LimitState(msgspec.Struct, frozen=True, gc=False):
    """The limit and what it is judged by."""

    limit: float
    base_ns: float = 0.0
    """How long an answer takes where none waits for others; 0 is not known yet."""
    based_at_ns: int = 0
    """When the base was last known to be true."""
    probing: int = 0
    """0, or 1 and the number of windows in which a probe has found little in flight."""
    probed_at_ns: int = 0
    """When the probe began."""


def decide(state: LimitState, view: LimitView, event: Window, now: int, draw: float) -> tuple[LimitState, int, str]:
    """Return the limit after a window of measurements; at least 1.

    limit <- limit * min(1, allowed / mean) + sqrt(limit), with `allowed_ns` for allowed: a gradient on latency with room for a
    queue that grows with the square root, the idea of Netflix's Gradient2 and of Envoy's adaptive concurrency. In a system
    that takes B requests at a time it comes to rest near tolerance * B; where answers are worked out in batches the
    tolerance is what allows batches to grow. One window takes a quarter away at most, so noise costs little. Upwards
    it goes while half of the limit is in use, by a quarter more where answers take less than half of what they may, and
    where they are cheap by all that fits; and while nothing is slow, up to what it is in calm.

    A base taken while a queue stands would hide the queue. So it rises only where a quarter of the floor is in flight at
    most; where that does not come by itself and the limit sheds, it is brought about: every 10 to 12.5 s (by `draw`,
    lest gateways do it together) a probe lowers the limit to a quarter until two windows have shown it, for 2 s at most.
    """
    assert event.mean_ns > 0, "an answer takes some time"
    if state.probing:
        return _probe(state, event, now)
    state = _learn(state, view, event, now)
    allowed = allowed_ns(state, view, event)
    slow = event.mean_ns > allowed
    # Low priority is refused from three quarters of the limit on; below that nobody is, and a probe would be the first.
    sheds = 4 * event.peak_in_flight >= 3 * int(state.limit)
    if slow and sheds and view.learns and now - state.based_at_ns >= PROBE_EVERY_NS * (1.0 + draw / 4.0):
        state = msgspec.structs.replace(state, probing=1, probed_at_ns=now)
        return state, _quarter(state), "probing"
    limit, reason = state.limit, "enough"
    if slow:
        # What is not used is no cause: a limit far above what is in flight comes down to it first.
        used = min(limit, 2.0 * event.peak_in_flight)
        target = used * max(0.5, allowed / event.mean_ns) + math.sqrt(used)
        limit, reason = max(0.75 * limit, min(limit + math.sqrt(limit), (limit + target) / 2.0)), "answers take longer"
    elif 2 * event.peak_in_flight >= limit:
        quick = 2.0 * event.mean_ns <= allowed
        limit, reason = limit * (1.25 if quick else 1.0) + math.sqrt(limit), "grown"
        if quick:
            # Room at once for as many as can wait: refused, they come again at once. While a crowd comes its answers have
            # not waited yet as long as they will, so here the pace is taken from their number as well.
            pace_ns = max(event.pace_ns, event.mean_ns / event.peak_in_flight)
            limit = max(limit, crowd_ns(view.crowd_ns, view.cheap_ns, pace_ns) / pace_ns)
    elif limit < view.calm:
        limit, reason = min(float(view.calm), limit + math.sqrt(limit)), "calm"
    limit = min(float(view.ceiling), max(float(view.floor), limit))
    return msgspec.structs.replace(state, limit=limit), int(limit), reason


def allowed_ns(state: LimitState, view: LimitView, event: Window) -> float:
    """Return how long answers may take: `tolerance` times the base, or what nobody feels, or what a crowd may wait.

    By Little's law answers follow one another every mean / (in flight on average), which the peak bounds from below.
    """
    return max(view.tolerance * state.base_ns, view.unfelt_ns, _waits_its_turn(view, event))


def crowd_ns(most_ns: float, cheap_ns: float, pace_ns: float) -> float:
    """Return how long a crowd may wait whose answers follow one another every `pace_ns` (above 0)."""
    return most_ns * min(1.0, (cheap_ns / pace_ns) ** 3)


def _waits_its_turn(view: LimitView, event: Window) -> float:
    return crowd_ns(view.crowd_ns, view.cheap_ns, event.mean_ns / max(1, event.peak_in_flight))


def _learn(state: LimitState, view: LimitView, event: Window, now: int) -> LimitState:
    if not view.learns:
        return state
    if state.base_ns == 0.0:
        return msgspec.structs.replace(state, base_ns=event.mean_ns, based_at_ns=now)
    quiet = 4 * event.peak_in_flight <= view.floor
    if not quiet and event.mean_ns >= state.base_ns:
        return state
    base_ns = state.base_ns + _EWMA * (event.mean_ns - state.base_ns)
    return msgspec.structs.replace(state, base_ns=base_ns, based_at_ns=now if quiet else state.based_at_ns)


def _probe(state: LimitState, event: Window, now: int) -> tuple[LimitState, int, str]:
    if event.peak_in_flight <= _quarter(state):
        state = msgspec.structs.replace(state, probing=state.probing + 1)
    if state.probing == 3:
        state = msgspec.structs.replace(state, base_ns=event.mean_ns, based_at_ns=now, probing=0)
        return state, int(state.limit), "probed"
    if now - state.probed_at_ns >= PROBE_MAX_NS:
        state = msgspec.structs.replace(state, based_at_ns=now, probing=0)
        return state, int(state.limit), "probe given up"
    return state, _quarter(state), "probing"


def _quarter(state: LimitState) -> int:
    return max(1, int(state.limit) // 4)
