"""A bounded folder of sealed objects in front of a bucket, so that what is read again, or by a job, is a local file."""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from datahall.backends.blobs.folder import make_shard
from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.blobs.objects import RUN_BYTES, ObjectBlobStore
from datahall.backends.blobs.shelf import CacheStats, Key, Shelf
from datahall.backends.blobs.upload import upload_all
from datahall.core.durable import remove, rename, sync_file
from datahall.core.errors import IntegrityError, NotFoundError, StorageFullError
from datahall.core.records import Grant
from datahall.core.room import room_in
from datahall.security.lanes import in_order
from datahall.security.opening import check_object_whole
from datahall.security.sealing import check_grant, max_sealed_bytes


class CachedBlobStore:
    """Reads through a cache in `folder`, writes to the bucket; one process at a time owns the folder.

    The truth lies in the bucket. An object here is checked whole before a process uses it for the first time, and frame
    by frame whenever it is read; a damaged one is dropped and fetched again. Objects are sealed here as there: one that
    was deleted elsewhere may lie here for a while, of no use without its key.
    """

    def __init__(self, remote: ObjectBlobStore, folder: Path, *, limit_bytes: int) -> None:
        self.folder = folder
        self._remote = remote
        self._local = LocalBlobStore(folder)
        self._limit_bytes = limit_bytes
        self._shelf = Shelf(folder, limit_bytes=limit_bytes, place=lambda key: self._local.path(key[1], team=key[0]))
        self._guard = threading.Lock()
        self._checked: set[Key] = set()

    def stats(self) -> CacheStats:
        """Return hits, misses, evictions, damaged objects and bytes."""
        return self._shelf.stats()

    def path(self, object_name: str, *, team: str) -> Path:
        """Fetch an object where it is missing, and return its file, which stays until room is needed.

        Nobody has checked it yet: whoever opens it with its grant does.
        """
        path = self._local.path(object_name, team=team)
        with self._shelf.using((team, object_name), partial(self._fill, (team, object_name), None)):
            return path

    def read_stored(self, object_name: str, *, team: str) -> bytes:
        """Return an object as it is stored, still sealed. Raises NotFoundError."""
        path = self._local.path(object_name, team=team)
        with self._shelf.using((team, object_name), partial(self._fill, (team, object_name), None)):
            return path.read_bytes()

    def stream_stored(self, object_name: str, *, team: str) -> Iterator[bytes]:
        """Yield an object as it is stored in the bucket, past the cache: it may be larger, and is not read again soon."""
        return self._remote.stream_stored(object_name, team=team)

    @contextmanager
    def hold(self, grants: Iterable[Grant], *, team: str) -> Iterator[tuple[Path, ...]]:
        """Make objects be files, checked whole, that stay as they are while the block runs.

        Raises NotFoundError, IntegrityError, UnavailableError, and StorageFullError where they do not fit together.
        """
        with ExitStack() as stack:
            yield tuple([stack.enter_context(self._sound(grant, team)) for grant in grants])

    def put(self, data: bytes | memoryview, *, team: str) -> Grant:
        """Store `data` in the bucket and return the right to read it."""
        return self._remote.put(data, team=team)

    def write(self, chunks: Iterable[bytes | memoryview], *, team: str) -> Grant:
        """Store bytes of any length in the bucket as they pass through."""
        return self._remote.write(chunks, team=team)

    def get(self, grant: Grant, *, team: str) -> bytes:
        """Return the plain bytes. Raises NotFoundError, IntegrityError or UnavailableError."""
        check_grant(grant)
        if self._fits(grant):
            try:
                with self._sound(grant, team):
                    return self._local.get(grant, team=team)
            except IntegrityError:
                self._forget((team, grant.object), damaged=True)
            except StorageFullError:
                pass  # no room here, or a broken disk: the bucket has it
        return self._remote.get(grant, team=team)

    def read(self, grant: Grant, *, team: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the plain bytes from `start` to `stop`. Raises as `get`."""
        check_grant(grant)
        pieces = self._read(grant, team, start, stop)
        next(pieces)
        return pieces

    def delete(self, object_name: str, *, team: str) -> None:
        """Remove an object, from the bucket and from here; one that is not there is no error."""
        self._remote.delete(object_name, team=team)
        self._forget((team, object_name))

    def take(self, staging: Path) -> None:
        """Upload every object of the store in `staging`; as long as there is room they stay here too.

        An upload that was cut, by `kill -9` for example, goes on with the parts that are missing when it is called again.
        """
        upload_all(self._remote, staging, uploaded=self._adopt)

    def list(self, *, team: str) -> list[str]:
        """Return the names of all objects of a team in the bucket, sorted."""
        return self._remote.list(team=team)

    def _fits(self, grant: Grant) -> bool:
        return max_sealed_bytes(grant.size_bytes) <= self._limit_bytes

    @contextmanager
    def _sound(self, grant: Grant, team: str) -> Iterator[Path]:
        """Keep an object's file in its place, checked whole once in this process's life; a damaged one is fetched anew."""
        key = (team, grant.object)
        check_grant(grant)
        with self._shelf.using(key, partial(self._fill, key, grant)) as path:
            if self._is_checked(key) or self._is_sound(grant, team):
                self._note_checked(key)
                yield path
                return
        self._forget(key, damaged=True)
        with self._shelf.using(key, partial(self._fill, key, grant)) as path:
            self._note_checked(key)
            yield path

    def _read(self, grant: Grant, team: str, start: int, stop: int | None) -> Generator[bytes, None, None]:
        at = start
        store: LocalBlobStore | ObjectBlobStore = self._local if self._fits(grant) else self._remote
        told = False
        while True:
            try:
                with ExitStack() as stack:
                    if store is self._local:
                        stack.enter_context(self._sound(grant, team))
                    pieces = store.read(grant, team=team, start=at, stop=stop)
                if not told:
                    yield b""  # taken by `read`: what is missing or wrong from the start is said before anything is used
                    told = True
                for piece in pieces:
                    yield piece
                    at += len(piece)
            except (IntegrityError, StorageFullError) as error:
                if store is self._remote:
                    raise
                if isinstance(error, IntegrityError):
                    self._forget((team, grant.object), damaged=True)
                store = self._remote  # what was yielded was authentic; the bucket has the rest
            else:
                return

    def _fill(self, key: Key, grant: Grant | None, path: Path) -> None:
        """Fetch an object, check it whole where there is a grant, and only then put it in its place."""
        team, object_name = key
        self._note_unchecked(key)
        located = self._remote.locate(object_name, team=team)
        if grant and located.stored_bytes > max_sealed_bytes(grant.size_bytes):
            raise IntegrityError("what lies there is not the object", where=object_name)
        self._shelf.reserve(key, located.stored_bytes)
        temporary = path.with_name(f".{object_name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            with room_in(self.folder):
                make_shard(self.folder, path.parent, at="cache.shard")
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    starts = range(0, located.stored_bytes, RUN_BYTES)
                    ends = (min(start + RUN_BYTES, located.stored_bytes) for start in starts)
                    for piece in in_order(lambda each: located.fetch(*each), zip(starts, ends, strict=True)):
                        file.write(piece)
                    file.flush()
                    sync_file(file.fileno(), at="cache.fill")
            if grant:
                self._local.check_file(temporary, grant, team=team)
                self._note_checked(key)
            rename(temporary, path, at="cache.fill")
        except BaseException:  # the half-written copy must not outlive even a Ctrl-C
            if temporary.exists():
                remove(temporary, at="cache.abandon")
            raise

    def _is_sound(self, grant: Grant, team: str) -> bool:
        try:
            check_object_whole(self._local, grant, team=team)
        except (IntegrityError, NotFoundError):  # damaged, or taken away behind our back
            return False
        return True

    def _adopt(self, source: Path, team: str) -> None:
        def move(target: Path) -> None:
            make_shard(self.folder, target.parent, at="cache.adopt_shard")
            try:
                rename(source, target, at="cache.adopt")
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                raise StorageFullError("the cache lies on another disk", where=str(self.folder)) from error

        self._shelf.adopt((team, source.name), source.stat().st_size, move)

    def _is_checked(self, key: Key) -> bool:
        with self._guard:
            return key in self._checked

    def _note_checked(self, key: Key) -> None:
        with self._guard:
            self._checked.add(key)

    def _note_unchecked(self, key: Key) -> None:
        with self._guard:
            self._checked.discard(key)

    def _forget(self, key: Key, *, damaged: bool = False) -> None:
        self._note_unchecked(key)
        self._shelf.drop(key, damaged=damaged)


if TYPE_CHECKING:
    from datahall.core.ports import BlobStore

    _: BlobStore = CachedBlobStore(ObjectBlobStore("memory:///"), Path(), limit_bytes=0)
