"""Both blob stores keep the contract; the local one also keeps its folder."""

from __future__ import annotations

import errno
import os
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.blobs.memory import MemoryBlobStore
from datahall.core.canonical import digest_bytes
from datahall.core.errors import IntegrityError, NotFoundError, StorageFullError
from datahall.core.failpoints import armed
from datahall.core.records import Grant
from datahall.security import frames, sealing
from datahall.testing.blobs import BlobStoreContract


class TestMemory(BlobStoreContract):
    @pytest.fixture
    def store(self):
        return MemoryBlobStore()


class TestLocal(BlobStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        # The flips are a thousand writes; what they prove does not depend on the disk's cache.
        monkeypatch.setattr(os, "fsync", lambda _: None)
        return LocalBlobStore(tmp_path / "blobs")


@pytest.fixture
def store(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "blobs")


PLAIN = b"data" * 10_000


def forged(claim: Grant, flag: int, body: bytes, *, lengths: tuple[int, ...] | None = None) -> bytes:
    """An object such as a hostile job can make: it holds the key, so every frame is authentic."""
    place = frames.Place(claim.key, "ward", claim.object)
    frame = bytes([flag]) + AESGCM(claim.key).encrypt(bytes(11) + b"\1", body, frames.bound(place, 0, flag))
    return sealing.MAGIC + frame + frames.seal_index(place, (len(frame),) if lengths is None else lengths)


CLAIM = Grant(digest=digest_bytes(PLAIN), object="a" * 32, size_bytes=len(PLAIN), key=bytes(32))


@pytest.mark.parametrize(("flag", "body"), [(1, zstandard.compress(PLAIN)), (0, PLAIN)])
def test_the_forgery_below_is_one_that_would_be_read(store: LocalBlobStore, flag: int, body: bytes):
    store.write_stored(CLAIM.object, forged(CLAIM, flag, body), team="ward")
    assert store.get(CLAIM, team="ward") == PLAIN


OTHER = b"date" * 10_000
BOMB = zstandard.compress(bytes(1 << 26))
LIES = {
    "bomb": (1, BOMB),
    "bomb that says it has a petabyte": (1, b"\x28\xb5\x2f\xfd\xe0" + (1 << 50).to_bytes(8, "little") + b"\x01\0\0"),
    "bomb of unstated size": (1, zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 26))),
    "second frame": (1, zstandard.compress(PLAIN) + zstandard.compress(bytes(1 << 20))),
    "other bytes": (1, zstandard.compress(OTHER)),
    "garbage": (1, b"no zstd"),
    "nothing": (1, b""),
    "nothing raw": (0, b""),
    "too long raw": (0, PLAIN + b"!"),
    "too short raw": (0, PLAIN[1:]),
    "other bytes raw": (0, OTHER),
    "unknown flag": (2, PLAIN),
}


@pytest.mark.parametrize(("flag", "body"), LIES.values(), ids=LIES)
def test_an_authentic_object_that_is_a_bomb_or_a_lie_is_refused(store: LocalBlobStore, flag: int, body: bytes):
    store.write_stored(CLAIM.object, forged(CLAIM, flag, body), team="ward")
    with pytest.raises(IntegrityError):
        store.get(CLAIM, team="ward")
    if body not in {OTHER, zstandard.compress(OTHER)}:  # only the digest tells, which a range does not look at
        with pytest.raises(IntegrityError):
            b"".join(store.read(CLAIM, team="ward"))


@pytest.mark.parametrize("lengths", [(), (1,), (0,), (1 << 31,), (40_017, 40_017), (40_016,)])
def test_an_authentic_index_that_lies_is_refused(store: LocalBlobStore, lengths: tuple[int, ...]):
    store.write_stored(CLAIM.object, forged(CLAIM, 0, PLAIN, lengths=lengths), team="ward")
    with pytest.raises(IntegrityError):
        store.read(CLAIM, team="ward")


def test_a_file_grown_beyond_its_grant_is_not_even_read(store: LocalBlobStore):
    grant = store.put(b"data", team="ward")
    os.truncate(store.path(grant.object, team="ward"), 1 << 40)
    with pytest.raises(IntegrityError, match="not the object"):
        store.get(grant, team="ward")


