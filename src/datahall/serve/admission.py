"""Who may come into a gateway: counts what is in flight, asks the policies, and remembers what they need to know.

Everything here is O(1) per request; what is kept grows with the teams and applications of the route table alone.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Final

import msgspec

from datahall.core.records import KeyGrant, Quota, Route, RouteTable, TeamRule
from datahall.policy import admit, concurrency, rate, share
from datahall.policy.concurrency import LimitState, LimitView, Window
from datahall.serve.decisions import DecisionFiles, PolicyLog, log_of
from datahall.serve.responses import Response, refusal

_PRIORITIES: Final = {"high": 0, "normal": 1, "low": 2}
_AS_USUAL_NS: Final = 1_000_000.0
"""The base of the hall's limit: each answer's time is divided by what is usual in its application, and 1 is a million here."""

_WORDS: Final[dict[str, tuple[str, str]]] = {
    "team_rate": ("your team asks more often than its quota allows", "come again after Retry-After"),
    "app_rate": ("this application is asked more often than its quota allows", "come again after Retry-After"),
    "team_concurrency": ("your team has as many requests open as its quota allows", "wait for an answer first"),
    "app_concurrency": ("this application has as many requests open as its quota allows", "wait for an answer first"),
    "deadline": ("no answer could come in time", "come again after Retry-After, or give it more time"),
    "app_overloaded": ("this application has more requests than it can answer in time", "come again after Retry-After"),
    "hall_overloaded": ("the hall has more requests than it can answer in time", "come again after Retry-After"),
}


class AdmissionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of what may be in flight in one gateway."""

    app: LimitView = LimitView()
    """Of one application."""
    hall: LimitView = LimitView(
        floor=64, ceiling=4096, calm=4096, tolerance=6.0, unfelt_ns=0.0, crowd_ns=0.0, learns=False
    )
    """Of all together. It gives way only where the limits of applications do not suffice: they share a machine."""
    window_ns: int = 100_000_000
    """Answers are measured for so long before a limit is decided on anew."""
    window_num: int = 20
    """Fewer answers are too few to judge by, unless ten windows have passed."""


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Why a request may not come in, and in how many seconds it may try again."""

    status: int
    reason: str
    retry_after_s: int
    elsewhere: bool = False
    """This gateway has no part of the quota, another one has: a new connection may reach it."""

    @property
    def response(self) -> Response:
        """What the client is told; built once for all that are told the same."""
        return _response(self)


class Place(msgspec.Struct, gc=False):
    """A request's place among those in flight."""

    _admission: Admission
    _team: _Team
    _app: _App
    _rank: int
    _open: bool = True

    def leave(self, now_ns: int, *, sample_ns: int | None) -> None:
        """Give the place back; a second call does nothing.

        `sample_ns` is how long the answer took; None where there is none: the client left, or it failed.
        """
        if self._open:
            self._open = False
            self._admission.left(self._team, self._app, self._rank, now_ns, sample_ns)


class _Account:
    """What is known of one who has a quota."""

    __slots__ = ("_holding", "concurrency", "in_flight", "rate", "tat_ns")

    def __init__(self) -> None:
        self._holding: share.Holding | None = None
        self.concurrency = share.UNLIMITED
        self.rate: rate.RateLimit | None = None
        self.tat_ns = 0
        """The rate's theoretical arrival time."""
        self.in_flight = 0

    def follow(self, newest: share.Part, now_ns: int, log: PolicyLog | None = None) -> None:
        """Take up the part of a new table, or let it grow when its time has come."""
        before = self._holding
        answered = share.decide(before, newest, None, now_ns, 0.0)
        self._holding, part, _ = answered
        if log is not None and self._holding != before:
            log.keep((before, newest, None, now_ns, 0.0), answered)
        self.concurrency = part.concurrency
        if self.rate is not None and part.rate is not None and self.rate != part.rate:
            self.tat_ns = rate.refit(self.tat_ns, self.rate, part.rate, now_ns)
        self.rate = part.rate

    def ask(self, now_ns: int, log: PolicyLog | None = None) -> tuple[int, int]:
        """Return the rate's state after one request, and how long it would have to wait."""
        if self.rate is None:
            return 0, 0
        answered = rate.decide(self.tat_ns, self.rate, 1, now_ns, 0.0)
        if log is not None and log.due():
            log.keep((self.tat_ns, self.rate, 1, now_ns, 0.0), answered)
        return answered[0], answered[1]


