"""Encrypted objects as files in a folder: `<team>/<first two digits>/<object>`."""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from datahall.backends.blobs.folder import (
    files_in,
    is_in_place,
    is_temporary,
    make_shard,
    objects_in,
    open_object,
    path_of,
    teams_in,
)
from datahall.core.durable import link, remove, rename, sync_folder, write_pieces
from datahall.core.errors import IntegrityError, NotFoundError
from datahall.core.records import Grant
from datahall.core.room import SourceError, own_errors, room_in
from datahall.security.opening import Opening
from datahall.security.sealing import Sealing, check_grant, check_team, max_sealed_bytes

_PIECE_BYTES = 1 << 20


class LocalBlobStore:
    """Keeps sealed objects in `folder`; any number of processes may share it.

    An object is wholly there or not at all, and survives power loss once `put` has returned. Files and folders
    are for their owner alone, and whatever is not a regular file is never opened as an object. What a writer that
    was killed leaves is a file with a dot before its name, which `scrub` removes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, object_name: str, *, team: str) -> Path:
        """Return the file of one object, whether it exists or not. Raises UserError for an impossible name."""
        return path_of(self.folder, object_name, team=team)

    @contextmanager
    def hold(self, grants: Iterable[Grant], *, team: str) -> Iterator[tuple[Path, ...]]:
        """Show objects as files while the block runs; here they are files always."""
        yield tuple(self.path(grant.object, team=team) for grant in grants)

    def put(self, data: bytes | memoryview, *, team: str) -> Grant:
        """Store `data` durably and return the right to read it. Raises StorageFullError when the disk takes no more."""
        return self.write((data,), team=team)

    def write(self, chunks: Iterable[bytes | memoryview], *, team: str) -> Grant:
        """Store bytes of any length, durably, as they pass through. Raises as `put`, and what `chunks` raises."""
        sealing = Sealing(own_errors(chunks), team=team)
        try:
            self._store(sealing.object, sealing, team)
        except SourceError as error:
            raise error.cause from None
        return sealing.grant

    def get(self, grant: Grant, *, team: str) -> bytes:
        """Return the plain bytes. Raises NotFoundError or IntegrityError."""
        with self._opened(self._path(grant, team), grant, team) as opening:
            return opening.whole()

    def read(self, grant: Grant, *, team: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the plain bytes from `start` to `stop`. Raises as `get`."""
        pieces = self._read(grant, team, start, stop)
        next(pieces)
        return pieces

    def delete(self, object_name: str, *, team: str) -> None:
        """Remove an object, durably; one that is not there is no error."""
        path = self.path(object_name, team=team)
        try:
            remove(path, at="blobs.delete")
        except FileNotFoundError:
            return
        sync_folder(path.parent, at="blobs.delete")

    def take(self, staging: Path) -> None:
        """Move every object of the store in `staging`, on the same file system, into this one; durably.

        A job wrote `staging`, so nothing in it is trusted: what is not a regular file under an object's name in its
        place is left behind, and an object that is already here is never replaced. Each folder is synced once, before
        any object that it took loses its first name.
        """
        taken: dict[Path, list[Path]] = {}
        for team in teams_in(staging):
            for source in objects_in(team):
                target = self.path(source.name, team=team.name)
                with room_in(self.folder):
                    make_shard(self.folder, target.parent, at="blobs.take_shard")
                    # A link keeps the old object where there is one; renaming would replace it.
                    try:
                        link(source, target, at="blobs.take")
                    except FileExistsError:
                        if not os.path.samestat(source.lstat(), target.lstat()):
                            continue
                        # Taken by a call that was killed before it synced the folder.
                taken.setdefault(target.parent, []).append(source)
        for folder, sources in taken.items():
            sync_folder(folder, at="blobs.take")
            for source in sources:
                remove(source, at="blobs.take")

    def quarantine(self, object_name: str, *, team: str) -> None:
        """Move an object, or what lies in its place, to the folder `.quarantine`, durably; it is never deleted from there."""
        source = self.path(object_name, team=team)
        aside = self.folder / ".quarantine" / team
        make_shard(self.folder, aside, at="blobs.aside")
        rename(source, aside / f"{object_name}.{secrets.token_hex(4)}", at="blobs.quarantine")
        sync_folder(aside, at="blobs.quarantine")
        sync_folder(source.parent, at="blobs.quarantined")

    def clear(self, *, team: str, older_than_s: float) -> list[str]:
        """Remove the copies that killed writers left, last written longer ago than that, and return their names.

        The time is the file system's own: this machine's clock may be ahead of it.
        """
        found = [path for path in files_in(self.folder / check_team(team)) if is_temporary(path)]
        if not found:
            return []
        with tempfile.TemporaryFile(dir=self.folder) as fresh:
            limit_ns = os.fstat(fresh.fileno()).st_mtime_ns - round(older_than_s * 1e9)
        return sorted(path.name for path in found if _cleared(path, limit_ns))

    def strange(self, *, team: str) -> list[str]:
        """Return what lies among a team's objects and is none, as `<folder>/<name>`."""
        found = files_in(self.folder / check_team(team))
        return sorted(
            f"{path.parent.name}/{path.name}" for path in found if not is_in_place(path) and not is_temporary(path)
        )

    def read_stored(self, object_name: str, *, team: str) -> bytes:
        """Return an object as it is stored, still sealed. Raises NotFoundError or IntegrityError."""
        with os.fdopen(open_object(self.path(object_name, team=team)), "rb") as file:
            return file.read()

    def stream_stored(self, object_name: str, *, team: str) -> Iterator[bytes]:
        """As `read_stored`, in pieces."""
        with os.fdopen(open_object(self.path(object_name, team=team)), "rb") as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece

    def write_stored(self, object_name: str, stored: bytes, *, team: str) -> None:
        """Put sealed bytes in place, whatever they are; durably. Raises StorageFullError when the disk takes no more."""
        self._store(object_name, (stored,), team)

    def list(self, *, team: str) -> list[str]:
        """Return the names of all objects of a team, sorted."""
        return sorted(path.name for path in objects_in(self.folder / check_team(team)))

    def check_file(self, path: Path, grant: Grant, *, team: str) -> None:
        """Raise IntegrityError unless a file holds the whole object of a grant, wherever it lies."""
        with self._opened(path, grant, team) as opening:
            opening.check()

    def _path(self, grant: Grant, team: str) -> Path:
        check_grant(grant)
        return self.path(grant.object, team=team)

    def _store(self, object_name: str, pieces: Iterable[bytes | bytearray], team: str) -> None:
        path = self.path(object_name, team=team)
        with room_in(self.folder):
            make_shard(self.folder, path.parent, at="blobs.shard")
            write_pieces(path, pieces, at="blobs.put")

    def _read(self, grant: Grant, team: str, start: int, stop: int | None) -> Generator[bytes, None, None]:
        with self._opened(self._path(grant, team), grant, team) as opening:
            yield b""  # taken by `read`: what is missing or wrong from the start is said before anything is used
            yield from opening.read(start, stop)

    @contextmanager
    def _opened(self, path: Path, grant: Grant, team: str) -> Iterator[Opening]:
        descriptor = open_object(path)
        try:
            stored_bytes = os.fstat(descriptor).st_size
            if stored_bytes > max_sealed_bytes(grant.size_bytes):
                raise IntegrityError("what lies there is not the object", where=grant.object)
            yield Opening(
                grant,
                lambda start, stop: os.pread(descriptor, stop - start, start),
                team=team,
                stored_bytes=stored_bytes,
            )
        finally:
            os.close(descriptor)


def _cleared(path: Path, limit_ns: int) -> bool:
    """Remove a copy that nobody writes any more, last written before `limit_ns`; return whether it was one."""
    try:
        descriptor = open_object(path)
    except (NotFoundError, IntegrityError):  # finished meanwhile, or no file of ours
        return False
    try:
        if os.fstat(descriptor).st_mtime_ns >= limit_ns:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(path, at="blobs.clear")
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        os.close(descriptor)
    return True


if TYPE_CHECKING:
    from datahall.core.ports import BlobStore

    _: BlobStore = LocalBlobStore(Path())
