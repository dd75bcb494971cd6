"""Decides whether an answer may take the place of others in a full cache: TinyLFU, counted in bytes.

Sources: G. Einziger, R. Friedman, B. Manes, "TinyLFU: A Highly Efficient Cache Admission Policy" (ACM TOS 2017); for
objects of different sizes, the aggregated victims of G. Einziger, O. Eytan, R. Friedman, B. Manes, "Lightweight Robust
Size Aware Cache Management" (ACM TOS 2022).
"""

from __future__ import annotations

import msgspec

LUCKY_DRAW = 1 / 128
LUCKY_FREQUENCY = 6


class Contender(msgspec.Struct, frozen=True, gc=False):
    """An answer that is in the cache or wants to be."""

    frequency: int
    """How often it was asked for lately, as the sketch estimates it: 0 to 15, never too low."""
    num_bytes: int
    expires_at_ns: int


class CacheView(msgspec.Struct, frozen=True, gc=False):
    """A contest for room.

    `victims` are those that would go, the least recently used first, until the candidate fits; the list may end early
    where those in it are already asked for more often than the candidate.
    """

    candidate: Contender
    num_free_bytes: int
    victims: tuple[Contender, ...]


class Evicted(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The candidate was put out of the window of newcomers, and the main part of the cache is full."""


def decide(state: None, view: CacheView, event: Evicted, now: int, draw: float) -> tuple[None, bool, str]:
    """Return whether the candidate is admitted and its victims go; otherwise the candidate goes.

    It must be asked for more often than all its victims together, so that one large answer does not displace many small
    ones that earn more; a scan, whose answers are each asked for once, displaces nothing. `now` is in nanoseconds:
    victims that have expired count nothing, a candidate that has expired is not admitted. One candidate in 128 that is
    asked for often wins regardless (`draw`): victims that the sketch takes for another key would stay for ever.
    """
    del event  # there is one kind of event
    candidate = view.candidate
    if candidate.expires_at_ns <= now:
        return state, False, "it has expired"
    frequency, num_bytes = 0, view.num_free_bytes
    for victim in view.victims:
        num_bytes += victim.num_bytes
        if victim.expires_at_ns > now:
            frequency += victim.frequency
    enough = num_bytes >= candidate.num_bytes
    if candidate.frequency > frequency and enough:
        return state, True, "it is asked for more often than its victims"
    if candidate.frequency >= LUCKY_FREQUENCY and draw < LUCKY_DRAW and enough:
        return state, True, "it was drawn"
    if frequency < candidate.frequency:
        return state, False, "it does not fit"
    return state, False, "its victims are asked for as often"
