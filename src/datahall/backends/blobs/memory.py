"""Encrypted objects in memory: for tests and the twin, sealed exactly as on a disk."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from datahall.core.errors import NotFoundError
from datahall.core.records import Grant
from datahall.security.opening import open_bytes, unseal
from datahall.security.sealing import Sealing, check_grant, check_object, check_team


class MemoryBlobStore:
    """Keeps sealed objects in a dictionary; safe to call from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[tuple[str, str], bytes] = {}

    def put(self, data: bytes | memoryview, *, team: str) -> Grant:
        """Store `data` and return the right to read it."""
        return self.write((data,), team=team)

    def write(self, chunks: Iterable[bytes | memoryview], *, team: str) -> Grant:
        """Store bytes that pass through and return the right to read them."""
        sealing = Sealing(chunks, team=team)
        self.write_stored(sealing.object, b"".join(sealing), team=team)
        return sealing.grant

    def get(self, grant: Grant, *, team: str) -> bytes:
        """Return the plain bytes. Raises NotFoundError or IntegrityError."""
        check_grant(grant)
        return unseal(self.read_stored(grant.object, team=team), grant, team=team)

    def read(self, grant: Grant, *, team: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the plain bytes from `start` to `stop`. Raises as `get`."""
        check_grant(grant)
        return open_bytes(self.read_stored(grant.object, team=team), grant, team=team).read(start, stop)

    def delete(self, object_name: str, *, team: str) -> None:
        """Remove an object; one that is not there is no error."""
        key = (check_team(team), check_object(object_name))
        with self._lock:
            self._objects.pop(key, None)

    def list(self, *, team: str) -> list[str]:
        """Return the names of all objects of a team, sorted."""
        check_team(team)
        with self._lock:
            return sorted(name for owner, name in self._objects if owner == team)

    def read_stored(self, object_name: str, *, team: str) -> bytes:
        """Return an object as it is stored, still sealed. Raises NotFoundError."""
        key = (check_team(team), check_object(object_name))
        with self._lock:
            stored = self._objects.get(key)
        if stored is None:
            raise NotFoundError("there is no such object", where=object_name)
        return stored

    def stream_stored(self, object_name: str, *, team: str) -> Iterator[bytes]:
        """Yield what `read_stored` returns."""
        yield self.read_stored(object_name, team=team)

    def write_stored(self, object_name: str, stored: bytes, *, team: str) -> None:
        """Put sealed bytes in place, whatever they are."""
        key = (check_team(team), check_object(object_name))
        with self._lock:
            self._objects[key] = stored


if TYPE_CHECKING:
    from datahall.core.ports import BlobStore

    _: BlobStore = MemoryBlobStore()
