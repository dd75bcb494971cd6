"""Decides whether one request may come in, and when a refused one should come again."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from datahall.core.records import Priority
from datahall.policy.rate import NEVER

Reason = Literal[
    "admitted",
    "team_rate",
    "app_rate",
    "team_concurrency",
    "app_concurrency",
    "deadline",
    "app_overloaded",
    "hall_overloaded",
]

OTHERS: Final = -2
"""In place of a wait: it depends on others for how long there is no room."""

RETRY_SPREAD_S: Final = 4
"""Who is refused because of others is told to come again after 1 to this many seconds, spread evenly: not all at once."""


class AdmitView(msgspec.Struct, frozen=True, gc=False):
    """What is known of the team, of the application and of the hall as this request comes. It is not counted in it."""

    team_wait_ns: int
    """Until the team's rate would let it in: 0 is now, NEVER that this gateway has no part of it."""
    app_wait_ns: int
    team_in_flight: int
    team_concurrency: int
    """The team's quota, or this gateway's part of it."""
    app_in_flight: int
    app_concurrency: int
    app_limit: int
    """How many requests the application can work on at a time (`policy/concurrency.py`)."""
    peers_in_flight: int
    """Requests of the same priority in this application."""
    expected_ns: int
    """How long the application's answers take at present; 0 is not known."""
    hall_in_flight: int
    hall_limit: int
    team_share: int
    """The team's weighted part of the hall's limit among the teams that have requests in flight, itself included."""


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A request: who waits, and the time from which nobody wants its answer (nanoseconds)."""

    priority: Priority
    deadline_ns: int


class Admission(msgspec.Struct, frozen=True, gc=False):
    """The word: `status` 200, or the HTTP status of the refusal; `retry_after_s` is 0 for who is admitted."""

    status: Literal[200, 429, 503]
    retry_after_s: int


ADMITTED: Final = Admission(200, 0)


def decide(state: None, view: AdmitView, event: Arrival, now: int, draw: float) -> tuple[None, Admission, Reason]:
    """Return whether a request is admitted; 429 where its own quota is used up, 503 where others need the room.

    Own quotas come first: they hold in an idle hall too. Then the application's limit, in steps: low priority is
    refused from three quarters of it on, normal at all of it, high a quarter and 8 requests above it, so that high finds
    room while normal takes all it can get. A priority that has less than a sixteenth of either limit in flight in the
    application is let in all the same: none starves. Last the hall's limit, in the same steps, for teams that have their
    weighted share: a team below it is never refused for what others take, and in an idle hall anyone may take all.

    In flight in an application are so never more than 5/4 limit + 8 with high priority, limit with normal and
    3/4 limit with low, but for the sixteenths. A request that cannot be answered before its deadline is refused at once
    unless it would be the application's only one: then nothing newer is known.
    """
    refused = _own(view) or _crowded(view, event, now)
    if refused is None:
        return state, ADMITTED, "admitted"
    reason, wait_ns = refused
    if wait_ns == OTHERS:
        return state, Admission(503, 1 + int(draw * RETRY_SPREAD_S)), reason
    return state, Admission(429, _seconds(wait_ns)), reason


def _own(view: AdmitView) -> tuple[Reason, int] | None:
    """Return which quota is used up, and for how many nanoseconds."""
    if view.team_in_flight >= view.team_concurrency:
        return "team_concurrency", view.expected_ns
    if view.app_in_flight >= view.app_concurrency:
        return "app_concurrency", view.expected_ns
    if view.team_wait_ns:
        return "team_rate", view.team_wait_ns
    if view.app_wait_ns:
        return "app_rate", view.app_wait_ns
    return None


def _crowded(view: AdmitView, event: Arrival, now: int) -> tuple[Reason, int] | None:
    """Return what leaves no room for this request."""
    if view.app_in_flight and now + view.expected_ns > event.deadline_ns:
        return "deadline", OTHERS
    if 16 * view.peers_in_flight < view.app_limit and 16 * view.peers_in_flight < view.hall_limit:
        return None
    if view.app_in_flight >= bound(view.app_limit, event.priority):
        return "app_overloaded", OTHERS
    if view.team_in_flight >= view.team_share and view.hall_in_flight >= bound(view.hall_limit, event.priority):
        return "hall_overloaded", OTHERS
    return None


def bound(limit: int, priority: Priority) -> int:
    """Return how many requests may be in flight, of all priorities, for one more of this priority to be refused."""
    if priority == "normal":
        return limit
    if priority == "high":
        return limit + limit // 4 + 8
    return limit - limit // 4


def _seconds(wait_ns: int) -> int:
    """Whole seconds, rounded up: who comes after them is not too early."""
    return 1 if wait_ns == NEVER else max(1, -(-wait_ns // 1_000_000_000))
