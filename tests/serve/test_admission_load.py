"""A simulated hall under more than it can take, open loop: the real admission beside a queue without end."""

import functools
import heapq
import itertools
import random
from collections import deque
from types import SimpleNamespace

import msgspec
import pytest

from datahall.core.records import KeyGrant, Quota, Route, RouteTable, TeamRule
from datahall.policy.concurrency import LimitView
from datahall.serve.admission import Admission, AdmissionSettings, Refusal
from tests.serve.flowers import MANIFEST

MS = 10**6
SECOND = 10**9
WORKERS = 4
SERVICE_NS = 20 * MS
CAPACITY_HZ = WORKERS * SECOND / SERVICE_NS
REFUSAL_NS = SERVICE_NS // 100
"""A refusal costs the machine that answers a hundredth of an answer."""
PATIENCE_NS = SECOND
"""Whoever waits longer has left: an answer that comes later is no good to anybody."""


def route(team):
    return Route(
        app="flowers", team=team, deployment=team, version="f@1.0.0", manifest=MANIFEST, bundle="b", replicas=()
    )


ROUTES = {team: route(team) for team in ("lab", "shop")}


class Crowd(msgspec.Struct):
    """Clients that come at random, `hz` of them a second between two moments, whether or not they are answered."""

    hz: float
    team: str = "lab"
    priority: str = "normal"
    begin_s: float = 0.0
    end_s: float = 1e9
    num_retries: int = 0
    obedient: bool = True
    """Whether they come again after Retry-After, or at once."""


class Everybody:
    """The negative control: lets everybody in."""

    def enter(self, grant, route, now_ns, *, deadline_ns):
        return SimpleNamespace(leave=lambda *_, **__: None)


class Simulation:
    """Workers that take requests in the order in which they came; a refusal takes time away from one of them."""

    def __init__(self, door, crowds, *, seconds, seed, fixed=False):
        self.door, self.crowds, self.seconds, self.fixed = door, crowds, seconds, fixed
        self.draw = random.Random(seed)  # noqa: S311  a simulation is repeatable, not secret
        self.order = itertools.count()
        self.events, self.waiting = [], deque()
        self.free, self.stolen_ns = set(range(WORKERS)), [0] * WORKERS
        self.arrivals = []
        self.peak = 0
        for crowd in crowds:
            self.at(crowd.begin_s * SECOND + self.gap(crowd), self.come, crowd)
        while self.events and self.events[0][0] < seconds * SECOND:
            now, _, act, *arguments = heapq.heappop(self.events)
            act(now, *arguments)

    def at(self, when, act, *arguments):
        heapq.heappush(self.events, (int(when), next(self.order), act, *arguments))

    def gap(self, crowd):
        return self.draw.expovariate(crowd.hz) * SECOND

    def come(self, now, crowd):
        if now < crowd.end_s * SECOND:
            self.at(now + self.gap(crowd), self.come, crowd)
            self.ask(now, crowd, SimpleNamespace(crowd=crowd, first_ns=now, tries=0, admitted=False, answered_ns=None))

    def ask(self, now, crowd, client):
        client.tries += 1
        if client.tries == 1:
            self.arrivals.append(client)
        key = KeyGrant(
            key_id="k", principal="p", team=crowd.team, scopes=(), expires_at_ns=None, priority=crowd.priority
        )
        place = self.door.enter(key, ROUTES[crowd.team], now, deadline_ns=now + PATIENCE_NS)
        if not isinstance(place, Refusal):
            client.admitted = True
            self.waiting.append((now, place, client))
            self.peak = max(self.peak, len(self.waiting))
            self.work(now)
            if client.tries <= crowd.num_retries:
                self.at(now + PATIENCE_NS, self.again, client, client.tries)
            return
        self.stolen_ns[next(self.order) % WORKERS] += REFUSAL_NS
        if client.tries <= crowd.num_retries:
            wait_s = place.retry_after_s + self.draw.random() if crowd.obedient else 0.05
            self.at(now + wait_s * SECOND, self.again, client, client.tries)

    def again(self, now, client, tries):
        if client.answered_ns is None and client.tries == tries:
            self.ask(now, client.crowd, client)

    def work(self, now):
        while self.free and self.waiting:
            worker = self.free.pop()
            began, place, client = self.waiting.popleft()
            service = SERVICE_NS if self.fixed else self.draw.expovariate(1 / SERVICE_NS)
            self.at(now + service, self.done, worker, began, place, client)

    def done(self, now, worker, began, place, client):
        stolen, self.stolen_ns[worker] = self.stolen_ns[worker], 0
        if stolen:
            self.at(now + stolen, self.done, worker, began, place, client)
            return
        place.leave(now, sample_ns=now - began)
        self.free.add(worker)
        if client.answered_ns is None and now - began <= PATIENCE_NS:
            client.answered_ns, client.took_ns = now, now - began
        self.work(now)

    def goodput(self, begin_s=2.0, end_s=None, team=None):
        """Answers in time, over what the workers could give; the first seconds do not count."""
        end_s = self.seconds if end_s is None else end_s
        good = [c for c in self.arrivals if c.answered_ns is not None and (team is None or c.crowd.team == team)]
        num = sum(begin_s * SECOND <= c.answered_ns < end_s * SECOND for c in good)
        return num / (end_s - begin_s) / CAPACITY_HZ

    def p99_ms(self, begin_s=2.0, end_s=1e9):
        took = sorted(
            c.took_ns
            for c in self.arrivals
            if c.answered_ns is not None and begin_s * SECOND <= c.answered_ns < end_s * SECOND
        )
        return took[int(0.99 * len(took))] / MS

    def admitted(self, priority, begin_s=2.0):
        """The part of a priority's requests that were let in."""
        asked = [c for c in self.arrivals if c.crowd.priority == priority and c.first_ns >= begin_s * SECOND]
        return sum(c.admitted for c in asked) / len(asked)

    @property
    def amplification(self):
        return sum(c.tries for c in self.arrivals) / len(self.arrivals)


