"""Whether a replica gets batches: a circuit breaker on failures, and ejection of one that is slower than its siblings.

```
closed --failures in a row | slow in a row | no answer while siblings answer | lost--> open
open --its time is over, and it is connected--> half_open --good batches in a row--> closed
                                                half_open --one bad batch--> open, for twice as long
```
"""

from __future__ import annotations

from typing import Literal

import msgspec

NUM_FAILURES = 5
"""So many failed batches in a row open the circuit."""
SLOW_RATIO = 4.0
"""A batch is slow that took so many times its siblings' median for batches of its size ..."""
SLOW_EXCESS_NS = 2_000_000
"""... and so much longer: below it, the scheduler's noise on a fast model would look like a fault."""
GOOD_RATIO = 2.0
"""A batch that takes less than so many times the usual ends a doubt; one between good and slow settles nothing, but
raises one: a replica that is slower than its siblings is seldom drawn, so without a doubt it would never be judged."""
NUM_SLOW = 3
"""So many slow batches in a row eject."""
HANG_RATIO = 10.0
"""A batch hangs that has waited so many times its usual time ..."""
MIN_HANG_NS = 300_000_000
"""... but not less than this, ..."""
MAX_HANG_NS = 2_000_000_000
"""... and not more than this, unless that is less than `SLOW_RATIO` times the usual."""
MAX_EJECTED_PART = 0.5
"""Of the connected replicas at most this part may be ejected at a time, but always one of two or more."""
NUM_GOOD = 3
"""So many good batches in a row end the probation."""
DOUBT_NS = 150_000_000
"""A replica whose last batch was late or failed is tried so often, until the doubt ends in one way or the other."""
NUM_PASSED = 16
"""A replica is tried that has been passed over so many times for each of the deployment's: whoever was the slowest once
would else never be asked again, and nobody would know how it is now; nor how one is that is no gateway's own."""
MAX_DOUBLINGS = 30
"""Beyond it a wait doubles no more: what has failed a thousand times would have no number for its wait."""
FIRST_OPEN_NS = 1_000_000_000
LAST_OPEN_NS = 5_000_000_000
"""Not long: trying an ill replica costs one batch, and clients get its answer from another one if it is late."""
FORGET_NS = 5_000_000_000
"""Each such time of health makes up for one earlier ejection."""

Phase = Literal["closed", "open", "half_open"]
Decision = Literal["stay", "eject", "try", "return"]


class Health(msgspec.Struct, frozen=True, gc=False):
    """What is remembered of one replica."""

    phase: Phase = "closed"
    num_failures: int = 0
    """In a row."""
    num_slow: int = 0
    """In a row."""
    num_good: int = 0
    """In a row, on probation."""
    num_ejections: int = 0
    """Those that no `FORGET_NS` of health has made up for."""
    until_ns: int = 0
    """While open: when it may be tried."""
    since_ns: int = 0
    """Since when it has been closed."""
    suspect: bool = False
    """Whether a batch has taken longer than it should, though perhaps not so long that it was slow, and none good since."""


class HealthView(msgspec.Struct, frozen=True, gc=False):
    """What is known of the replica's siblings."""

    num_replicas: int
    """Connected ones of the deployment, this one included."""
    num_ejected: int
    """Of the others, those that are not closed."""
    usual_ns: float = 0.0
    """Median of the siblings' times for a batch of this size or the next larger one known; 0 where nobody knows."""
    sibling_answered: bool = False
    """Whether a sibling has answered since this batch was sent."""


