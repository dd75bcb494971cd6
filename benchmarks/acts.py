"""Acknowledged durable acts a second, beside raw SQLite that writes the same rows, JSON and hashes in the same groups.

    python benchmarks/acts.py [--acts 3000] [--rounds 3]

An act is a new record, its entry, its voucher and its mark; acknowledged means synced (WAL, synchronous FULL).
Raw SQLite is one thread over the driver with prepared statements: what a program for these four tables alone would do.
Each round measures every number of writers, and after each of them raw SQLite with the very groups that they formed.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import msgspec

from datahall.backends.db import acts, sqlite
from datahall.backends.db.engines import connect
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.backends.db.statements import Statements
from datahall.core.clock import SystemClock
from datahall.core.records import Act, App, Change

NUM_WRITERS = (1, 8, 64)
KEY = bytes(32)
ENCODER = msgspec.json.Encoder(order="sorted")


class Measured(NamedTuple):
    """One run: acts a second, how many acts each commit held, and the share of the time spent in COMMIT."""

    acts_per_s: float
    groups: list[int]
    commit_share: float


def app(number: int) -> App:
    """Return a record of about 300 bytes."""
    return App(
        id=f"app-{number:08d}",
        team="ward",
        task="classification",
        spec_digest=hashlib.sha256(b"%d" % number).hexdigest(),
        spec_text="name: tumours\ntask: classification\n",
        policy="pol_0",
        declared_at_ns=1_700_000_000_000_000_000 + number,
    )


def ours(folder: Path, num_writers: int, num_acts: int) -> Measured:
    """Let `num_writers` threads write `num_acts` acts through the catalogue."""
    catalogue = SqliteCatalogue(folder / "ours.db", SystemClock(), entry_key=KEY)
    groups, commits_s = watch(catalogue)
    each = num_acts // num_writers

    def write(writer: int) -> None:
        for number in range(writer * each, (writer + 1) * each):
            new = app(number)
            catalogue.act(Act(kind="app.declared", actor="bench", app=new.id, changes=(Change(new=new),)))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(num_writers)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s = time.perf_counter() - began
    catalogue.close()
    return Measured(sum(groups) / took_s, groups, sum(commits_s) / took_s)


def watch(catalogue: SqliteCatalogue) -> tuple[list[int], list[float]]:
    """Note how many acts each transaction holds, and how long its COMMIT takes."""
    group, writer = catalogue._group, catalogue._writer  # noqa: SLF001  (a benchmark may look inside)
    transact, write = group._transact, writer.transact  # noqa: SLF001
    groups: list[int] = []
    commits_s: list[float] = []

    def counted(works: Sequence[object]) -> Sequence[object]:
        groups.append(len(works))
        return transact(works)

    def timed(run: Callable[..., None]) -> None:
        ended = [0.0]

        def inner(cursor: object) -> None:
            run(cursor)
            ended[0] = time.perf_counter()

        write(inner)
        commits_s.append(time.perf_counter() - ended[0])

    group._transact, writer.transact = counted, timed  # type: ignore[method-assign,assignment]  # noqa: SLF001
    return groups, commits_s


def where_time_goes(folder: Path, num_writers: int, num_acts: int) -> tuple[dict[str, float], float]:
    """Return where the processor's time of an act goes, as shares, and how much of the wall's time waits for COMMIT.

    Each part is timed by its own thread's clock, so that waiting for the interpreter's lock counts for none of them.
    """
    spent: dict[str, float] = {"SQL layer": 0.0, "JSON": 0.0, "hashing": 0.0}
    parts = {
        "SQL layer": [(Statements, name) for name in ("next_seq", "stored", "put", "insert", "call")],
        "JSON": [(acts, "record_body"), (acts, "entry_body"), (acts, "canonical_json"), (sqlite, "read_entry")],
        "hashing": [(acts, "digest_bytes"), (acts, "voucher")],
    }
    with ExitStack() as stack:
        for part, places in parts.items():
            for owner, name in places:
                stack.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name), part, spent)))
        began = time.process_time()
        run = ours(folder, num_writers, num_acts)
        total_s = time.process_time() - began
    found = {part: seconds / total_s for part, seconds in spent.items()}
    return {**found, "the rest": 1 - sum(found.values())}, run.commit_share


def timed(work: Callable[..., object], part: str, spent: dict[str, float]) -> Callable[..., object]:
    """Return `work`, its processor time added to a part's."""

    def measured(*arguments: object, **options: object) -> object:
        began = time.thread_time()
        try:
            return work(*arguments, **options)
        finally:
            spent[part] += time.thread_time() - began

    return measured


