"""Garbage collection never takes what an act names, whoever was first; and takes everything else."""

import threading
from random import Random
from types import SimpleNamespace

import pytest

from datahall.app.collection import LEASE, Collector
from datahall.app.control import Control
from datahall.app.vault import Vault
from datahall.backends.blobs.memory import MemoryBlobStore
from datahall.backends.db.leases import Leases
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.errors import ConflictError, IntegrityError, NotFoundError
from datahall.core.records import Act, Artifact, RetiredMaster
from datahall.security.keys import KeyRing
from datahall.testing.catalogue import app, declare
from datahall.testing.clock import AutoClock

TEAM = "ward"


class World:
    """A catalogue, objects, and a collector without grace."""

    def __init__(self, folder):
        self.folder, self.clock = folder, AutoClock()
        self.catalogue = SqliteCatalogue(folder / "hall.db", self.clock)
        self.blobs = MemoryBlobStore()
        self.keys = KeyRing.open(folder / "keys", create=True)
        self.vault = Vault(self.catalogue, self.blobs, self.keys)
        self.collector = Collector(self.catalogue, self.blobs, self.catalogue.leases, self.clock, grace_s=0)
        self.control = Control(SimpleNamespace(catalogue=self.catalogue, keys=self.keys, vault=self.vault))
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
        raise AssertionError("refused a hundred times")

    def rotate(self, **asked):
        """Rotate and retire as production does."""
        return self.control.rotate_keys(retire=True, **asked)

    def unreadable(self):
        """Return the artifacts that another process, which reads the keys anew, cannot open."""
        fresh, lost = KeyRing.open(self.folder / "keys"), []
        for artifact in self.catalogue.find(Artifact):
            try:
                fresh.unwrap(artifact.wrapped_key, team=artifact.team, object=artifact.object)
            except IntegrityError:
                lost.append(artifact.id)
        return lost


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


class Load:
    """Writers, readers and erasers in threads, as many as a hall has, until they are told to end."""

    def __init__(self, world, before):
        self.world, self.before, self.kept, self.errors = world, before, [], []
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(number,)) for number in range(6)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        for thread in self.threads:
            thread.join()

    def work(self, number):
        count = 0
        try:
            while not self.ending.is_set():
                digest = self.world.store(b"during %d %d" % (number, count))
                which = count % len(self.before)
                assert self.world.vault.read(TEAM, self.before[which]) == b"before %d" % which
                if count % 5 == 4:
                    self.world.vault.erase(TEAM, digest, actor="owner")
                else:
                    self.kept.append(digest)
                count += 1
        except Exception as error:  # noqa: BLE001  (a thread's error must reach the test)
            self.errors.append(error)


def test_rotations_beside_a_load_lose_nothing_that_was_acknowledged(world):
    before = [world.store(b"before %d" % number) for number in range(30)]
    with Load(world, before) as load:
        rotated = [world.rotate() for _ in range(5)]
    assert load.errors == []
    assert load.kept
    assert [(done.num_retired, done.num_masters) for done in rotated] == [(1, 1)] * 5
    assert rotated[0].num_rewrapped >= 30
    assert all(world.keys.is_newest(found.wrapped_key) for found in world.catalogue.find(Artifact))
    assert world.unreadable() == []
    assert world.catalogue.find(RetiredMaster) != []


def test_a_reader_beside_a_retirement_looks_again(world, monkeypatch):
    """The reader has the artifact as it was, and the key over it is destroyed before it can use it."""
    digest = world.store(b"read")
    unwrap, meanwhile = world.keys.unwrap, [world.rotate]

    def late(_ring, wrapped, **bound):
        if meanwhile:
            meanwhile.pop()()
        return unwrap(wrapped, **bound)

    monkeypatch.setattr(KeyRing, "unwrap", late)
    assert world.vault.read(TEAM, digest) == b"read"


def test_an_erasure_beside_a_rotation_erases(world, monkeypatch):
    digest = world.store(b"Erika")
    get, meanwhile = world.catalogue.get, [lambda: world.control.rotate_keys(retire=False)]

    def early(kind, record_id):
        found = get(kind, record_id)
        if meanwhile:
            meanwhile.pop()()
        return found

    monkeypatch.setattr(world.catalogue, "get", early)
    world.vault.erase(TEAM, digest, actor="owner")
    assert world.catalogue.find(Artifact) == []


def test_a_writer_who_comes_after_the_retirement_is_refused_and_stores_again(world):
    digest, changes = world.vault.store(TEAM, b"slow", "text/plain")
    world.rotate()
    with pytest.raises(ConflictError, match="retired_master"):
        world.name(changes)
    assert world.store(b"slow") == digest
    assert world.unreadable() == []


def test_a_writer_who_comes_just_before_the_retirement_is_wrapped_anew(world):
    """The first pass has found every data key under the new master when the writer's act comes."""
    _, changes = world.vault.store(TEAM, b"fast", "text/plain")
    condemn = world.vault.condemn_masters
    world.vault.condemn_masters = lambda ids, actor: (world.name(changes), condemn(ids, actor=actor))
    assert world.rotate().num_rewrapped == 1
    assert world.unreadable() == []


@pytest.mark.parametrize("late", [True, False])
def test_without_the_rule_a_writer_beside_a_retirement_loses_what_was_acknowledged(world, monkeypatch, late):
    """The control of the three tests above: the same races, without the record that excludes the old key."""
    monkeypatch.setattr(Artifact, "excluded_by", lambda _artifact: ())
    digest, changes = world.vault.store(TEAM, b"lost", "text/plain")
    if late:
        world.rotate()
        world.name(changes)
    else:  # without the second look either: named between the first pass and the end
        world.vault.condemn_masters = lambda _ids, **_: world.name(changes)
        rewrap = world.vault.rewrap
        passes = [rewrap, lambda **_: 0]
        world.vault.rewrap = lambda actor: passes.pop(0)(actor=actor)
        world.rotate()
    assert world.unreadable() == [f"{TEAM}/{digest}"]


def test_a_retired_key_opens_nothing_any_more(world):
    """The control: without wrapping anew, retiring loses what lay under the old key."""
    digest = world.store(b"lost")
    world.keys.rotate()
    world.keys.retire(world.keys.older)
    with pytest.raises(IntegrityError):
        world.vault.read(TEAM, digest)