class Answered(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A batch was answered."""

    took_ns: int


class Failed(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A batch failed by the replica's fault, not by its input's."""


class Waiting(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A batch is not answered yet."""

    waited_ns: int


class Lost(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The connection ended in the middle of a batch."""


class Due(msgspec.Struct, frozen=True, gc=False, tag=True):
    """It is connected, and its time out may be over."""


Event = Answered | Failed | Waiting | Lost | Due


def decide(state: Health, view: HealthView, event: Event, now: int, draw: float) -> tuple[Health, Decision, str]:
    """Return the replica's new health, what that means, and why; times in nanoseconds of a monotonic clock.

    `draw` spreads the end of a time out, so that gateways do not come back in step. The last replica that is left is
    never ejected, nor more than `MAX_EJECTED_PART`; only a lost one is out whatever the others do, because it is.
    """
    assert 0.0 <= draw < 1.0, "draw is a uniform number"
    if isinstance(event, Answered):
        return _answered(state, view, event.took_ns, now, draw)
    if isinstance(event, Waiting):
        return _waiting(state, view, event.waited_ns, now, draw)
    if isinstance(event, Failed):
        return _failed(state, view, now, draw)
    if isinstance(event, Lost):
        return _open(state, now, draw, 1), "eject", "its connection was lost"
    if state.phase == "open" and now >= state.until_ns:
        return msgspec.structs.replace(state, phase="half_open", num_good=0), "try", "its time out is over"
    return state, "stay", ""


def is_due(state: Health, idle_ns: int) -> bool:
    """Return whether a replica that has had no batch for `idle_ns` must be tried, so that a doubt about it ends."""
    doubtful = state.suspect or state.num_failures > 0
    return state.phase == "half_open" or (state.phase == "closed" and doubtful and idle_ns >= DOUBT_NS)


def is_forgotten(num_passed: int, num_replicas: int) -> bool:
    """Return whether one of so many must be tried that did not get any of the last `num_passed` batches."""
    return num_passed >= NUM_PASSED * num_replicas


def is_trusted(state: Health, idle_ns: int) -> bool:
    """Return whether it gets batches while others are there: one that fails fast would else draw all of them."""
    return (state.phase == "closed" and state.num_failures == 0) or is_due(state, idle_ns)


def hang_ns(usual_ns: float) -> float:
    """Return after how long without an answer a batch hangs that usually takes `usual_ns` (0 where nobody knows)."""
    if usual_ns <= 0:
        return MAX_HANG_NS
    return min(max(HANG_RATIO * usual_ns, MIN_HANG_NS), max(MAX_HANG_NS, SLOW_RATIO * usual_ns))


def is_slow(took_ns: float, usual_ns: float) -> bool:
    """Return whether a batch took far longer than its siblings' would."""
    return usual_ns > 0 and took_ns >= SLOW_RATIO * usual_ns and took_ns - usual_ns >= SLOW_EXCESS_NS


def is_good(took_ns: float, usual_ns: float) -> bool:
    """Return whether a batch took about as long as its siblings' would, as far as anybody knows."""
    return usual_ns <= 0 or took_ns < GOOD_RATIO * usual_ns or took_ns - usual_ns < SLOW_EXCESS_NS


def _answered(state: Health, view: HealthView, took_ns: int, now: int, draw: float) -> tuple[Health, Decision, str]:
    if state.phase == "open":
        return state, "stay", ""
    if is_slow(took_ns, view.usual_ns):
        state = msgspec.structs.replace(state, num_slow=state.num_slow + 1, num_failures=0, num_good=0, suspect=True)
        if (state.phase == "half_open" or state.num_slow >= NUM_SLOW) and _may_eject(state, view):
            return _open(state, now, draw), "eject", f"slower than its siblings, {state.num_slow} batches in a row"
        return state, "stay", ""
    if state.phase == "closed":
        good = is_good(took_ns, view.usual_ns)
        num_slow = 0 if good else state.num_slow
        if state.num_slow != num_slow or state.num_failures or state.suspect == good:
            state = msgspec.structs.replace(state, num_slow=num_slow, num_failures=0, suspect=not good)
        return state, "stay", ""
    if state.num_good + 1 < NUM_GOOD:
        return msgspec.structs.replace(state, num_good=state.num_good + 1, num_slow=0, suspect=False), "stay", ""
    return Health(num_ejections=state.num_ejections, since_ns=now), "return", f"{NUM_GOOD} good batches in a row"


def _failed(state: Health, view: HealthView, now: int, draw: float) -> tuple[Health, Decision, str]:
    if state.phase == "open":
        return state, "stay", ""
    state = msgspec.structs.replace(state, num_failures=state.num_failures + 1, num_good=0)
    if (state.phase == "half_open" or state.num_failures >= NUM_FAILURES) and _may_eject(state, view):
        return _open(state, now, draw), "eject", f"{state.num_failures} failed batches in a row"
    return state, "stay", ""


def _waiting(state: Health, view: HealthView, waited_ns: int, now: int, draw: float) -> tuple[Health, Decision, str]:
    hangs = state.phase != "open" and view.sibling_answered and waited_ns >= hang_ns(view.usual_ns)
    if hangs and _may_eject(state, view):
        return _open(state, now, draw), "eject", "no answer, while its siblings answer"
    return state, "stay", ""


def _may_eject(state: Health, view: HealthView) -> bool:
    """Return whether a healthy sibling is left, and whether this one's place among the ejected is its own or free."""
    allowed = max(1, int(view.num_replicas * MAX_EJECTED_PART))
    has_place = state.phase == "half_open" or view.num_ejected < allowed
    return has_place and view.num_replicas - view.num_ejected >= 2


def _open(state: Health, now: int, draw: float, num_free: int = 0) -> Health:
    """Open for a time that doubles with each ejection; the first `num_free` cost no time."""
    num_forgotten = (now - state.since_ns) // FORGET_NS if state.phase == "closed" else 0
    num_ejections = max(0, state.num_ejections - num_forgotten) + 1
    wait_ns = 0.0
    if num_ejections > num_free:
        doublings = min(num_ejections - num_free - 1, MAX_DOUBLINGS)
        wait_ns = min(FIRST_OPEN_NS * 2.0**doublings, LAST_OPEN_NS) * (1.0 + draw / 5.0)
    return Health("open", num_ejections=num_ejections, until_ns=now + int(wait_ns))
