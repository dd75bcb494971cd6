"""The tree at scale: integration against the bare hash rate, and proofs and checkpoints as the ledger grows.

    python benchmarks/ledger.py [--entries 1000000] [--rounds 3]

Entries of about 350 bytes are written in bulk, then integrated by the sequencer's own code in its own batches. The bare
rate is SHA-256 over the same leaves and as many inner nodes, in Python, with nothing read or stored. At each power of
ten the time of an inclusion proof (made and checked), of a consistency proof from half the size, and of one checkpoint
over one new entry is printed: medians over `--rounds` times 21 random places.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from datahall.backends.db.acts import voucher
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.clock import SystemClock
from datahall.core.records import Entry
from datahall.ledger import tree
from datahall.ledger.bodies import entry_body
from datahall.ledger.proofs import check_inclusion, prove_inclusion
from datahall.ledger.sequencer import integrate
from datahall.security.signing import Ed25519Signer

KEY, ORIGIN, BATCH = bytes(32), "datahall/bench", 10_000


def body(seq: int) -> bytes:
    """Return an entry's bytes."""
    name = f"rep_{seq:026d}"
    said = {"replica": name, "state": "ready", "was": "starting", "why": "it answered the probe of its deployment"}
    return entry_body(
        Entry(seq=seq, kind="replica.changed", at_ns=1_700_000_000_000_000_000 + seq, actor="reconciler", app="tumours",
              body=said, touched=())
    )  # fmt: skip


def fill(catalogue: SqliteCatalogue, start: int, stop: int) -> None:
    """Write entries start <= seq < stop in bulk, with their vouchers."""
    for first in range(start, stop, BATCH):
        bodies = [(seq, body(seq)) for seq in range(first, min(first + BATCH, stop))]
        entries = [(seq, "replica.changed", "tumours", each) for seq, each in bodies]
        vouchers = [(seq, voucher(KEY, seq, each)) for seq, each in bodies]

        def write(cursor: object, entries: list[tuple[object, ...]] = entries, vouchers: object = vouchers) -> None:
            catalogue._sql.insert(cursor, "entries", "seq, kind, app, body", entries)  # type: ignore[arg-type]  # noqa: SLF001
            catalogue._sql.insert(cursor, "vouchers", "seq, mac", vouchers)  # type: ignore[arg-type]  # noqa: SLF001

        catalogue.transact(write)


def bare(start: int, stop: int) -> float:
    """Return the seconds that hashing the same leaves and their inner nodes takes."""
    bodies = [b"\x00" + body(seq) for seq in range(start, stop)]
    began = time.perf_counter()
    hashes = [hashlib.sha256(each).digest() for each in bodies]
    for left in hashes:
        hashlib.sha256(b"\x01" + left + left).digest()
    return time.perf_counter() - began


def median_us(work: Callable[[int], object], places: list[int]) -> float:
    """Return the median microseconds of `work` over the places."""
    took = []
    for place in places:
        began = time.perf_counter()
        work(place)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


class Growing:
    """A ledger that grows, and what its parts cost at each size."""

    def __init__(self, folder: Path) -> None:
        self.catalogue = SqliteCatalogue(folder / "hall.db", SystemClock(), entry_key=KEY)
        self.signer = Ed25519Signer.generate()
        self.size = 0

    def grow(self, stop: int) -> tuple[float, float]:
        """Grow to `stop` entries; return entries integrated a second, and the bare rate beside it."""
        start, took_s, bare_s, num_bare = self.size, 0.0, 0.0, 0
        for first in range(start, stop, BATCH):
            last = min(first + BATCH, stop)
            fill(self.catalogue, first, last)
            began = time.perf_counter()
            integrate(self.catalogue, self.signer, ORIGIN)
            took_s += time.perf_counter() - began
            if num_bare < 5 * BATCH:  # interleaved, and enough to know the rate
                bare_s += bare(first, last)
                num_bare += last - first
        self.size = stop
        return (stop - start) / took_s, num_bare / bare_s

    def inclusion(self, seq: int) -> None:
        """Make and check a proof."""
        check_inclusion(prove_inclusion(self.catalogue, seq), self.signer.public_key)

    def consistency(self, old: int) -> None:
        """Make a proof that the tree extends an older one."""
        tree.consistency_proof(old, self.size, self.catalogue.nodes)

    def checkpoint(self, _place: int) -> None:
        """Take one new entry into the tree and sign it."""
        fill(self.catalogue, self.size, self.size + 1)
        integrate(self.catalogue, self.signer, ORIGIN)
        self.size += 1


def main() -> None:
    """Print a line for each power of ten."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    draw = random.Random(0)  # noqa: S311  (a seeded choice of places)
    sizes = [10**power for power in range(3, 20) if 10**power < options.entries]
    with tempfile.TemporaryDirectory(dir=".") as folder:
        ledger = Growing(Path(folder))
        print(f"{'entries':>10} {'integrated/s':>13} {'bare hashes/s':>14} {'ratio':>6} ", end="")
        print(f"{'inclusion us':>13} {'hashes':>7} {'consistency us':>15} {'checkpoint us':>14}")
        for size in [*sizes, options.entries]:
            rate, bare_rate = ledger.grow(size)
            places = [draw.randrange(1, size) for _ in range(21 * options.rounds)]
            num_hashes = max(len(prove_inclusion(ledger.catalogue, place).path) for place in places)
            costs = [median_us(work, places) for work in (ledger.inclusion, ledger.consistency, ledger.checkpoint)]
            print(f"{size:>10} {rate:>13.0f} {bare_rate:>14.0f} {rate / bare_rate:>6.2f} ", end="")
            print(f"{costs[0]:>13.0f} {num_hashes:>7} {costs[1]:>15.0f} {costs[2]:>14.0f}", flush=True)
        ledger.catalogue.close()


if __name__ == "__main__":
    main()
