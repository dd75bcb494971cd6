"""Encrypted objects of a team, and the right to read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from datahall.core.records import Grant


class BlobStore(Protocol):
    """Stores bytes compressed and encrypted, each object under a data key of its own.

    Holding a Grant is the only way to read; the store itself can read nothing. An object is wholly there or not at all,
    survives power loss once `put` or `write` has returned, and never changes. Any number of threads and processes may
    share a store. Where there is no room, StorageFullError is raised and nothing is kept.
    """

    def put(self, data: bytes | memoryview, *, team: str) -> Grant:
        """Store `data` durably and return the right to read it. Two calls make two objects."""

    def write(self, chunks: Iterable[bytes | memoryview], *, team: str) -> Grant:
        """As `put`, for bytes of any length that pass through: memory stays bounded by a few frames."""

    def get(self, grant: Grant, *, team: str) -> bytes:
        """Return the plain bytes.

        Raises NotFoundError, or IntegrityError where a frame, the length or the whole digest is not right.
        """

    def read(self, grant: Grant, *, team: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the plain bytes from `start` to `stop` in order; each frame is authenticated before any of it is yielded.

        The whole digest is not looked at: it was at ingest, and is by `get`, cache fill and scrub. Raises as `get`.
        """

    def delete(self, object_name: str, *, team: str) -> None:
        """Remove an object; one that is not there is no error."""

    def list(self, *, team: str) -> list[str]:
        """Return the names of all objects of a team, sorted."""
