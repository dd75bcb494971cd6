"""A catalogue at work on a watched disk: what was acknowledged, and at which operation of the disk."""

from __future__ import annotations

import random
import sqlite3
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core import failpoints
from datahall.core.records import Act, App, Change, Entry
from datahall.ledger.sequencer import integrate
from datahall.ledger.verify import verify_hall
from datahall.security.signing import Ed25519Signer
from datahall.testing.catalogue import app
from datahall.testing.clock import AutoClock
from datahall.testing.vfs import DiskLayer, Operation

ENTRY_KEY = b"k" * 32
ORIGIN = "datahall.test/hall"
SIGNER = Ed25519Signer.from_private(bytes(range(32)))


class Acknowledged(NamedTuple):
    """An act that its caller was told is done: between which operations of the disk, and what it did."""

    asked_at: int
    told_at: int
    entry: Entry
    changes: tuple[Change, ...]


class Recording(NamedTuple):
    """What a workload did; `acts` in the ledger's order, `heads` as (operation, size) of each checkpoint."""

    folder: Path
    log: list[Operation]
    acts: list[Acknowledged]
    heads: list[tuple[int, int]]


@contextmanager
def watched(layer, folder):
    """Let `layer` see SQLite's operations, and the house's own syncs of `folder`."""

    def note(name):
        if name == "db.create/folder:after":
            layer.note(Operation("folder", str(folder)))

    with layer.installed(), failpoints.armed(note):
        yield


def open_catalogue(folder, *, synchronous="FULL", num_pages=1000):
    """Open the real catalogue; `num_pages` of WAL lead to a checkpoint, so that with few it starts anew many times."""
    opened = SqliteCatalogue(folder / "hall.db", AutoClock(), entry_key=ENTRY_KEY, synchronous=synchronous)
    try:
        opened.transact(lambda cursor: cursor.execute(f"PRAGMA wal_autocheckpoint = {num_pages}"))
    except BaseException:  # a disk that fails must not leave it open
        opened.close()
        raise
    return opened


def record(folder, *, seed, num_writers=1, num_acts=100, synchronous="FULL"):
    """Let writers do acts of 1 to 5 changes in two sessions, with integration in between, and record everything."""
    folder.mkdir()
    layer, acts, heads = DiskLayer(), [], []
    writers = [Writer(f"w{number}", random.Random(f"{seed}/{number}")) for number in range(num_writers)]  # noqa: S311
    with watched(layer, folder):
        for _ in range(2):
            with closing(open_catalogue(folder, synchronous=synchronous, num_pages=40)) as catalogue:
                threads = [
                    threading.Thread(target=writer.work, args=(catalogue, layer, acts, num_acts // 2 // num_writers))
                    for writer in writers[1:]
                ]
                for thread in threads:
                    thread.start()
                writers[0].work(catalogue, layer, acts, num_acts // 2 // num_writers, heads)
                for thread in threads:
                    thread.join(60)
    assert layer.problems == []
    assert len(acts) == num_acts // 2 // num_writers * num_writers * 2
    return Recording(folder, layer.log, sorted(acts, key=lambda act: act.entry.seq), heads)


class Writer:
    """Does acts on applications of its own, so that writers never conflict."""

    def __init__(self, name, draw):
        self.name, self.draw = name, draw
        self.mine = {}
        self.num_made = 0

    def work(self, catalogue, layer, acts, num_acts, heads=None):
        for number in range(num_acts):
            changes = self.plan()
            asked_at = len(layer.log)
            entry = catalogue.act(Act(kind="app.declared", actor=self.name, changes=changes))
            acts.append(Acknowledged(asked_at, len(layer.log), entry, changes))
            if heads is not None and number % 7 == 3:
                head = integrate(catalogue, SIGNER, ORIGIN)
                heads.append((len(layer.log), head.size))

    def plan(self):
        names = self.draw.sample(sorted(self.mine), min(len(self.mine), self.draw.randint(0, 3)))
        changes = [self.replace_or_delete(name) for name in names]
        for _ in range(self.draw.randint(0 if changes else 1, 2)):
            new = app(f"{self.name}-{self.num_made}", digest="x" * self.draw.randint(1, 3000))
            self.num_made += 1
            self.mine[new.id] = new
            changes.append(Change(new=new))
        return tuple(changes)

    def replace_or_delete(self, name):
        old = self.mine.pop(name)
        if self.draw.random() < 0.3:
            return Change(old=old)
        self.mine[name] = app(name, digest=f"{self.draw.random()}")
        return Change(old=old, new=self.mine[name])


def lost(recording, folder, cut):
    """Say what of a recording is not as it should be in `folder`, after a power cut at operation `cut`; "" is all well.

    Whatever is there must be the first acts of the recording, each whole: those acknowledged by then, perhaps more.
    """
    num_told = max((act.entry.seq + 1 for act in recording.acts if act.told_at <= cut), default=0)
    signed = max((size for told_at, size in recording.heads if told_at <= cut), default=0)
    with closing(open_catalogue(folder)) as catalogue:
        there = catalogue.entries()
        if len(there) < num_told:
            return f"{num_told - len(there)} acknowledged acts are lost"
        head = catalogue.checkpoint()
        if (head.size if head else 0) < signed:
            return f"the checkpoint of {signed} entries is lost"
        what = odd(catalogue, [(act.entry, act.changes) for act in recording.acts])
    return what or damage(folder)


def odd(catalogue, acts):
    """Say where a catalogue does not hold the first of `acts`, whole and no more, or cannot go on; "" is all well."""
    there = catalogue.entries()
    first = acts[: len(there)]
    if there != [entry for entry, _ in first]:
        return "an entry is not the one that was acknowledged"
    if {found.id: found for found in catalogue.find(App)} != state_after(changes for _, changes in first):
        return "the records are not those of the acts that are there"
    integrate(catalogue, SIGNER, ORIGIN)
    after = catalogue.act(Act(kind="app.declared", actor="after", changes=(Change(new=app("after")),)))
    return "" if after.seq == len(there) else "the next act does not follow"


def damage(folder):
    """Say what the two outside checks find: the stand-alone verifier, and SQLite's own."""
    report = verify_hall(folder / "hall.db", SIGNER.public_key)
    if report.problems:
        return f"verify: {report.problems[0]}"
    with closing(sqlite3.connect(folder / "hall.db")) as connection:
        said = connection.execute("PRAGMA integrity_check").fetchone()[0]
    return "" if said == "ok" else f"integrity_check: {said}"


def state_after(acts):
    """Return id to application, after these acts' changes."""
    found = {}
    for change in (change for changes in acts for change in changes):
        found.pop((change.new or change.old).id, None)
        if change.new is not None:
            found[change.new.id] = change.new
    return found
