"""The cache in front of a bucket keeps the contract, its bound, and never serves what is damaged."""

from __future__ import annotations

import os
import resource
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datahall.backends.blobs.cached import CachedBlobStore
from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.blobs.objects import ObjectBlobStore, object_key
from datahall.core.errors import IntegrityError, StorageFullError
from datahall.core.failpoints import armed
from datahall.security.frames import FRAME_BYTES
from datahall.testing.blobs import BlobStoreContract, half_compressible

NOISE = half_compressible(3 * FRAME_BYTES, seed=3)


class Counting(ObjectBlobStore):
    """A bucket in memory that counts what it is asked to fetch."""

    def __init__(self, **more) -> None:
        super().__init__("memory:///", **more)
        self.fetched: list[str] = []

    def locate(self, object_name, *, team):
        self.fetched.append(object_name)
        return super().locate(object_name, team=team)


class Tampered(CachedBlobStore):
    """A cache whose bucket an intruder changes; what lies in the cache is gone then."""

    def read_stored(self, object_name: str, *, team: str) -> bytes:
        located = self._remote.locate(object_name, team=team)
        return bytes(located.fetch(0, located.stored_bytes))

    def write_stored(self, object_name: str, stored: bytes, *, team: str) -> None:
        self._remote.bucket.replace(object_key(object_name, team), stored)
        self._forget((team, object_name))


class TestCached(BlobStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tampered:
        # As for the local store: a thousand fills, whose durability is not what is looked at.
        monkeypatch.setattr(os, "fsync", lambda _: None)
        return Tampered(ObjectBlobStore("memory:///", part_bytes=4_000_000), tmp_path / "cache", limit_bytes=30 << 20)


@pytest.fixture
def remote() -> Counting:
    return Counting()


@pytest.fixture
def store(remote: Counting, tmp_path: Path) -> CachedBlobStore:
    return CachedBlobStore(remote, tmp_path / "cache", limit_bytes=5_000_000)


def held(store: CachedBlobStore) -> int:
    return sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file())


def test_what_is_read_again_is_not_fetched_again(store: CachedBlobStore, remote: Counting):
    grant = store.put(NOISE, team="ward")
    for _ in range(3):
        assert store.get(grant, team="ward") == NOISE
        assert b"".join(store.read(grant, team="ward", start=5, stop=9)) == NOISE[5:9]
    assert remote.fetched == [grant.object]
    stats = store.stats()
    assert (stats.hits, stats.misses, stats.evictions) == (5, 1, 0)
    assert stats.hit_rate == pytest.approx(5 / 6)
    assert stats.held_bytes == held(store) > 0
    assert NOISE[:64] not in store.path(grant.object, team="ward").read_bytes(), "it is sealed here too"


def test_it_survives_a_restart_and_is_checked_again(store: CachedBlobStore, remote: Counting):
    grant = store.put(NOISE, team="ward")
    store.get(grant, team="ward")
    stale = store.path(grant.object, team="ward").with_name(f".{grant.object}.123.abcd")
    stale.write_bytes(b"of a fill that was killed")
    again = CachedBlobStore(remote, store.folder, limit_bytes=5_000_000)
    assert not stale.exists()
    assert again.get(grant, team="ward") == NOISE
    assert remote.fetched == [grant.object]
    assert again.stats().hits == 1
    smaller = CachedBlobStore(remote, store.folder, limit_bytes=1000)
    assert held(smaller) == 0, "a bound that was lowered holds from the start"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 11), max_size=30))
def test_the_bound_holds_after_every_step_and_the_least_recently_used_goes_first(tmp_path_factory, uses):
    store = CachedBlobStore(Counting(), tmp_path_factory.mktemp("law"), limit_bytes=40_000)
    grants = [store.put(os.urandom(1000 * (number + 1)), team="ward") for number in range(12)]
    model: list[int] = []  # numbers of objects, the one used last at the end
    sizes = [store._remote.locate(grant.object, team="ward").stored_bytes for grant in grants]
    for number in uses:
        before = store.stats()
        store.get(grants[number], team="ward")
        assert (store.stats().hits > before.hits) == (number in model)
        if number in model:
            model.remove(number)
        else:
            while sum(sizes[each] for each in model) + sizes[number] > 40_000:
                model.pop(0)
        model.append(number)
        assert held(store) == store.stats().held_bytes == sum(sizes[each] for each in model) <= 40_000


@pytest.mark.parametrize("what", ["flip", "cut", "empty", "gone"])
def test_what_is_damaged_here_is_dropped_and_fetched_again_and_never_served(
    store: CachedBlobStore, remote: Counting, what: str
):
    grant = store.put(NOISE, team="ward")
    store.get(grant, team="ward")
    path = store.path(grant.object, team="ward")
    for reading in (lambda: store.get(grant, team="ward"), lambda: b"".join(store.read(grant, team="ward"))):
        good = path.read_bytes()
        if what == "gone":
            path.unlink()
        else:
            bad = {"flip": good[:-900] + bytes([good[-900] ^ 1]) + good[-899:], "cut": good[:-1], "empty": b""}[what]
            path.write_bytes(bad)
        assert reading() == NOISE
        assert store.get(grant, team="ward") == NOISE
        assert path.read_bytes() == good
    assert store.stats().damaged == (0 if what == "gone" else 2)
    assert store.stats().held_bytes == held(store)


