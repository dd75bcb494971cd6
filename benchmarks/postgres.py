"""Acknowledged durable acts a second on Postgres, beside the same acts under one lock on the ledger's head.

    python benchmarks/postgres.py [--url postgresql://USER@HOST/EMPTY_DATABASE] [--acts 800] [--rounds 3]

Each act writes a record of its own. The peer takes one more lock, as a counter or a hash chain in one row would: whoever
has it keeps it until the commit is synced, so no two acts share a sync. Without a URL a private server is started, with
fsync on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from datahall.backends.db.acts import Batch, PreparedAct
from datahall.backends.db.advisory import lock, name_of
from datahall.backends.db.postgres import PostgresCatalogue
from datahall.core.clock import SystemClock
from datahall.core.ids import new_id
from datahall.core.records import Act, App, Change, Entry
from datahall.ledger.bodies import read_entry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datahall.backends.db.statements import Cursor

NUM_WRITERS = (1, 8, 16)


class LockedHead(PostgresCatalogue):
    """As PostgresCatalogue, but every act waits for the one before it."""

    def act(self, act: Act) -> Entry:
        """Write an act while nobody else does."""
        prepared = PreparedAct(act)

        def work(cursor: Cursor) -> bytes:
            lock(cursor, [name_of("head")])
            batch = Batch(cursor, self._sql, [prepared])
            batch.check(prepared)
            batch.admit(prepared, self._sql.next_seq(cursor))
            return batch.write(self._clock.now_ns(), self._entry_key)[0]

        return read_entry(self.transact(work))


def acts_per_s(catalogue: PostgresCatalogue, num_writers: int, num_acts: int) -> float:
    """Let threads write, each its own records; return how many acts a second were acknowledged."""
    each = num_acts // num_writers
    clock = SystemClock()

    def write() -> None:
        for _ in range(each):
            record = App(
                id=new_id("app", clock),
                team="ward",
                task="classification",
                spec_digest="0" * 64,
                spec_text="name: tumours",
                policy="pol_0",
                declared_at_ns=clock.now_ns(),
            )
            catalogue.act(Act(kind="app.declared", actor="bench", app=record.id, changes=(Change(new=record),)))

    threads = [threading.Thread(target=write) for _ in range(num_writers)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return each * num_writers / (time.perf_counter() - began)


@contextmanager
def empty_database(url: str) -> Iterator[str]:
    """Yield the URL of an empty database: the one given, or one of a private server."""
    if url:
        yield url
        return
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from tests.postgres import running  # noqa: PLC0415  (needs the test environment)

    with running(durable=True) as server:
        yield server.fresh()


def main() -> None:
    """Print a line for each number of writers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="", help="an empty database")
    parser.add_argument("--acts", type=int, default=800, help="acts a run")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    speeds: dict[tuple[int, type[PostgresCatalogue]], list[float]] = {}
    with empty_database(options.url) as url:
        # One after the other in one database: the peer counts rows, so the sequence is set before each of our runs.
        for _ in range(options.rounds):
            for num_writers in NUM_WRITERS:
                for kind in (PostgresCatalogue, LockedHead):
                    catalogue = kind(url, SystemClock(), entry_key=bytes(32))
                    set_sequence(catalogue)
                    speeds.setdefault((num_writers, kind), []).append(acts_per_s(catalogue, num_writers, options.acts))
                    catalogue.close()
    print(f"{'writers':>7} {'acts/s':>8} {'locked head acts/s':>19} {'ratio':>6}")
    for num_writers in NUM_WRITERS:
        ours, peer = (statistics.median(speeds[num_writers, kind]) for kind in (PostgresCatalogue, LockedHead))
        print(f"{num_writers:>7} {ours:>8.0f} {peer:>19.0f} {ours / peer:>6.2f}")


def set_sequence(catalogue: PostgresCatalogue) -> None:
    """Let the next number be the one after the newest entry's."""
    sql = "SELECT setval('entry_seq', (SELECT coalesce(max(seq) + 1, 0) FROM entries), false)"
    catalogue.transact(lambda cursor: cursor.execute(sql))


if __name__ == "__main__":
    main()