class _Team(_Account):
    __slots__ = ("weight",)

    def __init__(self) -> None:
        super().__init__()
        self.weight = 1000


class _App(_Account):
    __slots__ = ("deployment", "gauge", "peers")

    def __init__(self, gauge: _Gauge, deployment: str) -> None:
        super().__init__()
        self.gauge, self.deployment = gauge, deployment
        self.peers = [0, 0, 0]
        """In flight by priority."""


class _Gauge:
    """Measures answers and holds the limit that follows from them."""

    __slots__ = (
        "_draw",
        "_due_ns",
        "_log",
        "_num",
        "_settings",
        "_sum_ns",
        "_view",
        "limit",
        "mean_ns",
        "pace_ns",
        "peak",
        "state",
        "usual_ns",
    )

    def __init__(
        self,
        view: LimitView,
        state: LimitState,
        settings: AdmissionSettings,
        draw: Callable[[], float],
        log: PolicyLog | None,
        now_ns: int,
    ) -> None:
        self._view, self.state, self._settings, self._draw, self._log = view, state, settings, draw, log
        self.limit = int(state.limit)
        self.mean_ns = 0
        """Of the last window."""
        self.pace_ns = 0
        """From one answer to the next in the last window."""
        self.usual_ns = 0.0
        """What answers may take by the last window, over the tolerance; 0 is not known."""
        self.peak = 0
        self._sum_ns = 0.0
        self._num = 0
        self._due_ns = now_ns + settings.window_ns

    def forget(self) -> None:
        """Another model takes another time: the limit goes on, what it is judged by is measured anew."""
        self.state = LimitState(self.state.limit)
        self.limit = int(self.state.limit)
        self.usual_ns = 0.0

    def expect(self, in_flight: int) -> int:
        """Return how long an answer should take behind so many others; 0 is not known.

        As long as in the last window, or less where there are now fewer to wait for than there were.
        """
        behind_ns = self.pace_ns * (in_flight + 1)
        return min(self.mean_ns, behind_ns)

    def measure(self, sample_ns: float, in_flight: int, now_ns: int) -> None:
        """Count one answer, and decide anew at the end of a window."""
        self._sum_ns += sample_ns
        self._num += 1
        if now_ns >= self._due_ns:
            self._close_window(in_flight, now_ns)

    def _close_window(self, in_flight: int, now_ns: int) -> None:
        settings = self._settings
        if self._num < settings.window_num and now_ns < self._due_ns + 9 * settings.window_ns:
            return
        self.pace_ns = (now_ns - self._due_ns + settings.window_ns) // self._num
        window = Window(max(1.0, self._sum_ns / self._num), self.peak, self.pace_ns)
        before, draw = self.state, self._draw()
        answered = concurrency.decide(before, self._view, window, now_ns, draw)
        self.state, self.limit, _ = answered
        if self._log is not None and (self._log.due() or self.state.probing != before.probing):
            self._log.keep((before, self._view, window, now_ns, draw), answered)
        self.usual_ns = concurrency.allowed_ns(self.state, self._view, window) / self._view.tolerance
        self.mean_ns = int(window.mean_ns)
        self._sum_ns, self._num = 0.0, 0
        self._due_ns, self.peak = now_ns + settings.window_ns, in_flight


