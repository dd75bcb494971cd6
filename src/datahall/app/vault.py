"""Turns grants into artifacts and back: the only place where data keys meet the master key."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

import msgspec

from datahall.core.errors import ConflictError, IntegrityError, NotFoundError
from datahall.core.ports import BlobStore, Catalogue
from datahall.core.records import Act, Artifact, Change, Grant, RetiredMaster, Tree
from datahall.security.opening import check_object_whole
from datahall.security.trees import MANIFEST_TYPE, PACK_TYPE, tree_of

_REWRAP_BATCH: Final = 200  # data keys an act


class KeyWrapper(Protocol):
    """Wraps data keys under the master key."""

    def wrap(self, data_key: bytes, *, team: str, object: str) -> bytes:
        """Return the wrapped key; team and object are bound into it."""

    def unwrap(self, wrapped: bytes, *, team: str, object: str) -> bytes:
        """Return the data key. Raises IntegrityError where key, team or object is another."""

    def is_newest(self, wrapped: bytes) -> bool:
        """Return whether a data key lies under the newest master key."""


class Vault:
    """Keeps what jobs made, and hands out the right to read it."""

    def __init__(self, catalogue: Catalogue, blobs: BlobStore, keys: KeyWrapper) -> None:
        self._catalogue = catalogue
        self._blobs = blobs
        self._keys = keys

    def grant(self, team: str, digest: str) -> Grant:
        """Return the right to read one artifact. Raises NotFoundError."""
        artifact = self._catalogue.get(Artifact, f"{team}/{digest}")
        try:
            key = self._keys.unwrap(artifact.wrapped_key, team=team, object=artifact.object)
        except IntegrityError:
            before, artifact = artifact, self._catalogue.get(Artifact, artifact.id)
            if artifact == before:
                raise
            # It was wrapped anew since it was read, and the key that was over it is destroyed.
            key = self._keys.unwrap(artifact.wrapped_key, team=team, object=artifact.object)
        return Grant(digest=digest, object=artifact.object, size_bytes=artifact.size_bytes, key=key)

    def read(self, team: str, digest: str) -> bytes:
        """Return an artifact's bytes, verified."""
        return self._blobs.get(self.grant(team, digest), team=team)

    def store(self, team: str, data: bytes, media_type: str) -> tuple[str, tuple[Change, ...]]:
        """Store bytes; return their digest and the changes that make them an artifact."""
        grant = self._blobs.put(data, team=team)
        return grant.digest, self._keep(team, [(grant, media_type)])

    def tree(self, team: str, manifest_digest: str) -> Tree:
        """Return the right to read a kept folder. Raises NotFoundError, or IntegrityError for what is no manifest."""
        manifest = self.grant(team, manifest_digest)
        return tree_of(self._blobs, manifest, lambda digest: self.grant(team, digest), team=team)

    def keep_tree(self, team: str, tree: Tree) -> tuple[Change, ...]:
        """Return the changes that turn a stored folder into artifacts: its manifest and its packs; see `keep`."""
        return self.keep(team, [(tree.manifest, MANIFEST_TYPE), *((pack, PACK_TYPE) for pack in tree.packs)])

    def keep(self, team: str, made: list[tuple[Grant, str]]) -> tuple[Change, ...]:
        """Return the changes that turn objects that a job stored into artifacts.

        What is already kept under the same digest is kept once. The new object is left to garbage collection: on a
        job's word alone nothing is removed, for it may name any object. Raises IntegrityError where an object is not
        what the job's grant says: from here on its digest is believed.
        """
        return self._keep(team, made, check=True)

    def _keep(self, team: str, made: list[tuple[Grant, str]], *, check: bool = False) -> tuple[Change, ...]:
        made_here: dict[str, Artifact] = {}
        for grant, media_type in made:
            name = f"{team}/{grant.digest}"
            if name in made_here or self._find(name) is not None:
                continue
            if check:
                check_object_whole(self._blobs, grant, team=team)
            made_here[name] = Artifact(
                id=name,
                team=team,
                digest=grant.digest,
                object=grant.object,
                size_bytes=grant.size_bytes,
                wrapped_key=self._keys.wrap(grant.key, team=team, object=grant.object),
                media_type=media_type,
            )
        return tuple(Change(new=artifact) for artifact in made_here.values())

    def erase(self, team: str, digest: str, *, actor: str) -> None:
        """Erase an artifact: its data key first, in one act, so that no copy of its bytes can be read from then on.

        The object itself goes at once, or with the next garbage collection if this process ends in between.
        Raises NotFoundError.
        """
        artifact = self._catalogue.get(Artifact, f"{team}/{digest}")
        body = {"artifact": artifact.id, "object": artifact.object}
        try:
            self._catalogue.act(Act(kind="artifact.erased", actor=actor, body=body, changes=(Change(old=artifact),)))
        except ConflictError:  # its data key was wrapped anew meanwhile, or somebody else erased it
            self.erase(team, digest, actor=actor)
        else:
            self.remove(artifact)

    def is_erased(self, artifact: Artifact) -> bool:
        """Return whether the catalogue does not know this artifact's object any more."""
        kept = self._find(artifact.id)
        return kept is None or kept.object != artifact.object

    def rewrap(self, *, actor: str, told: Callable[[int, int], None] = lambda _done, _all: None) -> int:
        """Wrap every data key that lies under an older master key under the newest; return how many.

        Runs beside readers and writers: who changed an artifact meanwhile wins, and it is looked at again. A crash
        leaves some under the old key, which still opens them; another call goes on with those.
        """
        num_done = 0
        while old := [one for one in self._catalogue.find(Artifact) if not self._keys.is_newest(one.wrapped_key)]:
            for first in range(0, len(old), _REWRAP_BATCH):
                num_done += self._rewrap(old[first : first + _REWRAP_BATCH], actor)
                told(num_done, len(old))
        return num_done

    def condemn_masters(self, ids: Iterable[str], *, actor: str) -> None:
        """See to it that no act names a data key under one of these master keys any more.

        `rewrap` once more, and they can be destroyed: whoever wrapped under one before is refused and stores again.
        """
        known = {found.id for found in self._catalogue.find(RetiredMaster)}
        changes = tuple(Change(new=RetiredMaster(id=key_id)) for key_id in ids if key_id not in known)
        if changes:
            body = {"num_keys": len(changes)}
            self._catalogue.act(Act(kind="keys.retired", actor=actor, body=body, changes=changes))

    def _rewrap(self, artifacts: list[Artifact], actor: str) -> int:
        changes = tuple(Change(old=one, new=self._wrapped_anew(one)) for one in artifacts)
        body = {"num_keys": len(changes)}
        try:
            self._catalogue.act(Act(kind="keys.rewrapped", actor=actor, body=body, changes=changes))
        except ConflictError:  # one of them was erased or replaced meanwhile
            if len(artifacts) == 1:
                return 0
            middle = len(artifacts) // 2
            return self._rewrap(artifacts[:middle], actor) + self._rewrap(artifacts[middle:], actor)
        return len(changes)

    def _wrapped_anew(self, artifact: Artifact) -> Artifact:
        bound = {"team": artifact.team, "object": artifact.object}
        key = self._keys.unwrap(artifact.wrapped_key, **bound)
        return msgspec.structs.replace(artifact, wrapped_key=self._keys.wrap(key, **bound))

    def remove(self, artifact: Artifact) -> None:
        """Remove the object of an artifact that the catalogue no longer knows, and with it the last that it said."""
        self._blobs.delete(artifact.object, team=artifact.team)

    def _find(self, name: str) -> Artifact | None:
        try:
            return self._catalogue.get(Artifact, name)
        except NotFoundError:
            return None
