"""Hands a backup each object of a hall as it is stored, once every frame and the whole digest of it are seen to be right."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from datahall.backends.blobs.local import LocalBlobStore
from datahall.core.errors import IntegrityError
from datahall.core.records import Artifact, Grant
from datahall.security.keys import KeyRing


class StoredObjects(Protocol):
    """The part of a blob store that hands out objects as they are stored, still sealed."""

    def stream_stored(self, object_name: str, *, team: str) -> Iterator[bytes]:
        """Yield the stored bytes in pieces. Raises NotFoundError or IntegrityError."""


class SoundObjects:
    """The objects of `blobs` as files, checked; one that lies elsewhere is fetched into `room`, one at a time."""

    def __init__(self, blobs: StoredObjects, keys: KeyRing, room: Path) -> None:
        self._blobs, self._keys, self._fetched = blobs, keys, room / "object"
        self._checker = LocalBlobStore(room)

    def file(self, artifact: Artifact) -> Path:
        """Return the file of an artifact's object. Raises NotFoundError, or IntegrityError for one that is damaged."""
        team, stored = artifact.team, artifact.object
        key = self._keys.unwrap(artifact.wrapped_key, team=team, object=stored)
        grant = Grant(digest=artifact.digest, object=stored, size_bytes=artifact.size_bytes, key=key)
        path = self._path(stored, team)
        try:
            self._checker.check_file(path, grant, team=team)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise IntegrityError("the disk does not give it back", where=stored) from error
        return path

    def _path(self, stored: str, team: str) -> Path:
        if isinstance(self._blobs, LocalBlobStore):
            return self._blobs.path(stored, team=team)
        with self._fetched.open("wb") as file:
            file.writelines(self._blobs.stream_stored(stored, team=team))
        return self._fetched
