"""How a gateway's policies come to decisions in a simulated time: seeded, plausible, and through all that they decide."""

from __future__ import annotations

import random
from typing import Protocol

from datahall.core.records import Quota
from datahall.policy import admit, concurrency, health, rate, retry, route, share, shed

MS = 1_000_000
SECOND = 1_000_000_000


class Log(Protocol):
    """Keeps every decision, and counts until there are enough."""

    num_left: int

    def keep(self, call: tuple[object, object, object, int, float], answered: tuple[object, object, str]) -> None:
        """Keep one."""


def decide_rate(log: Log, rng: random.Random) -> None:
    """One team's requests, at about the rate that it may have, in bursts; some cost a whole burst, or more."""
    limit = rate.RateLimit(10 * MS, 200 * MS)
    state = now = 0
    while log.num_left > 0:
        now += int(rng.expovariate(1 / (8 * MS)))
        cost = rng.choice((1, 1, 1, 1, limit.burst, limit.burst + 1))
        draw = rng.random()
        answered = rate.decide(state, limit, cost, now, draw)
        log.keep((state, limit, cost, now, draw), answered)
        state = answered[0]


def decide_share(log: Log, rng: random.Random) -> None:
    """A gateway of several, while their number and the quota change."""
    state: share.Holding | None = None
    now, part = 0, share.part_of(Quota(), 1, 0)
    while log.num_left > 0:
        now += rng.randrange(SECOND)
        if rng.random() < 0.3:
            quota = Quota(rate_per_s=rng.choice((None, 5.0, 80.0)), concurrency=rng.choice((None, 3, 64)))
            part = share.part_of(quota, rng.randint(1, 5), rng.randrange(4))
        draw = rng.random()
        answered = share.decide(state, part, None, now, draw)
        log.keep((state, part, None, now, draw), answered)
        state = answered[0] if rng.random() > 0.01 else None  # now and then it is started again


def decide_concurrency(log: Log, rng: random.Random) -> None:
    """Windows of an application that answers eight at a time, asked for ever more and then for less."""
    state, view = concurrency.LimitState(64.0), concurrency.LimitView(unfelt_ns=0.0)
    now, asked, limit = 0, 4.0, 64
    while log.num_left > 0:
        now += rng.randrange(100 * MS, 400 * MS)
        asked = min(600.0, max(1.0, asked * rng.uniform(0.8, 1.27)))
        peak = int(min(asked, limit))
        window = concurrency.Window(5 * MS * max(1.0, peak / 8) * rng.uniform(0.9, 1.1), peak)
        draw = rng.random()
        answered = concurrency.decide(state, view, window, now, draw)
        log.keep((state, view, window, now, draw), answered)
        state, limit = answered[:2]


def decide_admit(log: Log, rng: random.Random) -> None:
    """Requests of all priorities at a hall from idle to far beyond its limits."""
    now = 0
    while log.num_left > 0:
        now += rng.randrange(MS)
        app, hall = rng.randrange(80), rng.randrange(120)
        view = admit.AdmitView(
            rng.choice((0, 0, 0, 0, 0, 30 * MS, rate.NEVER)),
            rng.choice((0, 0, 0, 0, 0, 2 * SECOND)),
            rng.randrange(40),
            rng.choice((20, share.UNLIMITED, share.UNLIMITED)),
            app,
            rng.choice((60, share.UNLIMITED, share.UNLIMITED)),
            rng.choice((16, 32, 64)),
            rng.randrange(app + 1),
            rng.choice((0, 5 * MS, 50 * MS)),
            app + hall,
            rng.choice((64, 128)),
            rng.randrange(1, 64),
        )
        event = admit.Arrival(rng.choice(("high", "normal", "low")), now + rng.choice((10 * MS, SECOND)))
        draw = rng.random()
        log.keep((None, view, event, now, draw), admit.decide(None, view, event, now, draw))


def decide_shed(log: Log, rng: random.Random) -> None:
    """Refusals, at times more than the gateway can afford."""
    state, view, now = shed.ShedState(), shed.ShedView(1_000, 10), 0
    while log.num_left > 0:
        now += SECOND if rng.random() < 0.005 else int(rng.expovariate(1 / MS) * rng.choice((0.1, 0.5)))
        event, draw = shed.Refused(rng.randint(1, 20), rng.random() < 0.5), rng.random()
        answered = shed.decide(state, view, event, now, draw)
        log.keep((state, view, event, now, draw), answered)
        state = answered[0]


def decide_health(log: Log, rng: random.Random) -> None:
    """One replica of four or fewer, with good times and bad ones."""
    state, now, is_bad = health.Health(), 0, False
    while log.num_left > 0:
        now += rng.randrange(200 * MS)
        is_bad = is_bad if rng.random() < 0.95 else rng.random() < 0.5
        num = rng.randint(2, 4) if rng.random() < 0.95 else 1
        view = health.HealthView(
            num, min(num - 1, rng.choice((0, 0, 0, 0, 1, 2))), rng.choice((0.0, 5.0 * MS)), rng.random() < 0.5
        )
        event: health.Event = health.Answered(rng.randrange(30 * MS if is_bad else 6 * MS))
        if is_bad and rng.random() < 0.8:
            event = health.Failed() if rng.random() < 0.9 else health.Waiting(rng.randrange(3 * SECOND))
        elif rng.random() < 0.2:
            event = health.Due() if state.phase == "open" or rng.random() < 0.8 else health.Lost()
        draw = rng.random()
        answered = health.decide(state, view, event, now, draw)
        log.keep((state, view, event, now, draw), answered)
        state = answered[0]


def decide_route(log: Log, rng: random.Random) -> None:
    """Batches for up to five replicas."""
    now = 0
    while log.num_left > 0:
        now += rng.randrange(MS)
        candidates = tuple(
            route.Candidate(f"rep_{number}", float(rng.randrange(20)) * MS, rng.random() < 0.03)
            for number in range(rng.randint(1, 5))
        )
        view, event, draw = route.RouteView(candidates), route.Batch(rng.randint(1, 32)), rng.random()
        log.keep((None, view, event, now, draw), route.decide(None, view, event, now, draw))


def decide_retry(log: Log, rng: random.Random) -> None:
    """Batches that were lost, failed or are late, at times more than the budget allows."""
    state, now = retry.Budget(50.0, 0), 0
    while log.num_left > 0:
        now += int(rng.expovariate(1 / (100 * MS)))
        view = retry.RetryView(
            num_calls=rng.randint(1, 16),
            num_attempts=rng.randint(1, 3),
            deadline_ns=now + rng.randrange(SECOND),
            needs_ns=rng.uniform(0, 50 * MS),
            num_others=rng.choice((0, 1, 2, 2)),
            num_new=rng.randrange(60),
            reserve=50.0,
            idempotent=rng.random() < 0.95,
        )
        why: retry.Why = rng.choice(("lost", "failed", "late"))
        event = retry.Trouble(why)
        answered = retry.decide(state, view, event, now, 0.0)
        log.keep((state, view, event, now, 0.0), answered)
        state = answered[0]