def test_put_syncs_the_file_and_every_new_folder_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced = []
    real = os.fsync

    def spy(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    store = LocalBlobStore(tmp_path / "blobs")
    path = store.path(store.put(b"data", team="ward").object, team="ward")
    assert synced[:3] == [tmp_path, tmp_path / "blobs", tmp_path / "blobs" / "ward"]
    assert synced[3].parent == path.parent
    assert synced[4] == path.parent


def test_files_and_folders_are_for_their_owner_alone(store: LocalBlobStore):
    path = store.path(store.put(b"data", team="ward").object, team="ward")
    assert path.stat().st_mode & 0o777 == 0o600
    for folder in (path.parent, path.parent.parent, store.folder):
        assert folder.stat().st_mode & 0o077 == 0


def test_links_and_fifos_in_the_place_of_an_object_are_refused_at_once(store: LocalBlobStore, tmp_path: Path):
    grant = store.put(b"data", team="ward")
    path = store.path(grant.object, team="ward")
    aside = path.rename(tmp_path / "aside")
    path.symlink_to(aside)
    with pytest.raises(IntegrityError):
        store.get(grant, team="ward")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(IntegrityError):
        store.get(grant, team="ward")
    path.unlink()
    with pytest.raises(NotFoundError):
        store.get(grant, team="ward")
    aside.rename(path)
    assert store.get(grant, team="ward") == b"data"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("step", ["blobs.put/sync:before", "blobs.put/rename:before", "blobs.shard/folder:before"])
def test_a_disk_that_takes_no_more_is_told_and_nothing_is_left_behind(store: LocalBlobStore, code: int, step: str):
    def full(name: str) -> None:
        if name == step:
            raise OSError(code, os.strerror(code))

    with armed(full), pytest.raises(StorageFullError, match="no room"):
        store.write([bytes(3_000_000)], team="ward")
    assert [path for path in store.folder.rglob("*") if path.is_file()] == []
    assert store.get(store.put(b"second", team="ward"), team="ward") == b"second"


def test_control_an_error_that_is_not_the_disk_s_is_not_called_so(store: LocalBlobStore):
    def strange(name: str) -> None:
        if name == "blobs.put/sync:before":
            raise OSError(errno.EPERM, "no")

    with armed(strange), pytest.raises(PermissionError):
        store.put(b"data", team="ward")


def test_memory_holds_a_few_frames_of_what_passes_through(store: LocalBlobStore):
    piece, num_pieces = os.urandom(frames.FRAME_BYTES), 64
    tracemalloc.start()
    try:
        grant = store.write((bytes(piece) for _ in range(num_pieces)), team="ward")
        num_read = sum(len(plain) for plain in store.read(grant, team="ward"))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert num_read == num_pieces * frames.FRAME_BYTES
    assert peak_bytes < 20 * frames.FRAME_BYTES


def test_take_moves_objects_and_nothing_else(store: LocalBlobStore, tmp_path: Path):
    staging = LocalBlobStore(tmp_path / "staging")
    grant = staging.put(b"made by a job", team="ward")
    good = staging.path(grant.object, team="ward")
    other = "b" * 32
    (good.parent / "evil.py").write_text("x")
    (good.parent / other).write_text("in another object's shard")
    foreign = LocalBlobStore(tmp_path / "foreign")
    outside = foreign.path(foreign.put(b"not the job's", team="lab").object, team="lab")
    odd = tmp_path / "staging" / "..data" / outside.parent.name
    odd.mkdir(parents=True)
    (odd / outside.name).write_bytes(b"in a folder that is no team's")
    (tmp_path / "secret").write_bytes(b"outside")
    shard = tmp_path / "staging" / "ward" / "bb"
    shard.mkdir()
    (shard / other).symlink_to(tmp_path / "secret")
    (tmp_path / "staging" / "linked").symlink_to(tmp_path / "foreign" / "lab")

    store.take(tmp_path / "staging")
    assert store.get(grant, team="ward") == b"made by a job"
    assert not good.exists()
    assert outside.exists()
    assert [path for path in store.folder.rglob("*") if path.is_file()] == [store.path(grant.object, team="ward")]


@pytest.mark.parametrize("place", ["_shard/folder", "/link", "/folder", "/remove"])
@pytest.mark.parametrize("side", ["before", "after"])
def test_a_take_that_was_cut_is_taken_up_again_and_loses_nothing(
    store: LocalBlobStore, tmp_path: Path, place: str, side: str
):
    staging = LocalBlobStore(tmp_path / "staging")
    grants = [staging.put(bytes([number]), team="ward") for number in range(5)]

    def cut(name: str) -> None:
        if name == f"blobs.take{place}:{side}":
            raise KeyboardInterrupt

    with armed(cut), pytest.raises(KeyboardInterrupt):
        store.take(staging.folder)
    for number, grant in enumerate(grants):
        assert bytes([number]) in (found.get(grant, team="ward") for found in (store, staging) if has(found, grant))
    store.take(staging.folder)
    assert [store.get(grant, team="ward") for grant in grants] == [bytes([number]) for number in range(5)]


def has(store: LocalBlobStore, grant: Grant) -> bool:
    return grant.object in store.list(team="ward")


def test_take_never_replaces_an_object(store: LocalBlobStore, tmp_path: Path):
    grant = store.put(b"ours", team="ward")
    staging = LocalBlobStore(tmp_path / "staging")
    staging.write_stored(grant.object, b"theirs", team="ward")
    store.take(tmp_path / "staging")
    assert store.get(grant, team="ward") == b"ours"
    store.take(tmp_path / "there is none")


def test_the_contract_goes_red_when_frames_are_not_bound(monkeypatch: pytest.MonkeyPatch):
    """Negative control: without associated data an object can be moved to another name."""
    monkeypatch.setattr(frames, "bound", lambda *_: b"")
    with pytest.raises(pytest.fail.Exception):
        TestMemory().test_an_object_under_another_name_is_refused(MemoryBlobStore())


def test_the_contract_goes_red_when_frames_have_no_place_of_their_own(monkeypatch: pytest.MonkeyPatch):
    """Negative control: without the index in nonce and associated data, ranges of a rearranged object would be read."""
    monkeypatch.setattr(frames, "bound", lambda place, *_: place.object.encode())
    monkeypatch.setattr(frames, "_nonce_of", lambda *_: bytes(12))
    with pytest.raises(AssertionError):
        TestMemory().test_cut_extended_and_rearranged_objects_are_refused(MemoryBlobStore())


def test_the_contract_goes_red_when_frames_are_not_authenticated(monkeypatch: pytest.MonkeyPatch):
    """Negative control: a counter-mode stream without a tag lets flips through, and the flips are seen."""

    class Naive:
        def __init__(self, key: bytes) -> None:
            pass

        def encrypt(self, nonce: bytes, data: bytes, bound: bytes) -> bytes:
            return bytes(data) + bytes(16)

        def encrypt_into(self, nonce: bytes, data: bytes, bound: bytes, into: memoryview) -> None:
            into[:] = self.encrypt(nonce, data, bound)

        def decrypt(self, nonce: bytes, data: bytes, bound: bytes) -> bytes:
            return bytes(data[:-16])

    monkeypatch.setattr(frames, "AESGCM", Naive)
    with pytest.raises(AssertionError):
        TestMemory().test_a_thousand_flipped_bytes_are_refused_whole_and_in_ranges(MemoryBlobStore())


def test_what_a_killed_take_linked_is_synced_by_the_next_one(tmp_path: Path):
    staging, store = LocalBlobStore(tmp_path / "staging"), LocalBlobStore(tmp_path / "blobs")
    grant = staging.put(b"x", team="ward")
    reached: list[str] = []

    def dies(name: str) -> None:
        if name == "blobs.take/folder:before":
            raise KeyboardInterrupt

    with armed(dies), pytest.raises(KeyboardInterrupt):
        store.take(tmp_path / "staging")
    with armed(reached.append):
        store.take(tmp_path / "staging")
    assert "blobs.take/folder:after" in reached, "its name is durable before its first one goes"
    assert (staging.list(team="ward"), store.list(team="ward")) == ([], [grant.object])
    # The control: another object of that name stays where it is, and what is here is not replaced.
    staging.write_stored(grant.object, b"another", team="ward")
    store.take(tmp_path / "staging")
    assert staging.list(team="ward") == [grant.object]
    assert store.get(grant, team="ward") == b"x"
