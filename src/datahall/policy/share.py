"""Decides what part of a quota one of several gateways may admit, before, while and after their number changes.

The gateways of a hall have the ranks 0 to N - 1; one that is started again has the rank that it had. Each admits its part
of every quota without asking anybody: the integers of all parts sum to the quota. A table with another N, or other quotas,
reaches them at different times, so a part shrinks at once and grows only `lease_ns` after its gateway saw the table.

The bound. Let every running gateway follow each table within half a lease of its being published. Then in any stretch of W
nanoseconds all gateways together admit at most

    burst + rate * W  +  for each gateway started no earlier than a lease before the stretch: its burst + its rate * lease

where `burst` and `rate` are the highest in force at any time in the stretch or a lease before it. In flight are at most

    concurrency  +  for each gateway started within the last lease: its part
                 +  what running gateways still work on above a part that has shrunk under them

The first addend is the quota; the others are the lease. A gateway takes its part as soon as it starts, because
nobody can know what it admitted before it was lost. Gateways whose clocks run too fast by a share e admit e more. A gateway
that follows a table later than said above keeps its old part until then, and the bound grows by as much.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from datahall.core.records import Quota
from datahall.policy.rate import RateLimit

UNLIMITED: Final = 1 << 62
"""The concurrency of who has no such quota."""

MAX_SPAN_NS: Final = 1 << 62
"""146 years. States and decisions are written down as 64-bit numbers."""

LEASE_NS: Final = 2_000_000_000
"""Ten times as long as a gateway takes to see a new table."""


class Part(msgspec.Struct, frozen=True, gc=False):
    """What one gateway may admit of one quota."""

    rate: RateLimit | None
    """None is no limit."""
    concurrency: int


class Holding(msgspec.Struct, frozen=True):
    """The part in force, what it is to become, and when it may."""

    part: Part
    coming: Part
    grows_at_ns: int


def part_of(quota: Quota, num_gateways: int, rank: int) -> Part:
    """Return the part of the gateway of this rank, nothing where the rank is not below `num_gateways`.

    Integers are dealt out evenly, the remainder to the lowest ranks. Where a burst or a concurrency is smaller than
    the number of gateways, the highest ranks get 0 and refuse: one each would exceed the quota. The rate is shared
    evenly by those that have a part of the burst, so that none of it is lost. Of a burst that would take longer than
    `MAX_SPAN_NS` to come again at its rate, there is only as much as comes in that time.
    """
    concurrency = UNLIMITED if quota.concurrency is None else _deal(quota.concurrency, num_gateways, rank)
    if quota.rate_per_s is None:
        return Part(None, concurrency)
    burst = max(1, math.ceil(quota.rate_per_s)) if quota.burst is None else quota.burst
    mine = _deal(burst, num_gateways, rank) if quota.rate_per_s > 0 else 0
    if mine == 0:
        return Part(RateLimit(1, 0), concurrency)
    interval_ns = math.ceil(min(num_gateways, burst) * 1e9 / quota.rate_per_s)
    return Part(RateLimit(interval_ns, min(mine, MAX_SPAN_NS // interval_ns) * interval_ns), concurrency)


def decide(state: Holding | None, view: Part, event: None, now: int, draw: float) -> tuple[Holding, Part, str]:
    """Return the part in force at `now` (nanoseconds), where the newest table says `view`.

    Asked for each new table, and again from time to time so that a part can grow. `draw` is not used.
    """
    assert event is None, "tables come by the view"
    assert 0.0 <= draw < 1.0, "draw is a uniform number"
    if state is None:
        return Holding(view, view, now), view, "started"
    if view != state.coming:
        state = Holding(_least(state.part, view), view, now + LEASE_NS)
    if state.part == view:
        return state, view, "in force"
    if now < state.grows_at_ns:
        return state, state.part, "grows later"
    return Holding(view, view, now), view, "grown"


def _deal(total: int, num_gateways: int, rank: int) -> int:
    if rank >= num_gateways:
        return 0
    each, rest = divmod(max(0, total), num_gateways)
    return each + (rank < rest)


def _least(a: Part, b: Part) -> Part:
    return Part(_slower(a.rate, b.rate), min(a.concurrency, b.concurrency))


def _slower(a: RateLimit | None, b: RateLimit | None) -> RateLimit | None:
    if a is None or b is None:
        return b if a is None else a
    burst = min(a.burst, b.burst)
    interval_ns = max(a.interval_ns, b.interval_ns)
    return RateLimit(interval_ns, burst * interval_ns)
