"""What can be interrupted between a hall and an object store: a bucket that is a folder, and the cache before it."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import msgspec

from datahall.backends.blobs.cached import CachedBlobStore
from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.blobs.objects import ObjectBlobStore
from datahall.backends.blobs.upload import upload_all
from datahall.core.errors import IntegrityError, NotFoundError
from datahall.core.records import Grant
from datahall.security.frames import FRAME_BYTES

TEAM = "ward"
NOTHING = "nothing"
PART_BYTES = 2_000
LARGE = random.Random(3).randbytes(5_000)  # noqa: S311  (three parts of bytes that do not compress)


def bucket(folder: Path, part_bytes: int = PART_BYTES) -> ObjectBlobStore:
    (folder / "bucket").mkdir(exist_ok=True)
    return ObjectBlobStore(f"file://{folder}/bucket", part_bytes=part_bytes)


def cache(folder: Path, limit_bytes: int = 1_000_000) -> CachedBlobStore:
    return CachedBlobStore(bucket(folder), folder / "cache", limit_bytes=limit_bytes)


def keep(folder: Path, grant: Grant, name: str = "grant") -> None:
    (folder / name).write_bytes(msgspec.json.encode(grant))


def kept(folder: Path, name: str = "grant") -> Grant:
    return msgspec.json.decode((folder / name).read_bytes(), type=Grant)


def stage(data: bytes):
    """Return what leaves an object in a job's staging folder."""
    return lambda folder: keep(folder, LocalBlobStore(folder / "staging").put(data, team=TEAM))


def upload_staged(folder: Path) -> None:
    upload_all(bucket(folder), folder / "staging")


def put_large(folder: Path) -> None:
    keep(folder, bucket(folder).put(LARGE, team=TEAM))


def put_two(folder: Path) -> None:
    put_large(folder)
    keep(folder, bucket(folder).put(LARGE, team=TEAM), "other")


def put_once(folder: Path) -> None:
    if not bucket(folder).list(team=TEAM):
        bucket(folder).put(b"words", team=TEAM)


def delete_large(folder: Path) -> None:
    bucket(folder).delete(kept(folder).object, team=TEAM)


def put_large_aside(folder: Path) -> None:
    bucket(folder).quarantine(kept(folder).object, team=TEAM)


def bucket_state(folder: Path) -> str:
    try:
        return f"{len(bucket(folder).get(kept(folder), team=TEAM))} bytes"
    except NotFoundError:
        return NOTHING


def num_objects(folder: Path) -> str:
    return f"{len(bucket(folder).list(team=TEAM))} objects"


def break_off(folder: Path) -> None:
    """Write an object whose source fails after some of its frames have gone."""

    def chunks():
        yield from [random.Random(4).randbytes(FRAME_BYTES)] * 16  # noqa: S311  (more than are sealed at once)
        raise ZeroDivisionError

    with contextlib.suppress(ZeroDivisionError):
        bucket(folder, FRAME_BYTES).write(chunks(), team=TEAM)


def leave_parts(folder: Path) -> None:
    """Leave the parts of an object without the mark that makes it one."""
    store = bucket(folder)
    object_name = store.put(LARGE, team=TEAM).object
    store.bucket.delete([f"objects/{TEAM}/{object_name[:2]}/{object_name}.parts"], at="test.mark")


def collect(folder: Path) -> None:
    bucket(folder).collect(team=TEAM, older_than_s=-1e9)


def fill_cache(folder: Path) -> None:
    assert cache(folder).get(kept(folder), team=TEAM) == LARGE


def crowd_cache(folder: Path) -> None:
    """Read two objects through a cache that has room for one."""
    small = cache(folder, limit_bytes=len(LARGE) + 1_000)
    for name in ("grant", "other"):
        assert small.get(kept(folder, name), team=TEAM) == LARGE


def take_through_cache(folder: Path) -> None:
    cache(folder).take(folder / "staging")


def leave_stale(folder: Path) -> None:
    fill_large(folder)
    path = LocalBlobStore(folder / "cache").path(kept(folder).object, team=TEAM)
    path.with_name(f".{path.name}.1.aabbccdd").write_bytes(b"half")


def fill_large(folder: Path) -> None:
    put_large(folder)
    fill_cache(folder)


def damage_part(folder: Path) -> None:
    """Leave an object with a damaged part in the bucket."""
    put_large(folder)
    part = sorted(path for path in (folder / "bucket" / "parts").rglob("*") if path.is_file())[1]
    part.write_bytes(bytes(part.stat().st_size))


def read_damaged(folder: Path) -> None:
    with contextlib.suppress(IntegrityError):
        cache(folder).get(kept(folder), team=TEAM)


def cache_state(folder: Path) -> str:
    """Say what is read through the cache, whatever lies in it."""
    try:
        return f"{len(cache(folder).get(kept(folder), team=TEAM))} bytes"
    except NotFoundError:
        return NOTHING
    except IntegrityError:
        return "damaged"
