"""Gateways that come, go and learn of tables late never admit more together than a quota and the stated lease."""

import math
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.core.records import KeyGrant, Quota, Route, RouteTable, TeamRule
from datahall.policy import rate, share
from datahall.policy.concurrency import LimitView
from datahall.serve.admission import Admission, AdmissionSettings, Place
from tests.serve.flowers import MANIFEST

SECOND = 10**9
DRIFT = 0.01
"""How much too fast or too slow a gateway's clock may run."""
LATE_NS = int(share.LEASE_NS / 2 * (1 - DRIFT))
"""How late a gateway may learn of a table."""
WIDE = AdmissionSettings(app=LimitView(10**6, 10**6, 10**6), hall=LimitView(10**6, 10**6, 10**6, learns=False))
ROUTE = Route(
    app="flowers", team="lab", deployment="dep", version="f@1.0.0", manifest=MANIFEST, bundle="b", replicas=()
)
GRANT = KeyGrant(key_id="k", principal="p", team="lab", scopes=(), expires_at_ns=None)


class Hall:
    """Any number of gateways, each with a clock of its own, and the tables that were published."""

    def __init__(self, num, quota, drifts):
        self.now, self.drifts = 10**12, drifts
        self.tables, self.gateways, self.starts, self.admitted = [], {}, [], []
        self.publish(num, quota)
        for rank in range(num):
            self.start(rank, first=True)

    @property
    def quota(self):
        return self.tables[-1].quota

    def publish(self, num, quota):
        table = RouteTable(
            id="current",
            revision=len(self.tables),
            routes=(ROUTE,),
            keys={"x": GRANT},
            published_at_ns=0,
            teams={"lab": TeamRule(quota=quota)},
            num_gateways=num,
        )
        self.tables.append(SimpleNamespace(table=table, at=self.now, num=num, quota=quota))

    def start(self, rank, first=False):
        if rank in self.gateways or rank >= self.tables[-1].num:
            return
        admission = Admission(WIDE, rank=rank, draw=lambda: 0.5)
        gateway = SimpleNamespace(admission=admission, places=[], seen=self.tables[-1], since=self.now, rank=rank)
        self.gateways[rank] = gateway
        if not first:
            self.starts.append((self.now, rank))
        self.follow(gateway)

    def clock(self, gateway):
        """Clocks differ in what they show and in how fast they run."""
        drift = self.drifts[gateway.rank % len(self.drifts)]
        return 10**9 * (gateway.rank + 1) + int((self.now - 10**12) * (1 + drift * DRIFT))

    def follow(self, gateway):
        gateway.admission.follow(gateway.seen.table, self.clock(gateway))

    def see(self, rank):
        if rank in self.gateways:
            self.gateways[rank].seen = self.tables[-1]
            self.follow(self.gateways[rank])

    def kill(self, rank):
        self.gateways.pop(rank, None)

    def arrive(self, rank, num):
        if rank not in self.gateways:
            return
        gateway = self.gateways[rank]
        self.follow(gateway)
        for _ in range(num):
            place = gateway.admission.enter(GRANT, ROUTE, self.clock(gateway), deadline_ns=1 << 62)
            if isinstance(place, Place):
                gateway.places.append(place)
                self.admitted.append(self.now)

    def leave(self, rank, num):
        if rank in self.gateways:
            gateway = self.gateways[rank]
            for place in gateway.places[:num]:
                place.leave(self.clock(gateway), sample_ns=None)
            del gateway.places[:num]

    def wait(self, span):
        """Let time pass; nobody stays longer without the newest table than it may."""
        until = self.now + span
        while True:
            due = [
                (self.tables[self.tables.index(gateway.seen) + 1].at + LATE_NS, gateway.rank)
                for gateway in self.gateways.values()
                if gateway.seen is not self.tables[-1]
            ]
            if not due or min(due)[0] > until:
                self.now = until
                return
            self.now, rank = min(due)
            self.see(rank)

    def in_force(self, start, end):
        """Return the tables that some gateway may have gone by in a stretch of time, or a lease before it."""
        ends = [table.at + LATE_NS for table in self.tables[1:]] + [math.inf]
        return [
            t for t, until in zip(self.tables, ends, strict=True) if t.at <= end and until >= start - share.LEASE_NS
        ]

    def bound(self, start, end):
        """Return what `policy/share.py` promises for a stretch of time."""
        tables = self.in_force(start, end)
        total = max(t.quota.burst + t.quota.rate_per_s * (end - start) / SECOND * (1 + DRIFT) for t in tables)
        for at, rank in self.starts:
            if start - share.LEASE_NS <= at <= end:
                parts = [(share._deal(t.quota.burst, t.num, rank), t.quota.rate_per_s) for t in tables]
                total += max(
                    burst + (hz * share.LEASE_NS / SECOND * (1 + DRIFT) if burst else 0) for burst, hz in parts
                )
        return total + 1e-6

    def too_many(self):
        """Return the stretches of time in which more was admitted than is promised."""
        found = []
        for first, start in enumerate(self.admitted):
            for last in range(first, len(self.admitted)):
                end = self.admitted[last]
                if last + 1 - first > self.bound(start, end):
                    found.append((start, end, last + 1 - first))
        return found

    def too_many_at_once(self):
        """Return by how many more requests are in flight than is promised."""
        tables = self.in_force(self.now, self.now)
        promised = max(t.quota.concurrency for t in tables)
        for at, rank in self.starts:
            if self.now - share.LEASE_NS <= at and rank in self.gateways:
                promised += max(share.part_of(t.quota, t.num, rank).concurrency for t in tables)
        total = 0
        for gateway in self.gateways.values():
            self.follow(gateway)
            total += min(len(gateway.places), gateway.admission._teams["lab"].concurrency)
        return total - promised


