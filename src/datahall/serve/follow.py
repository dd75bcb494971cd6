"""Following the route table: a new revision is taken up once its replicas can be reached, so no request falls between."""

from __future__ import annotations

from collections.abc import Callable

from datahall.core.ports import Clock
from datahall.core.records import Route, RouteTable
from datahall.serve.confirm import Freshness
from datahall.serve.lane import Lane
from datahall.serve.table import Index, RouteSource


class Follower:
    """Keeps one lane for each deployment in the table, and the table that is in use."""

    def __init__(
        self,
        source: RouteSource,
        *,
        make_lane: Callable[[Route], Lane],
        clock: Clock,
        switch_seconds: float,
        adopted: Callable[[], None],
        freshness: Freshness | None = None,
    ) -> None:
        self.index: Index | None = None
        self.mark = object()
        """Another one whenever routes, keys or their standing change: what was decided on a head counts no more."""
        self._source = source
        self._make_lane = make_lane
        self._clock = clock
        self._switch_ns = int(switch_seconds * 1e9)
        self._adopted = adopted
        self._freshness = freshness
        self._lanes: dict[str, Lane] = {}
        self._coming: RouteTable | None = None
        self._coming_since_ns = 0
        self._newest: RouteTable | None = None

    @property
    def revision(self) -> int:
        """The revision in use, -1 before the first."""
        return self.index.revision if self.index is not None else -1

    @property
    def newest(self) -> RouteTable | None:
        """The newest table that was seen, whether its routes are in use yet or not; None before the first."""
        return self._coming or (self.index.table if self.index is not None else None)

    @property
    def problem(self) -> str:
        """Why the newest table is not in use, or may not be any more; empty while all is well."""
        return self._source.problem or ("control has not confirmed the keys for too long" if self.is_stale else "")

    @property
    def is_stale(self) -> bool:
        """Whether control has not confirmed the table for so long that its keys are not taken any more."""
        return self._freshness is not None and self._freshness.is_stale

    @property
    def all_ready(self) -> bool:
        """Whether every application can answer."""
        return self.index is not None and all(self._lanes[route.deployment].ready for route in self.index.table.routes)

    def lane(self, team: str, app: str) -> Lane | None:
        """Return the lane of a team's application, None where it has none."""
        route = self.index.route(team, app) if self.index is not None else None
        return self._lanes.get(route.deployment) if route is not None else None

    def step(self) -> None:
        """Look for a newer table and take it up when it is due; called every 200 ms."""
        before = self.index, self.index.keys if self.index is not None else None, self.is_stale
        self._step()
        after = self.index, self.index.keys if self.index is not None else None, self.is_stale
        if any(old is not new for old, new in zip(before, after, strict=True)):
            self.mark = object()

    def _step(self) -> None:
        table = self._source.poll()
        now = self._clock.monotonic_ns()
        if table is not None:
            for route in table.routes:
                if route.deployment in self._lanes:
                    self._lanes[route.deployment].add(route.replicas)
                else:
                    self._lanes[route.deployment] = self._make_lane(route)
            self._coming, self._coming_since_ns = table, now
            if self.index is not None:
                self.index.keys = table.keys
            self._newest = table
        if self._freshness is not None and self._newest is not None:
            self._freshness.step(self._newest)
        if self._coming is not None and (
            now - self._coming_since_ns >= self._switch_ns or self._can_switch(self._coming)
        ):
            self._adopt(self._coming)

    def abort(self) -> None:
        """End every connection to replicas."""
        lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            lane.abort()

    def _can_switch(self, table: RouteTable) -> bool:
        """The first table is taken at once: before it there is nothing that could answer."""
        return self.index is None or all(self._lanes[route.deployment].ready for route in table.routes)

    def _adopt(self, table: RouteTable) -> None:
        self._coming = None
        self.index = Index(table)
        current = {route.deployment: route for route in table.routes}
        for name in list(self._lanes):
            if name in current:
                self._lanes[name].keep(current[name])
                self._lanes[name].revision = table.revision
            else:
                self._lanes.pop(name).close()
        self._adopted()