class Admission:
    """Lets requests in, and out again."""

    def __init__(
        self,
        settings: AdmissionSettings | None = None,
        *,
        rank: int = 0,
        draw: Callable[[], float] = random.random,
        decisions: DecisionFiles | None = None,
    ) -> None:
        """Start empty. `rank` is this gateway's among those that share the quotas; `decisions` keeps some of what is decided."""
        self.settings = settings or AdmissionSettings()
        self._log, self._rate_log, self._share_log, self._limit_log = (
            log_of(decisions, name) for name in ("admit", "rate", "share", "concurrency")
        )
        self._rank, self._draw = rank, draw
        self._num_gateways = 1
        self._rules: dict[str, TeamRule] = {}
        self._teams: dict[str, _Team] = {}
        self._apps: dict[tuple[str, str], _App] = {}
        self._revision: int | None = None
        self._parts: dict[_Account, share.Part] = {}
        """What the newest table says."""
        self._in_flight = 0
        self._active_weight = 0
        """Of the teams that have requests in flight, in thousandths."""
        first = LimitState(float(self.settings.hall.calm), _AS_USUAL_NS)
        self._hall = _Gauge(self.settings.hall, first, self.settings, draw, self._limit_log, 0)

    @property
    def num_in_flight(self) -> int:
        """Requests that have come in and are not out."""
        return self._in_flight

    def limit(self, team: str, app: str) -> int:
        """Return how many requests an application may have in flight at present."""
        known = self._apps.get((team, app))
        return known.gauge.limit if known is not None else self.settings.app.calm

    def follow(self, table: RouteTable, now_ns: int) -> None:
        """Take up a table, whoever is in flight; called several times a second, so that parts can grow when they may."""
        if table.revision != self._revision:
            self._revision = table.revision
            self._read(table, now_ns)
        for account, part in self._parts.items():
            account.follow(part, now_ns, self._share_log)

    def shed(self, grant: KeyGrant, route: Route, now_ns: int) -> Refusal | None:
        """Return why a request could not come in now, None where it may: asked by its headers, it costs nothing."""
        team, app = self._team(grant.team, now_ns), self._app(route, now_ns)
        waits_ns = (team.ask(now_ns)[1], app.ask(now_ns)[1])
        if waits_ns == (0, 0) and self._is_calm(team, app):
            return None
        decision, reason = self._decide(grant, team, app, waits_ns, now_ns, 1 << 62)
        return None if reason == "admitted" else self._refuse(decision, reason, team, app)

    def enter(self, grant: KeyGrant, route: Route, now_ns: int, *, deadline_ns: int) -> Place | Refusal:
        """Let a request in, or say why not; `deadline_ns` is the time from which nobody wants its answer."""
        team, app = self._team(grant.team, now_ns), self._app(route, now_ns)
        team_tat_ns, team_wait_ns = team.ask(now_ns, self._rate_log)
        app_tat_ns, app_wait_ns = app.ask(now_ns, self._rate_log)
        # Where all is calm the answer is known; the policy is asked all the same when it is the turn of one to be logged.
        sampled = self._log is not None and self._log.due()
        waits = team_wait_ns or app_wait_ns
        if sampled or waits or not self._is_calm(team, app) or now_ns + app.gauge.mean_ns > deadline_ns:
            waits_ns = (team_wait_ns, app_wait_ns)
            decision, reason = self._decide(grant, team, app, waits_ns, now_ns, deadline_ns, sampled=sampled)
            if decision is not admit.ADMITTED:
                return self._refuse(decision, reason, team, app)
        team.tat_ns, app.tat_ns = team_tat_ns, app_tat_ns
        rank = _PRIORITIES[grant.priority]
        if team.in_flight == 0:
            self._active_weight += team.weight
        team.in_flight += 1
        app.peers[rank] += 1
        app.in_flight = in_app = app.in_flight + 1
        self._in_flight = in_hall = self._in_flight + 1
        app.gauge.peak = max(app.gauge.peak, in_app)
        self._hall.peak = max(self._hall.peak, in_hall)
        return Place(self, team, app, rank)

    def left(self, team: _Team, app: _App, rank: int, now_ns: int, sample_ns: int | None) -> None:
        """Count a request out; `Place.leave` calls it once."""
        team.in_flight -= 1
        if team.in_flight == 0:
            self._active_weight -= team.weight
        app.in_flight -= 1
        app.peers[rank] -= 1
        self._in_flight -= 1
        if sample_ns is None:
            return
        gauge = app.gauge
        gauge.measure(sample_ns, app.in_flight, now_ns)
        if gauge.usual_ns:
            self._hall.measure(sample_ns * _AS_USUAL_NS / gauge.usual_ns, self._in_flight, now_ns)

    def _is_calm(self, team: _Team, app: _App) -> bool:
        """Return whether `policy.admit` is certain to let in, whatever its priority, who need not wait and has the time."""
        return (
            team.in_flight < team.concurrency
            and app.in_flight < app.concurrency
            and 4 * app.in_flight < 3 * app.gauge.limit
            and 4 * self._in_flight < 3 * self._hall.limit
        )

    def _decide(
        self,
        grant: KeyGrant,
        team: _Team,
        app: _App,
        waits_ns: tuple[int, int],
        now_ns: int,
        deadline_ns: int,
        *,
        sampled: bool = False,
    ) -> tuple[admit.Admission, str]:
        """Ask the policy; `waits_ns` is what the rates of team and application say. A refusal is logged, and what is `sampled`."""
        active = self._active_weight if team.in_flight else self._active_weight + team.weight
        view = admit.AdmitView(
            *waits_ns,
            team.in_flight,
            team.concurrency,
            app.in_flight,
            app.concurrency,
            app.gauge.limit,
            app.peers[_PRIORITIES[grant.priority]],
            app.gauge.expect(app.in_flight),
            self._in_flight,
            self._hall.limit,
            self._hall.limit * team.weight // active or 1,
        )
        event, draw = admit.Arrival(grant.priority, deadline_ns), self._draw()
        answered = admit.decide(None, view, event, now_ns, draw)
        if self._log is not None:
            if sampled:
                self._log.keep((None, view, event, now_ns, draw), answered)
            elif answered[1] is not admit.ADMITTED:
                self._log.keep_some((None, view, event, now_ns, draw), answered)
        return answered[1], answered[2]

    def _refuse(self, decision: admit.Admission, reason: str, team: _Team, app: _App) -> Refusal:
        account = team if reason.startswith("team") else app
        empty = (
            account.concurrency == 0
            if reason.endswith("concurrency")
            else account.rate is not None and not account.rate.span_ns
        )
        elsewhere = decision.status == 429 and self._num_gateways > 1 and empty
        return Refusal(decision.status, reason, decision.retry_after_s, elsewhere)

    def _read(self, table: RouteTable, now_ns: int) -> None:
        self._num_gateways, self._rules = table.num_gateways, table.teams
        names = {*table.teams, *(grant.team for grant in table.keys.values())}
        routes = {(route.team, route.app): route for route in table.routes}
        # Whoever is still in flight is kept until a later table; leaving takes the place's own account in any case.
        self._teams = {name: team for name, team in self._teams.items() if name in names or team.in_flight}
        self._apps = {key: app for key, app in self._apps.items() if key in routes or app.in_flight}
        self._parts = {}
        for name in sorted(names):
            self._parts[self._team(name, now_ns)] = self._part(self._rule(name).quota)
            self._weigh(self._teams[name], self._rule(name).weight)
        for route in routes.values():
            app = self._app(route, now_ns)
            self._parts[app] = self._part(route.quota)
            if app.deployment != route.deployment:
                app.deployment = route.deployment
                app.gauge.forget()

    def _weigh(self, team: _Team, weight: float) -> None:
        thousandths = max(1, round(1000 * weight))
        if team.in_flight:
            self._active_weight += thousandths - team.weight
        team.weight = thousandths

    def _team(self, name: str, now_ns: int) -> _Team:
        """Return what is known of a team; keys may be newer than the table that was followed last."""
        team = self._teams.get(name)
        if team is None:
            team = self._teams[name] = _Team()
            team.follow(self._part(self._rule(name).quota), now_ns)
            self._weigh(team, self._rule(name).weight)
        return team

    def _app(self, route: Route, now_ns: int) -> _App:
        app = self._apps.get((route.team, route.app))
        if app is None:
            first = LimitState(float(self.settings.app.calm))
            gauge = _Gauge(self.settings.app, first, self.settings, self._draw, self._limit_log, now_ns)
            app = self._apps[(route.team, route.app)] = _App(gauge, route.deployment)
            app.follow(self._part(route.quota), now_ns)
        return app

    def _rule(self, team: str) -> TeamRule:
        return self._rules.get(team, _NO_RULE)

    def _part(self, quota: Quota) -> share.Part:
        return share.part_of(quota, self._num_gateways, self._rank)


_NO_RULE: Final = TeamRule()


@functools.lru_cache(maxsize=256)
def _response(refused: Refusal) -> Response:
    what, hint = _WORDS[refused.reason]
    headers = (("Retry-After", str(refused.retry_after_s)),)
    return refusal(refused.status, what, hint, headers=headers, close=refused.elsewhere)
