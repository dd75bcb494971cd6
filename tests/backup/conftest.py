"""Halls that are filled by real acts and real objects, small enough that a backup takes milliseconds."""

from __future__ import annotations

import random
from functools import partial

import pytest

from datahall.app.backup.make import Backups
from datahall.app.backup.reader import Archive
from datahall.app.backup.restore import Restore
from datahall.app.backup.telling import Teller
from datahall.app.jobs import Cancel
from datahall.app.origin import origin_of
from datahall.app.owner import ensure_owner
from datahall.app.sealing import Sealer
from datahall.app.vault import Vault
from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.db.snapshot import snapshot
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.clock import SystemClock
from datahall.core.hall import HallPaths
from datahall.core.records import Act, Artifact
from datahall.ledger.sequencer import integrate
from datahall.ledger.verify import verify_hall
from datahall.security.keys import KeyRing
from datahall.serve.segments import AnswerLog
from datahall.testing.answers import some_answer
from datahall.testing.catalogue import app, declare

CANARY = b"canary-of-the-hall"


def answer(log, more=0, gateway="g1"):
    words = dict.fromkeys(("principal", "team", "app", "version", "deployment", "bundle", "replica"), CANARY.decode())
    return some_answer(log.next_sequence + more, gateway=gateway, **words)


class Built:
    """A hall without processes: catalogue, objects, answers, and what the tests ask of it."""

    def __init__(self, root, *, seed=0, num_objects=3, object_bytes=5_000):
        self.paths = HallPaths(root)
        self.paths.create()
        self.keys = KeyRing.open(self.paths.keys, create=True)
        self.clock = SystemClock()
        self.catalogue = SqliteCatalogue(self.paths.db, self.clock, entry_key=self.keys.entry_key)
        self.blobs = LocalBlobStore(self.paths.blobs)
        self.vault = Vault(self.catalogue, self.blobs, self.keys)
        self.draw = random.Random(seed)  # noqa: S311  (bytes to store, not secrets)
        self.origin = origin_of(self.keys.signer)
        ensure_owner(self.catalogue, self.keys, self.clock)
        declare(self.catalogue, app(CANARY.decode()))
        for _ in range(num_objects):
            self.store(object_bytes)
        self.log = AnswerLog(self.paths.answers, "g1", self.keys.answer_key, now_ns=0)
        for _ in range(2):
            self.log.append([answer(self.log), answer(self.log, 1)])
            self.log.rotate(0, force=True)
        self.sealer().seal()
        self.log.append([answer(self.log)])
        self.log.rotate(0, force=True)
        self.log.append([answer(self.log)])
        (self.paths.reports / "tumours.html").write_bytes(CANARY * 3)
        self.integrate()

    def store(self, size_bytes):
        """Store an object of some words and some noise, and make it an artifact."""
        data = CANARY * 10 + self.draw.randbytes(size_bytes)
        digest, changes = self.vault.store("ward", data, "application/octet-stream")
        self.catalogue.act(Act(kind="step.completed", actor="tester", changes=changes))
        return digest

    def sealer(self):
        return Sealer(self.catalogue, self.vault, self.paths.answers, self.keys.answer_key, self.clock)

    def integrate(self):
        return integrate(self.catalogue, self.keys.signer, self.origin)

    def integrate_note(self):
        """Return the newest note, with everything integrated that there is."""
        self.integrate()
        return self.catalogue.checkpoint().note

    def backups(self):
        return Backups(self.paths, self.keys, self.blobs, self.clock, partial(snapshot, self.paths.db))

    def back_up(self, file, *, replace=False, notify=lambda _: None, cancel=None):
        return self.backups().make(file, replace=replace, notify=notify, cancel=cancel or Cancel())

    def close(self):
        self.log.close(0)
        self.catalogue.close()


def restore(file, keys_folder, root, *, archive=Archive, replace=False, witnessed=None, notify=lambda _: None):
    """Restore a backup into `root`; return what was said and the hall's paths."""
    keys, clock, paths = KeyRing.open(keys_folder), SystemClock(), HallPaths(root)
    with archive.open(file, keys) as opened:
        work = Restore(opened, keys, keys_folder, clock, witnessed=witnessed)
        return work.into(paths, Teller(notify, Cancel(), clock), replace=replace), paths


def assert_whole(paths):
    """Every record equals its entry, every entry lies in the tree, and every artifact reads back under its digest."""
    keys = KeyRing.open(paths.keys)
    report = verify_hall(paths.db, keys.signer.public_key)
    assert report.problems == []
    catalogue = SqliteCatalogue(paths.db, SystemClock(), entry_key=keys.entry_key)
    try:
        vault = Vault(catalogue, LocalBlobStore(paths.blobs), keys)
        for artifact in catalogue.find(Artifact):
            vault.read(artifact.team, artifact.digest)  # compares the digest
        return catalogue.entries(), catalogue.checkpoint()
    finally:
        catalogue.close()


@pytest.fixture(scope="session")
def kit():
    """What these tests share, as a fixture because tests are no package."""

    class Kit:
        pass

    kit = Kit()
    kit.Built, kit.restore, kit.assert_whole, kit.CANARY, kit.answer = Built, restore, assert_whole, CANARY, answer
    return kit


@pytest.fixture
def hall(tmp_path):
    """A small hall that a test may do anything with."""
    made = Built(tmp_path / "hall")
    yield made
    made.close()


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """A hall and a backup of it, shared by tests that change neither; `file` is the backup."""
    root = tmp_path_factory.mktemp("kept")
    made = Built(root / "hall")
    made.file = root / "kept.dhb"
    made.said = made.back_up(made.file)
    yield made
    made.close()
