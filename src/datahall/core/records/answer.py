"""One prediction, as the answer log remembers it."""

from __future__ import annotations

import msgspec


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A record of the answer log; `id` is what the client was given.

    Inputs and outputs appear only as digests keyed with `salt`: without the salt, which erasure removes,
    nobody can test a guess against them.
    """

    id: str
    gateway: str
    sequence: int
    at_ns: int
    principal: str
    team: str
    app: str
    version: str
    deployment: str
    bundle: str
    replica: str
    route_revision: int
    salt: bytes
    input_digest: str
    output_digest: str
    num_rows: int
    latency_us: int
