"""What the answer log costs an answer: its encrypted frame against the same records written in clear with a checksum.

The peer is what a log needs at the least to tell a torn write: length, CRC-32 and record, in one write a batch.
"""

from __future__ import annotations

import os
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from datahall.core.records import Answer
from datahall.serve.segments import AnswerLog

NUM_BATCHES, NUM_ROUNDS = 4_000, 5


def answers(first: int, num: int) -> list[Answer]:
    """Return records as long as real ones."""
    return [
        Answer(
            id="ans_" + "x" * 60,
            gateway="g1",
            sequence=first + offset,
            at_ns=1_700_000_000_000_000_000,
            principal="somebody",
            team="default",
            app="tumours",
            version="tumours@1.0.0",
            deployment="dep_" + "0" * 26,
            bundle="b" * 64,
            replica="rep_" + "0" * 26,
            route_revision=3,
            salt=bytes(16),
            input_digest=b"1" * 32,
            output_digest=b"2" * 32,
            num_rows=1,
            latency_us=900,
        )
        for offset in range(num)
    ]


def in_clear(descriptor: int, records: list[Answer]) -> None:
    """Write a batch as the peer does."""
    encoded = [msgspec.msgpack.encode(record) for record in records]
    os.write(descriptor, b"".join(struct.pack(">II", len(one), zlib.crc32(one)) + one for one in encoded))


def us_per_record(num: int, write: Callable[[list[Answer]], None]) -> float:
    """Return the microseconds that one record takes in batches of `num`, the best of several rounds."""
    best, first = float("inf"), 0
    for _ in range(NUM_ROUNDS):
        batches = [answers(first + batch * num, num) for batch in range(NUM_BATCHES)]
        first += NUM_BATCHES * num
        start = time.perf_counter()
        for batch in batches:
            write(batch)
        best = min(best, time.perf_counter() - start)
    return best * 1e6 / (NUM_BATCHES * num)


def main() -> int:
    """Print the cost of a record in batches of several sizes, and its ratio to the peer's."""
    with tempfile.TemporaryDirectory() as folder:
        for num in (1, 8):
            descriptor = os.open(Path(folder) / f"clear-{num}", os.O_WRONLY | os.O_CREAT, 0o600)
            clear = us_per_record(num, lambda batch, descriptor=descriptor: in_clear(descriptor, batch))  # type: ignore[misc]
            os.close(descriptor)
            log = AnswerLog(Path(folder), f"g{num}", bytes(32), now_ns=0)
            sealed = us_per_record(num, log.append)
            log.close(0)
            print(
                f"batches of {num}: {sealed:.1f} us a record encrypted, {clear:.1f} us in clear: {sealed / clear:.2f}x"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