def door(*, teams=("lab",), weights=None, seed=1, settings=None):
    """An empty admission for teams that each have an application on the same workers."""
    made = Admission(settings, draw=random.Random(seed).random)  # noqa: S311  repeatable, not secret
    rules = {team: TeamRule(quota=Quota(), weight=(weights or {}).get(team, 1.0)) for team in teams}
    table = RouteTable(
        id="current", revision=1, routes=tuple(map(route, teams)), keys={}, published_at_ns=0, teams=rules
    )
    made.follow(table, 0)
    return made


def simulate(*crowds, seconds=20, seed=7, who=None, **changes):
    return Simulation(
        who or door(teams=sorted({c.team for c in crowds})), crowds, seconds=seconds, seed=seed, **changes
    )


CALM_S = 4.0
STORM_S = 20.0


def storm(k, *, who=None, fixed=False, **changes):
    """Four fifths of what the workers can do, then `k` times as much as they can, then four fifths again."""
    return simulate(
        Crowd(hz=0.8 * CAPACITY_HZ, end_s=CALM_S),
        Crowd(hz=k * CAPACITY_HZ, begin_s=CALM_S, end_s=STORM_S, **changes),
        Crowd(hz=0.8 * CAPACITY_HZ, begin_s=STORM_S),
        seconds=30,
        who=who,
        fixed=fixed,
    )


@functools.cache
def at_four_fifths(fixed):
    return simulate(Crowd(hz=0.8 * CAPACITY_HZ), fixed=fixed)


def bound(k):
    """The goodput that the cost of refusals leaves: g + (k - g) r = 1."""
    r = REFUSAL_NS / SERVICE_NS
    return (1 - k * r) / (1 - r)


@pytest.mark.parametrize("fixed", [False, True], ids=["exponential", "fixed"])
@pytest.mark.parametrize("k", [2, 5, 10])
def test_under_more_than_it_can_take_it_answers_nearly_as_much_as_it_can_and_in_time(k, fixed):
    calm = at_four_fifths(fixed)
    ours = storm(k, fixed=fixed)
    assert calm.admitted("normal") == 1.0
    assert ours.goodput(CALM_S, STORM_S) >= 0.95 * bound(k)
    assert ours.p99_ms(CALM_S + 3.0, STORM_S) <= 2.0 * calm.p99_ms()
    assert ours.peak <= AdmissionSettings().app.calm
    assert ours.goodput(STORM_S + 1.0, STORM_S + 10.0) == pytest.approx(0.8, abs=0.1), "as before, a second later"