QUOTAS = st.builds(
    Quota,
    rate_per_s=st.sampled_from([0.5, 1.0, 3.0, 7.5]),
    burst=st.integers(1, 9),
    concurrency=st.integers(0, 9),
)
RANKS = st.integers(0, 3)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), RANKS, st.integers(1, 12)),
        st.tuples(st.just("arrive"), RANKS, st.integers(1, 12)),
        st.tuples(st.just("leave"), RANKS, st.integers(1, 12)),
        st.tuples(st.just("wait"), st.integers(0, 3 * SECOND)),
        st.tuples(st.just("publish"), st.integers(1, 4), QUOTAS),
        st.tuples(st.just("see"), RANKS),
        st.tuples(st.just("kill"), RANKS),
        st.tuples(st.just("start"), RANKS),
    ),
    max_size=50,
)


def play(num, quota, drifts, events):
    """Return the hall after the events, and the largest excess that was in flight at any time."""
    hall = Hall(num, quota, drifts)
    worst = 0
    for name, *arguments in events:
        getattr(hall, name)(*arguments)
        worst = max(worst, hall.too_many_at_once())
    return hall, worst


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 4), QUOTAS, st.lists(st.floats(-1, 1), min_size=1, max_size=4), EVENTS)
def test_gateways_together_never_admit_more_than_the_quota_and_the_lease(num, quota, drifts, events):
    hall, worst = play(num, quota, drifts, events)
    assert hall.too_many() == []
    assert worst <= 0


BUSY = Quota(rate_per_s=1.0, burst=6, concurrency=6)
FREE = Quota(rate_per_s=1000.0, burst=1000, concurrency=6)
FILL = [("arrive", rank, 9) for rank in range(3)]
ONE_LEAVES = [
    *FILL,
    *[("leave", rank, 9) for rank in range(3)],
    ("wait", 60 * SECOND),
    ("publish", 2, FREE),
    ("see", 0),
    ("see", 1),
    *FILL,
]


def broken(monkeypatch, name):
    deal = share._deal
    if name == "each part rounded up":
        monkeypatch.setattr(share, "_deal", lambda total, num, _: -(-total // num))
    elif name == "one each at least":
        monkeypatch.setattr(share, "_deal", lambda total, num, rank: max(1, deal(total, num, rank)))
    elif name == "parts grow at once":
        monkeypatch.setattr(share, "LEASE_NS", 0)
    elif name == "a second burst with each change":
        monkeypatch.setattr(rate, "refit", lambda *arguments: arguments[-1])


AGAIN = [("publish", 1, msgspec.structs.replace(BUSY, burst=5)), ("see", 0), ("arrive", 0, 9)]


@pytest.mark.parametrize(
    ("name", "num", "quota", "events"),
    [
        ("each part rounded up", 3, Quota(rate_per_s=1.0, burst=4, concurrency=4), FILL),
        ("one each at least", 3, Quota(rate_per_s=1.0, burst=2, concurrency=2), FILL),
        ("parts grow at once", 3, FREE, ONE_LEAVES),
        ("a second burst with each change", 1, BUSY, [("arrive", 0, 9), ("leave", 0, 9), *AGAIN]),
    ],
)
def test_the_law_finds_what_would_admit_more(monkeypatch, name, num, quota, events):
    hall, worst = play(num, quota, [0.0], events)
    assert (hall.too_many(), worst <= 0) == ([], True)
    broken(monkeypatch, name)
    hall, worst = play(num, quota, [0.0], events)
    assert hall.too_many() or worst > 0


def test_a_part_that_grew_is_used():
    hall = Hall(2, BUSY, [0.0])
    hall.kill(1)
    hall.publish(1, BUSY)
    hall.see(0)
    hall.arrive(0, 9)
    assert len(hall.admitted) == 3
    hall.leave(0, 9)
    hall.wait(share.LEASE_NS - 1)
    hall.arrive(0, 9)
    assert len(hall.admitted) == 3, "half a request each second"
    hall.wait(1)
    hall.arrive(0, 0)
    hall.wait(60 * SECOND)
    hall.arrive(0, 9)
    assert len(hall.admitted) == 9
