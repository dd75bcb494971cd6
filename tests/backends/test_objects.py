"""Buckets keep the contract: against a real S3 server, and against one that fails part-way."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.blobs.objects import ObjectBlobStore, object_key, part_key
from datahall.backends.blobs.upload import upload_all
from datahall.core.errors import ConflictError, IntegrityError, NotFoundError, StorageFullError, UnavailableError
from datahall.core.failpoints import armed
from datahall.security.frames import FRAME_BYTES
from datahall.testing.blobs import BlobStoreContract, half_compressible
from datahall.testing.clock import AutoClock
from tests.backends.object_server import OPTIONS, Proxy, Server

PART = 1_000_000
DATA = half_compressible(20 * FRAME_BYTES, seed=1)
"""Of about half that once sealed: eleven parts."""


class Tampered(ObjectBlobStore):
    """A bucket in which an intruder replaces objects."""

    def read_stored(self, object_name: str, *, team: str) -> bytes:
        located = self.locate(object_name, team=team)
        return bytes(located.fetch(0, located.stored_bytes))

    def write_stored(self, object_name: str, stored: bytes, *, team: str) -> None:
        self.bucket.replace(object_key(object_name, team), stored)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server.host, server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def bucket(server: Server) -> str:
    return server.bucket()


def store_at(bucket: str, endpoint: str, clock: AutoClock | None = None, **more: object) -> Tampered:
    options = {**OPTIONS, "endpoint": endpoint}
    return Tampered(f"s3://{bucket}/halls/one", options=options, allow_http=True, clock=clock or AutoClock(), **more)


class TestS3(BlobStoreContract):
    num_flips = 150  # each is a few requests; the thousand are flipped in memory below

    @pytest.fixture
    def store(self, server: Server, bucket: str) -> Tampered:
        return store_at(bucket, f"http://{server.host}:{server.port}", part_bytes=4_000_000)


class TestBucketInMemory(BlobStoreContract):
    @pytest.fixture
    def store(self) -> Tampered:
        return Tampered("memory:///", part_bytes=4_000_000)


@pytest.fixture
def store(proxy: Proxy, bucket: str) -> Tampered:
    return store_at(bucket, proxy.endpoint, part_bytes=PART)


def test_a_large_object_goes_up_in_parts_and_is_read_by_ranges(
    store: Tampered, proxy: Proxy, server: Server, bucket: str
):
    grant = store.write([DATA[:5_000_000], DATA[5_000_000:]], team="ward")
    stored = server.objects(bucket)
    parts = [data for key, data in stored.items() if "/parts/ward/" in key]
    assert len(parts) > 10
    assert all(DATA[at : at + 16] not in data for data in stored.values() for at in range(0, 100_000, 4096))
    assert store.list(team="ward") == [grant.object]
    assert store.get(grant, team="ward") == DATA
    proxy.asked.clear()
    assert b"".join(store.read(grant, team="ward", start=9_999_990, stop=10_000_010)) == DATA[9_999_990:10_000_010]
    assert len(proxy.asked) < 8, "only the frames in the range are fetched"
    store.delete(grant.object, team="ward")
    assert server.objects(bucket) == {}


def test_a_key_that_is_taken_is_never_replaced(store: Tampered, server: Server, bucket: str):
    store.bucket.create("key", b"first")
    store.bucket.create("key", b"first")  # as after an answer that was lost
    with pytest.raises(ConflictError):
        store.bucket.create("key", b"second")
    with pytest.raises(ConflictError):
        store.bucket.create("key", b"a longer one")
    assert server.objects(bucket) == {"halls/one/key": b"first"}


@pytest.mark.parametrize("how", ["503", "lost", "unheard", "cut"])
def test_trouble_that_passes_is_not_noticed(store: Tampered, proxy: Proxy, how: str):
    turns = iter(range(1000))
    proxy.fault = lambda *_: how if next(turns) % 2 == 0 else ""
    grant = store.put(DATA[:3_000_000], team="ward")
    small = store.put(b"small", team="ward")
    assert store.get(grant, team="ward") == DATA[:3_000_000]
    assert store.get(small, team="ward") == b"small"
    assert store.list(team="ward") == sorted([grant.object, small.object])
    assert next(turns) > 10, "the proxy was asked at all"


@pytest.mark.parametrize("how", ["503", "lost"])
def test_trouble_that_stays_is_said_in_bounded_time_and_leaves_no_object(
    proxy: Proxy, bucket: str, server: Server, how: str
):
    clock = AutoClock()
    store = store_at(bucket, proxy.endpoint, clock, part_bytes=PART)
    grant = store.put(b"before", team="ward")
    began = clock.monotonic_ns()
    proxy.fault = lambda method, path: how if method == "PUT" and path.rpartition("/")[2] > "000003" else ""
    with pytest.raises(UnavailableError, match="does not answer"):
        store.put(DATA, team="ward")
    assert 1.0 < (clock.monotonic_ns() - began) / 1e9 < 60
    proxy.fault = lambda *_: ""
    assert store.list(team="ward") == [grant.object]
    assert len(server.objects(bucket)) == 1, "no part is left behind"


def test_a_server_that_is_gone_or_refuses_is_said(store: Tampered, proxy: Proxy, server: Server):
    nowhere = store_at("no-such-bucket", proxy.endpoint)
    with pytest.raises(UnavailableError, match="no such bucket"):
        nowhere.put(b"data", team="ward")
    with pytest.raises(UnavailableError, match="does not answer"):
        store_at("hall", "http://127.0.0.1:1").put(b"data", team="ward")
    with pytest.raises(UnavailableError):  # a connection without TLS has to be asked for
        ObjectBlobStore("s3://hall/x", options={**OPTIONS, "endpoint": proxy.endpoint}, clock=AutoClock()).put(
            b"data", team="ward"
        )


def test_objects_that_a_killed_upload_left_are_collected_and_no_others(proxy: Proxy, bucket: str, server: Server):
    store = store_at(bucket, proxy.endpoint, AutoClock(), part_bytes=PART)
    kept = store.put(DATA[:5_000_000], team="ward")
    store.bucket.create(part_key("a" * 32, "ward", 0), b"of an upload that was killed")
    assert store.collect(team="ward", older_than_s=3600) == [], "it may be under way"
    assert store.collect(team="ward", older_than_s=-5) == ["a" * 32]
    assert store.get(kept, team="ward") == DATA[:5_000_000]


def test_a_mark_that_lies_is_refused(store: Tampered):
    grant = store.put(DATA[:5_000_000], team="ward")
    key = object_key(grant.object, "ward") + ".parts"
    good = store.bucket.get(key, limit_bytes=1000)
    for bad in (b"", b"{}", good.replace(b"1000000", b"0"), good.replace(b"1000000", b"-1"), good[:-1], b"x" * 5000):
        store.bucket.replace(key, bad)
        with pytest.raises(IntegrityError):
            store.get(grant, team="ward")
    store.bucket.replace(key, good.replace(b'"stored_bytes":', b'"stored_bytes":1'))
    with pytest.raises((IntegrityError, NotFoundError)):
        store.get(grant, team="ward")
    store.bucket.replace(key, good)
    assert store.get(grant, team="ward") == DATA[:5_000_000]


@pytest.fixture
def staging(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "staging")


def put_parts(proxy: Proxy) -> list[str]:
    return [path.rpartition("/")[2] for method, path in proxy.asked if method == "PUT" and "/parts/" in path]


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("point", "nth"),
    [("objects.part/sync:after", 5), ("objects.commit/create:before", 1), ("objects.commit/create:after", 1)],
)
def test_an_upload_that_was_killed_goes_on_with_the_parts_that_are_missing(
    store: Tampered, proxy: Proxy, bucket: str, staging: LocalBlobStore, point: str, nth: int
):
    grant = staging.put(DATA, team="ward")
    num_parts = -(-staging.path(grant.object, team="ward").stat().st_size // PART)
    main = Path(__file__).with_name("upload_main.py")
    arguments = [f"s3://{bucket}/halls/one", proxy.endpoint, str(staging.folder), str(PART), point, str(nth)]
    killed = subprocess.run([sys.executable, str(main), *arguments], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    first = put_parts(proxy)
    known = nth if "part" in point else num_parts
    assert known <= len(first) <= num_parts
    proxy.asked.clear()
    upload_all(store, staging.folder)
    assert len(put_parts(proxy)) <= num_parts - known, "what the state file knows is not sent again"
    assert set(first) | set(put_parts(proxy)) == {f"{number:06}" for number in range(num_parts)}
    assert store.get(grant, team="ward") == DATA
    assert files_in(staging.folder) == []


def test_control_without_its_state_file_every_part_is_asked_for_again(
    store: Tampered, proxy: Proxy, staging: LocalBlobStore
):
    grant = staging.put(DATA, team="ward")
    path = staging.path(grant.object, team="ward")
    num_parts = -(-path.stat().st_size // PART)
    for forget in (False, True):
        with armed(raising_at("objects.commit/create:before")), pytest.raises(KeyboardInterrupt):
            upload_all(store, staging.folder)
        proxy.asked.clear()
        for state in path.parent.glob(".*upload*") if forget else ():
            state.unlink()
        with armed(raising_at("objects.commit/create:before")), pytest.raises(KeyboardInterrupt):
            upload_all(store, staging.folder)
        assert len(put_parts(proxy)) == (num_parts if forget else 0)
    upload_all(store, staging.folder)
    assert store.get(grant, team="ward") == DATA


def test_a_part_that_the_server_lost_or_changed_is_sent_again_or_refused(
    store: Tampered, proxy: Proxy, staging: LocalBlobStore
):
    grant = staging.put(DATA, team="ward")
    with armed(raising_at("objects.commit/create:before")), pytest.raises(KeyboardInterrupt):
        upload_all(store, staging.folder)
    store.bucket.delete([part_key(grant.object, "ward", 3)], at="test")
    proxy.asked.clear()
    with armed(raising_at("objects.commit/create:before")), pytest.raises(KeyboardInterrupt):
        upload_all(store, staging.folder)
    assert put_parts(proxy) == ["000003"]
    store.bucket.replace(part_key(grant.object, "ward", 4), b"something else")
    upload_all(store, staging.folder)
    assert store.list(team="ward") == [], "an object whose part somebody changed does not come to be"
    assert staging.path(grant.object, team="ward").exists()


def raising_at(point: str):
    def interrupt(name: str) -> None:
        if name == point:
            raise KeyboardInterrupt

    return interrupt


def test_an_object_that_is_there_is_not_replaced_by_a_job_s(store: Tampered, staging: LocalBlobStore):
    grant = store.put(b"ours", team="ward")
    staging.write_stored(grant.object, b"theirs", team="ward")
    upload_all(store, staging.folder)
    assert store.get(grant, team="ward") == b"ours"
    assert staging.path(grant.object, team="ward").exists()


def test_no_room_for_the_state_file_is_said(store: Tampered, staging: LocalBlobStore):
    staging.put(DATA, team="ward")

    def full(name: str) -> None:
        if name == "objects.part/sync:before":
            raise OSError(28, name)

    with armed(full), pytest.raises(StorageFullError):
        upload_all(store, staging.folder)
    assert store.list(team="ward") == []


def test_without_obstore_the_line_that_installs_it_is_said():
    code = (
        "import sys; sys.modules['obstore'] = None\n"
        "from datahall.backends.blobs.stores import STORES\n"
        "assert STORES.load('local').__name__ == 'LocalBlobStore'\n"
        "from datahall.core.errors import UserError\n"
        "try:\n    STORES.load('objects')\n"
        "except UserError as error:\n    print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert "pip install 'datahall[objects]'" in said.stdout