def test_after_a_restart_a_damaged_object_is_not_even_shown_to_a_job(store: CachedBlobStore, remote: Counting):
    grant = store.put(NOISE, team="ward")
    store.get(grant, team="ward")
    path = store.path(grant.object, team="ward")
    good = path.read_bytes()
    path.write_bytes(good[:100] + b"!" + good[101:])
    again = CachedBlobStore(remote, store.folder, limit_bytes=5_000_000)
    with again.hold([grant], team="ward") as (shown,):
        assert shown.read_bytes() == good
    assert again.stats().damaged == 1


def test_an_object_that_lies_is_neither_kept_nor_shown(store: CachedBlobStore):
    grant = msgspec.structs.replace(store.put(b"data" * 100, team="ward"), digest="0" * 64)
    for use in (lambda: store.get(grant, team="ward"), lambda: store.hold([grant], team="ward").__enter__()):
        with pytest.raises(IntegrityError):
            use()
    assert held(store) == store.stats().held_bytes == 0


def test_an_object_fetched_by_name_alone_is_checked_before_it_is_used(store: CachedBlobStore):
    grant = store.put(NOISE, team="ward")
    lie = msgspec.structs.replace(grant, digest="0" * 64)
    assert LocalBlobStore(store.folder).path(grant.object, team="ward") == store.path(grant.object, team="ward")
    assert LocalBlobStore(store.folder).get(grant, team="ward") == NOISE
    with pytest.raises(IntegrityError), store.hold([lie], team="ward"):
        raise AssertionError("it was shown")
    with store.hold([grant, grant], team="ward") as paths:
        assert len(set(paths)) == 1


def test_what_a_job_uses_stays_and_more_than_fits_is_refused(remote: Counting, tmp_path: Path):
    store = CachedBlobStore(remote, tmp_path / "cache", limit_bytes=25_000)
    one, two, three = (store.put(os.urandom(10_000), team="ward") for _ in range(3))
    with store.hold([one, two], team="ward") as paths:
        assert len(store.get(three, team="ward")) == 10_000, "it is read from the bucket, past the cache"
        assert all(path.exists() for path in paths)
        with pytest.raises(StorageFullError, match="no room"), store.hold([three], team="ward"):
            raise AssertionError("it was shown")
    with store.hold([three], team="ward") as (path,):
        assert path.exists()
    assert store.stats().evictions == 1
    large = store.put(os.urandom(50_000), team="ward")
    assert len(store.get(large, team="ward")) == 50_000
    assert len(b"".join(store.read(large, team="ward"))) == 50_000
    assert held(store) <= 25_000


def test_threads_that_want_the_same_object_fetch_it_once(store: CachedBlobStore, remote: Counting):
    grant = store.put(NOISE, team="ward")
    start = threading.Barrier(6)

    def read() -> bool:
        start.wait(10)
        return store.get(grant, team="ward") == NOISE

    with ThreadPoolExecutor(6) as pool:
        assert all(future.result() for future in [pool.submit(read) for _ in range(6)])
    assert remote.fetched == [grant.object]


def test_a_full_disk_here_does_not_hinder_reading(store: CachedBlobStore):
    grant = store.put(NOISE, team="ward")

    def full(name: str) -> None:
        if name.startswith("cache.fill"):
            raise OSError(28, name)

    with armed(full):
        assert store.get(grant, team="ward") == NOISE
        assert b"".join(store.read(grant, team="ward", start=7)) == NOISE[7:]
        with pytest.raises(StorageFullError), store.hold([grant], team="ward"):
            raise AssertionError("it was shown")
    assert held(store) == store.stats().held_bytes == 0


def test_take_uploads_and_keeps_what_fits(store: CachedBlobStore, remote: Counting, tmp_path: Path):
    staging = LocalBlobStore(tmp_path / "staging")
    grant, large = staging.put(NOISE, team="ward"), staging.put(os.urandom(6_000_000), team="ward")
    store.take(staging.folder)
    assert remote.list(team="ward") == sorted([grant.object, large.object])
    assert remote.get(grant, team="ward") == NOISE
    remote.fetched.clear()
    with store.hold([grant], team="ward"):
        assert store.get(grant, team="ward") == NOISE
    assert remote.fetched == [], "what a job made is here already"
    assert [path for path in staging.folder.rglob("*") if path.is_file()] == []
    store.delete(grant.object, team="ward")
    assert held(store) == 0


def test_a_disk_that_fills_up_half_way_leaves_no_torn_object(store: CachedBlobStore):
    """A write that the disk takes in part only is not taken for a whole one: a real limit, not a patched call."""
    grant = store.put(os.urandom(400_000), team="ward")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            store.path(grant.object, team="ward")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert held(store) == store.stats().held_bytes == 0
    assert len(store.get(grant, team="ward")) == 400_000
