"""Encrypted objects named by what is in them."""

from __future__ import annotations

from typing import Protocol

from datahall.core.records import Grant


class BlobStore(Protocol):
    """Stores bytes compressed and encrypted, each object under a data key of its own.

    Holding a Grant is the only way to read; the store itself can read nothing.
    """

    def put(self, data: bytes | memoryview, *, team: str) -> Grant:
        """Store `data` durably and return the right to read it. Two calls make two objects."""

    def get(self, grant: Grant, *, team: str) -> bytes:
        """Return the plain bytes.

        Raises NotFoundError, or IntegrityError where a frame, the length or the whole digest is not right.
        """

    def delete(self, object_name: str, *, team: str) -> None:
        """Remove an object; one that is not there is no error."""

    def list(self, *, team: str) -> list[str]:
        """Return the names of all objects of a team, sorted."""
