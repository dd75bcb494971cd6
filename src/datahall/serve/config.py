"""What a gateway process is told, and the bounds within which it takes requests."""

from __future__ import annotations

import msgspec

from datahall.serve.admission import AdmissionSettings
from datahall.serve.batch import BatchSettings
from datahall.serve.cache import MAX_CACHE_BYTES
from datahall.serve.decisions import MAX_DECISION_BYTES


class GatewayLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on what clients can make a gateway hold, and for how long."""

    max_body_bytes: int = 8 << 20
    """Of a request for an answer."""
    max_control_body_bytes: int = 64 << 20
    """Of a request that goes on to control; it is never held whole."""
    max_held_bytes: int = 256 << 20
    """Of all bodies together while they come; each team's at most what is free then."""
    max_spool_bytes: int = 1 << 30
    """Of answer log segments that wait to be taken into the blob store, some three million answers; beyond, requests
    get 507: an answer without a record is never given."""
    max_head_bytes: int = 32 << 10
    max_num_headers: int = 100
    max_connections: int = 16_384
    """A connection that does nothing costs some 4 KiB; one more is answered 503 and closed."""
    max_refusals_per_s: int = 4_000
    """A tenth to a fifth of a core; beyond, connections whose requests are refused are not read for a while."""
    max_refusals_in_a_row: int = 1_000
    """Beyond, while there are too many, a connection is closed."""
    max_pipelined: int = 64
    """Requests of one connection without an answer; reading pauses at more."""
    head_seconds: float = 10.0
    """From a request's first byte to the end of its headers."""
    stall_seconds: float = 10.0
    """Without a byte of a body that is not complete."""
    body_seconds: float = 120.0
    """From the end of the headers to the end of the body."""
    unread_seconds: float = 30.0
    """For a client to read some of what is written to it."""
    idle_seconds: float = 75.0
    """Of a connection between requests."""
    answer_seconds: float = 30.0
    """From a whole request to its answer."""
    closing_seconds: float = 2.0
    """For a client to read an error while it is still sending."""
    reach_seconds: float = 0.0
    """For a gateway that starts to reach the replicas of its table before it takes connections all the same."""
    handover_seconds: float = 0.0
    """After SIGTERM, for clients to send their next request before connections at rest are closed."""
    drain_seconds: float = 10.0
    """For requests in flight after SIGTERM."""
    switch_seconds: float = 3.0
    """For a new version's replicas to be reached before its route is taken all the same."""


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All that a gateway process needs; folders and sockets as absolute paths."""

    gateway: str
    """Its id, 1 to 32 bytes; part of every answer id."""
    host: str = "127.0.0.1"
    port: int = 0
    listen_fd: int | None = None
    """A listening TCP socket that the supervisor bound; `host` and `port` are not used then."""
    board_fd: int | None = None
    """Where several gateways that listen on that socket tell each other how many connections they have (`door.py`)."""
    place: int = 0
    """This gateway's among those that share port, board and quotas: 0 to their number less one, and the same again
    after a restart."""
    started_at: float = 0.0
    """When its process started, in seconds since the machine did: told beside its pid, which may be given out again."""
    control_address: str
    """Control's Unix socket."""
    routes: str
    """The signed route table that control publishes."""
    answers: str
    """Folder of the answer log."""
    decisions: str | None = None
    """Folder of the files of decisions; None keeps none."""
    runtime: str
    """Folder in which `gateway-<id>.json` tells which revision of the routes is in use."""
    answer_key: bytes
    routes_key: bytes
    """Opens the route table, 32 bytes."""
    route_keys: dict[str, bytes]
    """Key id to raw Ed25519 public key: whose route tables are followed."""
    auth_stale_seconds: float | None = None
    """How long keys are taken after control last confirmed the table; None is for ever."""
    limits: GatewayLimits = GatewayLimits()
    admission: AdmissionSettings = AdmissionSettings()
    batch: BatchSettings = BatchSettings()
    cache_bytes: int = MAX_CACHE_BYTES
    """What the response cache may take in memory; 0 is none."""
    decision_bytes: int = MAX_DECISION_BYTES
    """What this gateway's files of decisions may take together."""
    poll_seconds: float = 0.2
    sync_seconds: float = 0.1
    count_seconds: float = 1.0
    """How often `counters-<id>.json` is written, where something was counted."""
