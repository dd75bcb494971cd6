"""A version with traffic, its replicas, and the table that gateways follow."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

import msgspec

from datahall.core.records.base import Record
from datahall.core.records.bundle import BundleManifest

Priority = Literal["high", "normal", "low"]
"""Who waits, and who is refused, first: low before normal before high."""


MIN_RATE_PER_S: Final = 1e-6
"""One request in twelve days; the time between two of a far lower rate is no number of nanoseconds any more."""


class Quota(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one team, or one application, may ask of all gateways together; None is no limit."""

    rate_per_s: float | None = None
    burst: int | None = None
    """How many requests may come at once before the rate holds; None is one second's worth of them."""
    concurrency: int | None = None
    """How many requests may be worked on at a time."""


class Deployment(Record, frozen=True, kw_only=True):
    """A version that should have traffic (`live`) or had it (`retired`)."""

    KIND: ClassVar[str] = "deployment"
    INDEX: ClassVar[tuple[str, ...]] = ("app", "state", "version")

    app: str
    team: str
    version: str
    bundle: str
    verdict: str
    state: Literal["live", "retired"]
    num_replicas: int
    protocols: tuple[str, ...]
    drain_seconds: float
    opened_at_ns: int
    closed_at_ns: int = 0
    quota: Quota = Quota()
    cache_seconds: float = 0.0


class Replica(Record, frozen=True, kw_only=True):
    """A running copy of a deployment: one process group on one machine."""

    KIND: ClassVar[str] = "replica"
    INDEX: ClassVar[tuple[str, ...]] = ("deployment", "state")

    deployment: str
    bundle: str
    address: str
    """Path of its Unix socket."""
    pid: int
    pid_started_at: float
    """The process's own start time, so that a recycled pid is never mistaken for it."""
    state: Literal["starting", "ready", "draining", "gone"]
    node_class: str
    isolation: Literal["landlock", "none"]
    started_at_ns: int


class RouteReplica(msgspec.Struct, frozen=True, kw_only=True):
    """Where one replica listens."""

    id: str
    address: str


class TeamRule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a team's requests are treated."""

    quota: Quota = Quota()
    weight: float = 1.0
    """Its share of what there is while teams compete."""


class Route(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The way to one application's answers."""

    app: str
    team: str
    deployment: str
    version: str
    manifest: BundleManifest
    """Whole in the table that gateways follow, an outline in the catalogue."""
    bundle: str
    replicas: tuple[RouteReplica, ...]
    protocols: tuple[str, ...] = ("predict", "v2")
    """The protocols in which this application answers; a request in another one gets 404."""
    quota: Quota = Quota()
    cache_seconds: float = 0.0
    """How long an answer may be given again to the same team for the same input; 0 is never."""

    @property
    def number(self) -> str:
        """The version's number alone, which is how the Open Inference Protocol names versions."""
        return self.version.rpartition("@")[2]


class KeyGrant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the gateway knows of an API key: the SHA-256 of its text, never the text."""

    key_id: str
    principal: str
    team: str
    scopes: tuple[str, ...]
    expires_at_ns: int | None
    priority: Priority = "normal"


class RouteTable(Record, frozen=True, kw_only=True):
    """All that a gateway needs to answer; `id` is `current`, `revision` only grows."""

    KIND: ClassVar[str] = "route_table"

    revision: int
    routes: tuple[Route, ...]
    keys: dict[str, KeyGrant]
    """SHA-256 of the key's text (hexadecimal) to what it may do."""
    published_at_ns: int
    teams: dict[str, TeamRule] = msgspec.field(default_factory=dict)
    """How teams are treated; one that is not listed is treated as `TeamRule()` says."""
    num_gateways: int = 1
    """How many gateways share each quota."""

    def outline(self) -> RouteTable:
        """Return it without the categories of columns: what the catalogue keeps of it."""
        routes = tuple(msgspec.structs.replace(route, manifest=route.manifest.outline()) for route in self.routes)
        return msgspec.structs.replace(self, routes=routes)
