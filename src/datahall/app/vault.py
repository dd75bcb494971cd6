"""Turns grants into artifacts and back: the only place where data keys meet the master key."""

from __future__ import annotations

from typing import Protocol

from datahall.core.errors import NotFoundError
from datahall.core.ports import BlobStore, Catalogue
from datahall.core.records import Artifact, Change, Grant


class KeyWrapper(Protocol):
    """Wraps data keys under the master key."""

    def wrap(self, data_key: bytes, *, team: str, object: str) -> bytes:
        """Return the wrapped key; team and object are bound into it."""

    def unwrap(self, wrapped: bytes, *, team: str, object: str) -> bytes:
        """Return the data key. Raises IntegrityError where key, team or object is another."""


class Vault:
    """Keeps what jobs made, and hands out the right to read it."""

    def __init__(self, catalogue: Catalogue, blobs: BlobStore, keys: KeyWrapper) -> None:
        self._catalogue = catalogue
        self._blobs = blobs
        self._keys = keys

    def grant(self, team: str, digest: str) -> Grant:
        """Return the right to read one artifact. Raises NotFoundError."""
        artifact = self._catalogue.get(Artifact, f"{team}/{digest}")
        key = self._keys.unwrap(artifact.wrapped_key, team=team, object=artifact.object)
        return Grant(digest=digest, object=artifact.object, size_bytes=artifact.size_bytes, key=key)

    def read(self, team: str, digest: str) -> bytes:
        """Return an artifact's bytes, verified."""
        return self._blobs.get(self.grant(team, digest), team=team)

    def store(self, team: str, data: bytes, media_type: str) -> tuple[str, tuple[Change, ...]]:
        """Store bytes; return their digest and the changes that make them an artifact."""
        grant = self._blobs.put(data, team=team)
        return grant.digest, self.keep(team, [(grant, media_type)])

    def keep(self, team: str, made: list[tuple[Grant, str]]) -> tuple[Change, ...]:
        """Return the changes that turn stored objects into artifacts.

        What is already kept under the same digest is kept once: the new object is removed again.
        """
        changes: dict[str, Change] = {}
        for grant, media_type in made:
            name = f"{team}/{grant.digest}"
            if name in changes or self._has(name):
                self._blobs.delete(grant.object, team=team)
                continue
            changes[name] = Change(
                new=Artifact(
                    id=name,
                    team=team,
                    digest=grant.digest,
                    object=grant.object,
                    size_bytes=grant.size_bytes,
                    wrapped_key=self._keys.wrap(grant.key, team=team, object=grant.object),
                    media_type=media_type,
                )
            )
        return tuple(changes.values())

    def remove(self, artifact: Artifact) -> None:
        """Remove the object of an artifact that the catalogue no longer knows, and with it the last that it said."""
        self._blobs.delete(artifact.object, team=artifact.team)

    def _has(self, name: str) -> bool:
        try:
            self._catalogue.get(Artifact, name)
        except NotFoundError:
            return False
        return True
