"""A disk that is full or fails under the catalogue: a clear refusal, nothing false, reads go on, and it heals by itself."""

from __future__ import annotations

import gc
import random
import shutil
from collections import Counter
from contextlib import closing
from unittest import mock

import pytest

from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.errors import StorageFullError
from datahall.core.records import Act, App, Entry
from datahall.testing import vfs
from datahall.testing.catalogue import app, declare
from datahall.testing.clock import AutoClock
from datahall.testing.vfs import DiskLayer, Fault
from tests.faults import workload
from tests.faults.workload import Writer, damage, odd, open_catalogue, state_after, watched

NUM_POINTS = 100
NUM_ACTS = 8
FAILURES = [("write", vfs.FULL), ("write", vfs.IOERR_WRITE), ("sync", vfs.IOERR_FSYNC)]
NUM_PAGES = 12  # few, so that checkpoints fail too


class Trial:
    """A catalogue on a disk that fails at one point, and everything that was said to its caller."""

    def __init__(self, folder, fault):
        folder.mkdir()
        self.folder, self.fault = folder, fault
        self.layer = DiskLayer()
        self.writer = Writer("w", random.Random(7))  # noqa: S311  (the same acts in each trial)
        self.told = []
        self.num_refused = 0

    def run(self):
        """Do the acts; a refused one is tried again once the disk has healed, with no restart."""
        with watched(self.layer, self.folder):
            if self.fault:
                self.layer.fail(self.fault)
            with closing(self.open()) as catalogue:
                for _ in range(NUM_ACTS):
                    self.act(catalogue, self.writer.plan())
                self.layer.heal()
                self.num_operations = Counter(operation.kind for operation in self.layer.log)
                assert odd(catalogue, self.told) == ""
        assert self.layer.problems == []

    def open(self):
        try:
            return open_catalogue(self.folder, num_pages=NUM_PAGES)
        except StorageFullError:
            self.num_refused += 1
            self.layer.heal()
            return open_catalogue(self.folder, num_pages=NUM_PAGES)

    def act(self, catalogue, changes):
        act = Act(kind="app.declared", actor="w", changes=changes)
        try:
            self.told.append((catalogue.act(act), changes))
        except StorageFullError as refusal:
            self.retry(catalogue, act, refusal)
        self.look(catalogue)

    def retry(self, catalogue, act, refusal):
        """While the disk fails nothing goes through and nothing is lost; once it is well again, the act does."""
        assert (refusal.http_status, "free disk space" in refusal.hint) == (507, True)
        self.num_refused += 1
        self.look(catalogue)
        if self.fault.lasts:
            with pytest.raises(StorageFullError):
                catalogue.act(act)
            self.look(catalogue)
        crashed = self.copy("refused")
        self.layer.heal()
        self.check(crashed, act.changes)
        self.told.append((catalogue.act(act), act.changes))
        self.check(self.copy("healed"), ())

    def look(self, catalogue):
        """Reading goes on, and shows what was acknowledged and nothing else."""
        assert catalogue.entries() == [entry for entry, _ in self.told]
        assert {found.id: found for found in catalogue.find(App)} == state_after(changes for _, changes in self.told)

    def copy(self, when):
        """Return a copy of what a crash now would leave: the shared memory is gone."""
        copy = self.folder.with_name(f"{self.folder.name}-{when}-{len(self.told)}")
        copy.mkdir()
        for name in ("hall.db", "hall.db-wal"):
            if (self.folder / name).exists():
                shutil.copyfile(self.folder / name, copy / name)
        return copy

    def check(self, crashed, refused):
        """Whoever opens it finds what was acknowledged; the act in doubt is there wholly or not at all."""
        with closing(open_catalogue(crashed)) as catalogue:
            there, apps = catalogue.entries(), {found.id: found for found in catalogue.find(App)}
        acts = [changes for _, changes in self.told]
        if len(there) > len(self.told):
            assert self.fault.kind == "sync", "only a sync that fails leaves doubt"
            acts.append(refused)
        assert (len(there), apps) == (len(acts), state_after(acts))
        assert damage(crashed) == ""


@pytest.fixture(scope="module")
def num_operations(memory):
    """How many writes and syncs the acts take on a disk that works."""
    trial = Trial(memory() / "hall", None)
    trial.run()
    assert trial.num_refused == 0
    return trial.num_operations


def points(num_operations, seeds):
    """Spread the trials over all operations, and over a disk that heals at once and one that heals when it is told to."""
    for seed in seeds:
        kind, code = FAILURES[seed % 3]
        nth = seed // 3 * num_operations[kind] // (NUM_POINTS // 3 + 1)
        yield seed, Fault(kind=kind, nth=nth, code=code, lasts=seed // 3 % 2 == 0)


def attempt(folder, seed, fault):
    """Return how many acts the disk refused."""
    trial = Trial(folder, fault)
    try:
        trial.run()
        assert trial.layer.num_failed >= 1, "the fault was reached"
        with closing(SqliteCatalogue(folder / "hall.db", AutoClock())) as again:
            assert len(again.entries()) == len(trial.told) + 1
        assert damage(folder) == ""
    except BaseException:
        print(f"--seed {seed}: {fault}")  # noqa: T201  (pytest shows it with the failure)
        raise
    return trial.num_refused


def test_a_disk_that_fails_loses_nothing_and_says_so(tmp_path, num_operations, seeds):
    chosen = [seed for seed in seeds(NUM_POINTS) if seed % 4 == 0] or seeds(NUM_POINTS)
    refused = [attempt(tmp_path / f"{seed}", seed, fault) for seed, fault in points(num_operations, chosen)]
    assert sum(refused) >= len(chosen) // 2, "the others hit a checkpoint, which can wait"


@pytest.mark.torture
@pytest.mark.timeout(1200)
def test_a_disk_that_fails_at_a_hundred_points_loses_nothing_and_says_so(tmp_path, num_operations, seeds):
    chosen = seeds(NUM_POINTS)
    refused = [attempt(tmp_path / f"{seed}", seed, fault) for seed, fault in points(num_operations, chosen)]
    assert sum(refused) >= len(chosen) // 2


def test_a_refused_act_is_not_seen_where_nobody_has_read_before(tmp_path):
    """The last connection to close would make the next one recover from the WAL, and find the commit whose sync failed."""
    layer = DiskLayer()
    with layer.installed(), closing(open_catalogue(tmp_path)) as catalogue:
        layer.fail(Fault(kind="sync", nth=0, code=vfs.IOERR_FSYNC, suffix="-wal", lasts=True))
        assert is_refused(catalogue, app())
        gc.collect()  # nor is a connection kept open by an error's traceback
        assert catalogue.find(App) == catalogue.entries() == []
        layer.heal()
        assert declare(catalogue, app("other")).seq == 0


def is_refused(catalogue, record):
    try:
        declare(catalogue, record)
    except StorageFullError:
        return True
    return False


class Deaf(SqliteCatalogue):
    """Takes no notice of what the disk says: it answers as if the act were written."""

    def act(self, act):
        try:
            return super().act(act)
        except StorageFullError:
            return Entry(seq=0, kind=act.kind, at_ns=0, actor=act.actor, app=act.app, body=act.body, touched=())


def test_a_catalogue_that_is_deaf_to_its_disk_is_found_out(tmp_path):
    """The control: the same trial of a catalogue that acknowledges what was refused."""
    trial = Trial(tmp_path / "hall", Fault(kind="sync", nth=3, code=vfs.IOERR_FSYNC, suffix="-wal", lasts=True))
    with mock.patch.object(workload, "SqliteCatalogue", Deaf), pytest.raises(AssertionError):
        trial.run()
