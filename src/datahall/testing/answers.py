"""Records of answers that nobody gave."""

from __future__ import annotations

from typing import Any

import msgspec

from datahall.core.records import Answer

_SOME = Answer(
    at_ns=1,
    sequence=0,
    gateway="g1",
    id="ans_0",
    principal="x",
    team="x",
    app="x",
    version="x",
    deployment="x",
    bundle="x",
    replica="x",
    route_revision=1,
    salt=bytes(16),
    input_digest=bytes(32),
    output_digest=bytes(32),
    num_rows=1,
    latency_us=1,
)


def some_answer(sequence: int, **fields: Any) -> Answer:
    """Return a record of the answer log that is as good as any, but for `fields`."""
    return msgspec.structs.replace(_SOME, **{"id": f"ans_{sequence}", "sequence": sequence, **fields})