@pytest.mark.parametrize("k", [2, 5, 10])
def test_a_queue_without_end_answers_nearly_nothing_in_time_and_does_not_recover(k):
    fifo = storm(k, who=Everybody())
    assert fifo.goodput(CALM_S + 3.0, STORM_S) < 0.05
    assert fifo.goodput(STORM_S, STORM_S + 10.0) < 0.05
    assert fifo.peak > 2000


def test_a_storm_of_retries_leaves_no_lasting_state():
    stubborn = {"num_retries": 3, "obedient": False}
    ours, fifo = storm(3, **stubborn), storm(3, who=Everybody(), **stubborn)
    assert ours.goodput(CALM_S + 3.0, STORM_S) > 0.8
    assert ours.goodput(STORM_S + 2.0, STORM_S + 10.0) == pytest.approx(0.8, abs=0.1)
    assert fifo.goodput(STORM_S + 2.0, STORM_S + 10.0) < 0.05


def test_whoever_comes_again_when_told_is_answered_after_a_short_storm():
    ours = simulate(
        Crowd(hz=0.5 * CAPACITY_HZ),
        Crowd(hz=3 * CAPACITY_HZ, begin_s=4, end_s=5, num_retries=5),
        seconds=20,
    )
    late = [c for c in ours.arrivals if c.crowd.num_retries]
    assert sum(c.answered_ns is not None for c in late) / len(late) > 0.9


@pytest.mark.parametrize("flood", [2, 5, 10])
def test_high_priority_comes_in_while_it_asks_for_half_of_what_there_is(flood):
    ours = simulate(
        Crowd(hz=0.5 * CAPACITY_HZ, priority="high"),
        Crowd(hz=flood / 2 * CAPACITY_HZ, priority="normal"),
        Crowd(hz=flood / 2 * CAPACITY_HZ, priority="low"),
    )
    assert ours.admitted("high") >= 0.99
    assert 0.0 < ours.admitted("low") < ours.admitted("normal")
    alike = simulate(Crowd(hz=0.5 * CAPACITY_HZ), Crowd(hz=flood * CAPACITY_HZ))
    assert alike.admitted("normal") < 0.7, "the control: without priorities it is refused like everybody"


SCARCE = AdmissionSettings(
    app=LimitView(unfelt_ns=float(SECOND)), hall=LimitView(floor=24, ceiling=24, calm=24, unfelt_ns=0.0, learns=False)
)


def shares(weights, lab=5.0, shop=5.0):
    ours = simulate(
        Crowd(hz=lab * CAPACITY_HZ),
        Crowd(hz=shop * CAPACITY_HZ, team="shop"),
        who=door(teams=("lab", "shop"), weights=weights, settings=SCARCE),
        seconds=12,
    )
    return ours.goodput(team="lab"), ours.goodput(team="shop")


@pytest.mark.parametrize(("weights", "part"), [({}, 0.5), ({"lab": 3.0}, 0.75), ({"shop": 4.0}, 0.2)])
def test_teams_that_both_ask_too_much_get_their_weighted_shares(weights, part):
    lab, shop = shares(weights)
    assert lab / (lab + shop) == pytest.approx(part, abs=0.05)
    lab, shop = shares(weights, lab=9.0, shop=2.0)
    assert lab / (lab + shop) == pytest.approx(part, abs=0.1), "asking more does not give more"


def test_a_team_that_asks_for_less_than_its_share_gets_all_it_asks_for():
    lab, shop = shares({}, lab=9.0, shop=0.3)
    assert shop == pytest.approx(0.3, abs=0.03)
    assert lab > 0.5, "and the rest is not lost"


def test_without_shares_who_asks_more_gets_more():
    """The control of the two tests above: one team for both."""
    ours = simulate(Crowd(hz=9 * CAPACITY_HZ), Crowd(hz=2 * CAPACITY_HZ, priority="normal"), who=door(settings=SCARCE))
    first = [c.answered_ns is not None for c in ours.arrivals if c.crowd.hz > 5 * CAPACITY_HZ]
    second = [c.answered_ns is not None for c in ours.arrivals if c.crowd.hz < 5 * CAPACITY_HZ]
    assert sum(first) > 3 * sum(second)


def test_the_same_seed_gives_the_same_run():
    one, other = storm(2), storm(2)
    assert [c.answered_ns for c in one.arrivals] == [c.answered_ns for c in other.arrivals]
