"""Encrypted objects as files in a folder: `<team>/<first two digits>/<digest>.<random>`."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from datahall.core.durable import link, remove, sync_folder, write_atomic
from datahall.core.errors import IntegrityError, NotFoundError, UnavailableError
from datahall.core.records import Grant
from datahall.security.sealing import (
    MAX_OBJECT_BYTES,
    check_grant,
    check_object,
    check_team,
    is_object_name,
    is_team_name,
    max_sealed_bytes,
    seal,
    unseal,
)


class LocalBlobStore:
    """Keeps sealed objects in `folder`; any number of processes may share it.

    An object is wholly there or not at all, and survives power loss once `put` has returned. Files and folders
    are for their owner alone, and whatever is not a regular file is never opened as an object.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, object_name: str, *, team: str) -> Path:
        """Return the file of one object, whether it exists or not. Raises UserError for an impossible name."""
        return self.folder / check_team(team) / check_object(object_name)[:2] / object_name

    def put(self, data: bytes | memoryview, *, team: str) -> Grant:
        """Store `data` durably and return the right to read it. Raises UnavailableError when the disk is full."""
        grant, stored = seal(data, team=team)
        self.write_stored(grant.object, stored, team=team)
        return grant

    def get(self, grant: Grant, *, team: str) -> bytes:
        """Return the plain bytes. Raises NotFoundError or IntegrityError."""
        check_grant(grant)
        stored = self._read(grant.object, team, max_sealed_bytes(grant.size_bytes))
        return unseal(stored, grant, team=team)

    def delete(self, object_name: str, *, team: str) -> None:
        """Remove an object, durably; one that is not there is no error."""
        path = self.path(object_name, team=team)
        try:
            remove(path, at="blobs.delete")
        except FileNotFoundError:
            return
        sync_folder(path.parent, at="blobs.delete")

    def list(self, *, team: str) -> list[str]:
        """Return the names of all objects of a team, sorted."""
        return sorted(path.name for path in _objects(self.folder / check_team(team)))

    def take(self, staging: Path) -> None:
        """Move every object of the store in `staging`, on the same file system, into this one; durably.

        A job wrote `staging`, so nothing in it is trusted: what is not a regular file under an object's name in its
        place is left behind, and an object that is already here is never replaced.
        """
        for team in filter(lambda folder: is_team_name(folder.name), _folders(staging)):
            for source in _objects(team):
                target = self.path(source.name, team=team.name)
                self._make_folder(target.parent)
                # A link keeps the old object where there is one; renaming would replace it.
                try:
                    link(source, target, at="blobs.take")
                except FileExistsError:
                    continue
                source.unlink()
                sync_folder(target.parent, at="blobs.take")

    def read_stored(self, object_name: str, *, team: str) -> bytes:
        """Return an object as it is stored, still sealed. Raises NotFoundError or IntegrityError."""
        return self._read(object_name, team, max_sealed_bytes(MAX_OBJECT_BYTES))

    def write_stored(self, object_name: str, stored: bytes, *, team: str) -> None:
        """Put sealed bytes in place, whatever they are; durably. Raises UnavailableError when the disk is full."""
        path = self.path(object_name, team=team)
        try:
            self._make_folder(path.parent)
            write_atomic(path, stored, at="blobs.put")
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            raise UnavailableError(
                f"there is no room for an object of {len(stored)} bytes",
                where=str(self.folder),
                hint="free some space on this disk and run it again",
            ) from error

    def _read(self, object_name: str, team: str, limit_bytes: int) -> bytes:
        path = self.path(object_name, team=team)
        try:
            # O_NONBLOCK: a FIFO planted under an object's name must not hang its reader.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise NotFoundError("there is no such object, or not for this process", where=object_name) from error
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.ENXIO}:
                raise
            raise IntegrityError("a link or device lies where the object should be", where=object_name) from error
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > limit_bytes:
                raise IntegrityError("what lies there is not the object", where=object_name)
            return file.read(limit_bytes + 1)

    def _make_folder(self, folder: Path) -> None:
        missing = [parent for parent in (folder, folder.parent, self.folder) if not parent.is_dir()]
        for parent in reversed(missing):
            parent.mkdir(mode=0o700, parents=parent == self.folder, exist_ok=True)
            sync_folder(parent.parent, at="blobs.shard")


def _folders(folder: Path) -> Iterator[Path]:
    """Yield the real folders inside `folder`, none if it is missing."""
    if folder.is_dir():
        with os.scandir(folder) as found:
            yield from (Path(item.path) for item in found if item.is_dir(follow_symlinks=False))


def _objects(team_folder: Path) -> Iterator[Path]:
    """Yield the regular files that carry an object's name and lie in its place."""
    for shard in _folders(team_folder):
        with os.scandir(shard) as found:
            for item in found:
                if (
                    item.is_file(follow_symlinks=False)
                    and is_object_name(item.name)
                    and item.name.startswith(shard.name)
                    and len(shard.name) == 2
                ):
                    yield Path(item.path)


if TYPE_CHECKING:
    from datahall.core.ports import BlobStore

    _: BlobStore = LocalBlobStore(Path())
