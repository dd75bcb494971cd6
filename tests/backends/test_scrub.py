"""A scrub finds what is damaged, missing and nobody's, puts damage aside and deletes no object."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.blobs.objects import ObjectBlobStore, object_key
from datahall.backends.blobs.scrub import STALE_AFTER_S, scrub
from datahall.core.errors import NotFoundError, UnavailableError
from datahall.security.frames import FRAME_BYTES
from datahall.testing.blobs import half_compressible
from datahall.testing.clock import AutoClock

DATA = half_compressible(3 * FRAME_BYTES, seed=8)


class Bucket(ObjectBlobStore):
    """A bucket in memory, whose stored bytes can be replaced."""

    def read_stored(self, object_name, *, team):
        located = self.locate(object_name, team=team)
        return bytes(located.fetch(0, located.stored_bytes))

    def write_stored(self, object_name, stored, *, team):
        self.bucket.replace(object_key(object_name, team), stored)


@pytest.fixture(params=["local", "bucket"])
def store(request, tmp_path: Path):
    return (
        LocalBlobStore(tmp_path / "blobs") if request.param == "local" else Bucket("memory:///", part_bytes=1_000_000)
    )


def test_a_sound_store_is_found_sound_and_progress_ends_at_its_total(store):
    grants, heard = [store.put(DATA, team="ward"), store.put(b"", team="ward")], []
    result = scrub(store, grants, team="ward", report=heard.append)
    assert result.is_sound
    assert (result.num_checked, result.num_bytes) == (2, len(DATA))
    assert (result.stray, result.strange, result.cleared) == ((), (), ())
    assert heard[-1].done == heard[-1].total == len(DATA)


def test_what_is_damaged_missing_or_stray_is_told_and_damage_is_put_aside(store):
    good, bad, gone, stray = (store.put(DATA[:size], team="ward") for size in (len(DATA), 2_000, 10, 20))
    lie = msgspec.structs.replace(store.put(b"data", team="ward"), digest="0" * 64)
    stored = store.read_stored(bad.object, team="ward")
    damaged = stored[:1000] + bytes([stored[1000] ^ 1]) + stored[1001:]
    store.write_stored(bad.object, damaged, team="ward")
    store.delete(gone.object, team="ward")
    result = scrub(store, [good, bad, gone, lie], team="ward")
    assert not result.is_sound
    assert [found.object for found in result.damaged] == [bad.object, lie.object]
    assert result.missing == (gone.object,)
    assert result.stray == (stray.object,)
    assert store.list(team="ward") == sorted([good.object, stray.object])
    with pytest.raises(NotFoundError):
        store.get(bad, team="ward")
    assert store.get(good, team="ward") == DATA
    assert damaged in aside(store), "what was damaged may still be mended by hand"
    again = scrub(store, [good, stray], team="ward")
    assert again.is_sound


def aside(store) -> list[bytes]:
    if isinstance(store, LocalBlobStore):
        return [path.read_bytes() for path in (store.folder / ".quarantine").rglob("*") if path.is_file()]
    return [store.bucket.get(found.key, limit_bytes=1 << 30) for found in store.bucket.list("quarantine/")]


def test_a_large_object_goes_aside_with_all_its_parts():
    store = Bucket("memory:///", part_bytes=1_000_000)
    grant = msgspec.structs.replace(store.put(DATA, team="ward"), digest="0" * 64)
    kept = store.put(DATA, team="ward")
    assert len(scrub(store, [grant, kept], team="ward").damaged) == 1
    assert list(store.bucket.list(f"parts/ward/{grant.object}/")) == []
    assert len(aside(store)) == 3
    assert store.get(kept, team="ward") == DATA


def test_a_killed_writer_s_copy_is_removed_once_it_is_old_and_nothing_else_is(tmp_path: Path):
    store = LocalBlobStore(tmp_path / "blobs")
    grant = store.put(DATA, team="ward")
    shard = store.path(grant.object, team="ward").parent
    now_s = store.path(grant.object, team="ward").stat().st_mtime
    for name, age_s in ((f".{'a' * 32}.77.abcd", STALE_AFTER_S + 60), (f".{'b' * 32}.77.abcd", STALE_AFTER_S - 60)):
        (shard / name).write_bytes(b"half an object")
        os.utime(shard / name, (now_s - age_s, now_s - age_s))
    (shard / "notes.txt").write_text("somebody's")
    (shard / ("c" * 32)).symlink_to("notes.txt")
    result = scrub(store, [grant], team="ward")
    assert result.cleared == (f".{'a' * 32}.77.abcd",)
    assert result.strange == (f"{shard.name}/{'c' * 32}", f"{shard.name}/notes.txt")
    assert {path.name for path in shard.iterdir()} == {grant.object, f".{'b' * 32}.77.abcd", "notes.txt", "c" * 32}


def test_a_link_in_the_place_of_an_object_is_damage(tmp_path: Path):
    store = LocalBlobStore(tmp_path / "blobs")
    grant = store.put(DATA, team="ward")
    path = store.path(grant.object, team="ward")
    path.rename(tmp_path / "aside")
    path.symlink_to(tmp_path / "aside")
    assert [found.object for found in scrub(store, [grant], team="ward").damaged] == [grant.object]


def test_a_copy_that_somebody_writes_is_never_taken_for_one_that_was_left(tmp_path: Path):
    store, cleared = LocalBlobStore(tmp_path / "blobs"), []
    grant = store.put(DATA, team="ward")
    left = store.path(grant.object, team="ward").with_name(f".{grant.object}.77.abcd")

    def chunks():
        yield DATA[:2_000_000]
        yield DATA[2_000_000:]
        left.write_bytes(b"half an object")
        cleared.extend(store.clear(team="ward", older_than_s=-1e9))  # as if all of it were years old
        yield DATA

    assert store.get(store.write(chunks(), team="ward"), team="ward") == DATA + DATA
    assert cleared == [left.name], "the control: what nobody writes is removed"


def test_a_large_object_whose_parts_were_removed_meanwhile_is_not_acknowledged():
    store = Bucket("memory:///", part_bytes=1 << 20)

    def chunks(older_than_s):
        for number in range(20):
            if number == 15:
                while not list(store.bucket.list("parts/ward/")):  # other threads upload them
                    pass
                store.clear(team="ward", older_than_s=older_than_s)
            yield os.urandom(1 << 20)

    with pytest.raises(UnavailableError, match="removed while it was uploaded"):
        store.write(chunks(-1e9), team="ward")
    assert store.list(team="ward") == []
    store.write(chunks(STALE_AFTER_S), team="ward")  # the control


def test_a_machine_whose_clock_is_ahead_clears_nothing_that_is_new():
    clock = AutoClock()
    store = Bucket("memory:///", part_bytes=1 << 20, clock=clock)
    store.bucket.create(f"parts/ward/{'a' * 32}/000000", b"of an upload that goes on")
    clock.advance(1e9)
    assert store.clear(team="ward", older_than_s=STALE_AFTER_S) == []
    assert store.clear(team="ward", older_than_s=-1) == ["a" * 32], "the control"
    assert list(store.bucket.list("now/")) == []
