"""One prediction, as the answer log remembers it, and the sealed stretch of log that holds it."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from datahall.core.records.base import Record


class Answer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record of the answer log; `id` is what the client was given.

    Inputs and outputs appear only as digests keyed with `salt`: without the salt, which erasure removes,
    nobody can test a guess against them. There is one for every answer, so fields are written by their places and not by
    their names: a new one goes to the end, with a default, and older records read alike.
    """

    at_ns: int
    sequence: int
    gateway: str
    id: str
    principal: str
    team: str
    app: str
    version: str
    deployment: str
    bundle: str
    replica: str
    route_revision: int
    salt: bytes
    input_digest: bytes
    """SHA-256 of the salt and the request's exact body; `output_digest` of the salt and the answer's."""
    output_digest: bytes
    num_rows: int
    latency_us: int
    cached_from: str = ""
    """The answer whose result was given again, by its id; empty where the replica worked it out for this one."""


class AnswerSegment(Record, frozen=True, kw_only=True):
    """A sealed stretch of one gateway's answer log; `id` is its file's stem.

    `root` is the Merkle root (RFC 6962) over one leaf for each answer, so that a record can be erased and the rest
    still be proven. `digest` names the artifact of the hall's own that holds the records.
    """

    KIND: ClassVar[str] = "answer_segment"
    INDEX: ClassVar[tuple[str, ...]] = ("gateway", "hour")

    gateway: str
    first_sequence: int
    num_answers: int
    num_erased: int = 0
    root: str
    digest: str
    hour: int
    """In which its first answer was given, in hours since 1970: an answer's id carries its time, so it is found by it."""
    first_at_ns: int
    last_at_ns: int
    sealed_at_ns: int