def raw(folder: Path, groups: Sequence[int]) -> Measured:
    """Write the same rows in the same groups over the driver."""
    path = folder / "raw.db"
    SqliteCatalogue(path, SystemClock()).close()  # its tables and indexes are the same too
    connection = connect(path)
    cursor = connection.cursor()
    number, commit_s = 0, 0.0
    began = time.perf_counter()
    for size in groups:
        cursor.execute("BEGIN IMMEDIATE")
        for seq in range(number, number + size):
            write_raw(cursor.execute, seq)
        number += size
        ended = time.perf_counter()
        cursor.execute("COMMIT")
        commit_s += time.perf_counter() - ended
    took_s = time.perf_counter() - began
    connection.close()
    return Measured(number / took_s, list(groups), commit_s / took_s)


def write_raw(execute: Callable[..., object], seq: int) -> None:
    """Write one act's four rows."""
    record = app(seq)
    body = ENCODER.encode(record)
    mark = {"kind": "app", "id": record.id, "digest": hashlib.sha256(body).hexdigest()}
    entry = ENCODER.encode({
        "seq": seq, "kind": "app.declared", "at_ns": time.time_ns(), "actor": "bench", "app": record.id, "body": {},
        "touched": [mark],
    })  # fmt: skip
    mac = hashlib.blake2b(seq.to_bytes(8, "big") + entry, key=KEY, digest_size=32).digest()
    execute("INSERT INTO record_app (seq, body, id) VALUES (?, ?, ?)", (seq, body.decode(), record.id))
    execute("INSERT INTO entries (seq, kind, app, body) VALUES (?, ?, ?, ?)", (seq, "app.declared", record.id, entry))
    execute("INSERT INTO vouchers (seq, mac) VALUES (?, ?)", (seq, mac))
    execute("INSERT INTO touched (kind, id, seq) VALUES (?, ?, ?)", ("app", record.id, seq))


def main() -> None:
    """Print a line for each number of writers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--acts", type=int, default=3000, help="acts a run")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    runs: dict[int, list[tuple[Measured, Measured]]] = {writers: [] for writers in NUM_WRITERS}
    for _ in range(options.rounds):
        for writers in NUM_WRITERS:
            # A lone writer pays for a sync each time: fewer acts say as much.
            num_acts = options.acts if writers > 1 else options.acts // 4
            with tempfile.TemporaryDirectory(dir=".") as folder:
                mine = ours(Path(folder), writers, num_acts)
                runs[writers].append((mine, raw(Path(folder), mine.groups)))
    print(
        f"{'writers':>7} {'acts/s':>9} {'raw acts/s':>11} {'ratio':>6} {'acts a commit':>14} {'in COMMIT':>10} {'raw in COMMIT':>14}"
    )
    for writers, pairs in runs.items():
        speed, peer = (statistics.median(run.acts_per_s for run in side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(mine.acts_per_s / other.acts_per_s for mine, other in pairs)
        size = statistics.median(statistics.mean(mine.groups) for mine, _ in pairs)
        shares = [statistics.median(run.commit_share for run in side) for side in zip(*pairs, strict=True)]
        print(
            f"{writers:>7} {speed:>9.0f} {peer:>11.0f} {ratio:>6.2f} {size:>14.1f} {shares[0]:>10.0%} {shares[1]:>14.0%}"
        )

    print(
        "\nwhere the processor's time of an act goes (measured apart, which slows it), and the wall's share in COMMIT"
    )
    for writers in NUM_WRITERS:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            found, waiting = where_time_goes(Path(folder), writers, options.acts if writers > 1 else options.acts // 4)
        print(
            f"{writers:>7} "
            + ", ".join(f"{part} {share:.0%}" for part, share in found.items())
            + f"; in COMMIT {waiting:.0%}"
        )


if __name__ == "__main__":
    main()
