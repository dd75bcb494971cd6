"""Garbage collection never takes what an act names, whoever was first; and takes everything else."""

import threading
from random import Random

import pytest

from datahall.app.collection import LEASE, Collector
from datahall.app.vault import Vault
from datahall.backends.blobs.memory import MemoryBlobStore
from datahall.backends.db.leases import Leases
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.errors import ConflictError, IntegrityError, NotFoundError
from datahall.core.records import Act, Artifact
from datahall.security.keys import KeyRing
from datahall.testing.catalogue import app, declare
from datahall.testing.clock import AutoClock

TEAM = "ward"


class World:
    """A catalogue, objects, and a collector without grace."""

    def __init__(self, folder):
        self.clock = AutoClock()
        self.catalogue = SqliteCatalogue(folder / "hall.db", self.clock)
        self.blobs = MemoryBlobStore()
        self.keys = KeyRing.open(folder / "keys", create=True)
        self.vault = Vault(self.catalogue, self.blobs, self.keys)
        self.collector = Collector(self.catalogue, self.blobs, self.catalogue.leases, self.clock, grace_s=0)
        declare(self.catalogue, app(team=TEAM))

    def name(self, changes):
        self.catalogue.act(Act(kind="step.completed", actor="tester", changes=changes))

    def store(self, data):
        """Store an artifact, again where it was collected before it was named; return its digest."""
        for _ in range(100):
            digest, changes = self.vault.store(TEAM, data, "text/plain")
            try:
                self.name(changes)
            except ConflictError:
                continue
            return digest
        raise AssertionError("collected a hundred times")


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.catalogue.close()


def test_what_no_artifact_names_is_removed_and_the_rest_stays(world):
    kept = world.store(b"kept")
    for number in range(5):
        world.blobs.put(b"orphan %d" % number, team=TEAM)
    assert world.collector.collect() == 5
    assert len(world.blobs.list(team=TEAM)) == 1
    assert world.vault.read(TEAM, kept) == b"kept"
    assert world.collector.collect() == 0


def test_a_writer_who_comes_after_the_condemnation_is_refused_and_stores_again(world):
    digest, changes = world.vault.store(TEAM, b"slow", "text/plain")
    assert world.collector.collect() == 1
    with pytest.raises(ConflictError):
        world.name(changes)
    assert world.store(b"slow") == digest
    assert world.vault.read(TEAM, digest) == b"slow"


def test_a_writer_who_comes_just_before_the_condemnation_is_pardoned(world):
    """The collector has read the artifacts when the writer's act comes, and condemns on."""
    digest, changes = world.vault.store(TEAM, b"fast", "text/plain")
    condemn, late = world.collector._condemn, [changes]

    def after_the_writer(team, objects):
        while late:
            world.name(late.pop())
        condemn(team, objects)

    world.collector._condemn = after_the_writer
    assert world.collector.collect() == 0
    assert world.vault.read(TEAM, digest) == b"fast"
    kinds = [entry.kind for entry in world.catalogue.entries()]
    assert kinds[-2:] == ["blobs.condemned", "blobs.pardoned"]


def test_without_the_second_look_the_writer_s_object_is_lost(world):
    """The control: the same race, without the pardon."""
    digest, changes = world.vault.store(TEAM, b"fast", "text/plain")
    condemn = world.collector._condemn
    world.collector._condemn = lambda team, objects: (world.name(changes), condemn(team, objects))
    world.collector._pardon = lambda _team, _left: set()
    assert world.collector.collect() == 1
    with pytest.raises(NotFoundError):
        world.vault.read(TEAM, digest)


def test_what_is_young_is_spared_whatever_the_clock_on_the_wall_says(world):
    collector = Collector(world.catalogue, world.blobs, world.catalogue.leases, world.clock, grace_s=60)
    world.blobs.put(b"young", team=TEAM)
    assert collector.collect() == 0
    world.clock.advance(59)
    assert collector.collect() == 0
    world.clock.advance(2)
    assert collector.collect() == 1


def test_a_condemned_object_is_removed_by_the_next_pass_after_a_crash(world):
    world.blobs.put(b"orphan", team=TEAM)
    delete, world.blobs.delete = world.blobs.delete, lambda *_args, **_options: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        world.collector.collect()
    world.blobs.delete = delete
    assert world.collector.collect() == 1


def test_it_waits_while_somebody_copies(world):
    world.blobs.put(b"orphan", team=TEAM)
    backup = Leases(world.catalogue.transact, world.catalogue._sql, world.clock)
    lease = backup.acquire(LEASE)
    assert world.collector.collect() == 0
    backup.release(lease)
    assert world.collector.collect() == 1


@pytest.mark.parametrize("seed", range(3))
def test_beside_writers_nothing_that_is_named_is_ever_missing(world, seed):
    ending, written, errors = threading.Event(), [], []

    def write(number):
        try:
            draw = Random(f"{seed} {number}")  # noqa: S311  (seeded bytes)
            written.extend(world.store(draw.randbytes(50)) for _ in range(15))
        except Exception as error:  # noqa: BLE001  (a thread's error must reach the test)
            errors.append(error)

    def collect():
        while not ending.is_set():
            world.collector.collect()

    collector = threading.Thread(target=collect)
    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in (collector, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    ending.set()
    collector.join()
    assert errors == []
    for digest in written:
        world.vault.read(TEAM, digest)
    world.collector.collect()
    assert len(world.blobs.list(team=TEAM)) == len(set(written)) == 60


def test_an_erased_artifact_is_gone_with_its_only_key(world):
    digest = world.store(b"Erika")
    artifact = world.catalogue.get(Artifact, f"{TEAM}/{digest}")
    stored = world.blobs.read_stored(artifact.object, team=TEAM)
    world.vault.erase(TEAM, digest, actor="owner")
    with pytest.raises(NotFoundError):
        world.vault.read(TEAM, digest)
    assert world.blobs.list(team=TEAM) == []
    world.blobs.write_stored(artifact.object, stored, team=TEAM)  # an old copy of the disk: nothing can name it
    assert world.catalogue.find(Artifact) == []
    assert world.collector.collect() == 1


def test_rotation_wraps_every_key_beside_readers_and_writers(world):
    before = [world.store(b"before %d" % number) for number in range(30)]
    errors, during = [], []

    def work(number):
        try:
            for count in range(20):
                during.append(world.store(b"during %d %d" % (number, count)))
                assert world.vault.read(TEAM, before[count]) == b"before %d" % count
                if count == 10:
                    world.vault.erase(TEAM, during[-1], actor="owner")
                    during.pop()
        except Exception as error:  # noqa: BLE001  (a thread's error must reach the test)
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1)]
    for thread in threads:
        thread.start()
    world.keys.rotate()
    num_rewrapped = world.vault.rewrap(actor="owner")
    for thread in threads:
        thread.join()
    num_rewrapped += world.vault.rewrap(actor="owner")
    assert errors == []
    assert num_rewrapped >= 30
    assert all(world.keys.is_newest(found.wrapped_key) for found in world.catalogue.find(Artifact))
    assert world.keys.retire() == 1
    for digest in (*before, *during):
        world.vault.read(TEAM, digest)


def test_a_retired_key_opens_nothing_any_more(world):
    """The control: without wrapping anew, retiring loses what lay under the old key."""
    digest = world.store(b"lost")
    world.keys.rotate()
    world.keys.retire()
    with pytest.raises(IntegrityError):
        world.vault.read(TEAM, digest)
