"""Values of people's rows that the catalogue leaves out: read from the encrypted artifacts in which they lie.

A record holds columns by name and kind. Their categories are values that people have, so they stand in the bundle and
in the snapshot's `columns` alone: encrypted, and gone with their data key.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from datahall.core.canonical import canonical_json
from datahall.core.errors import IntegrityError
from datahall.core.records import Bundle, BundleManifest, Column, Snapshot
from datahall.engines.bundle import bundle_digest, unpack

_NUM_KEPT: Final = 64  # manifests; each has some kilobytes

Manifests = Callable[[Bundle, str], BundleManifest]
"""Returns the whole manifest of a team's bundle. Raises NotFoundError, IntegrityError or UnavailableError."""


class Reader(Protocol):
    """Reads artifacts; app/vault.py's Vault."""

    def read(self, team: str, digest: str) -> bytes:
        """Return an artifact's bytes, verified."""


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot's columns with their categories: what the artifact `Snapshot.columns` holds."""

    features: tuple[Column, ...]
    target: Column
    sensitive: tuple[Column, ...]

    def as_bytes(self) -> bytes:
        """Return the artifact's bytes."""
        return canonical_json(self)


def columns_of(vault: Reader, snapshot: Snapshot) -> Columns:
    """Return a snapshot's columns with their categories. Raises NotFoundError where they were erased."""
    if not snapshot.columns:  # of a hall from before: its record holds them itself
        return Columns(features=snapshot.features, target=snapshot.target, sensitive=snapshot.sensitive)
    return msgspec.json.decode(vault.read(snapshot.team, snapshot.columns), type=Columns)


def manifest_of(vault: Reader, bundle: Bundle, team: str) -> BundleManifest:
    """Return a bundle's manifest with the categories of its columns.

    Raises NotFoundError where the bundle was erased, IntegrityError where what is stored is another bundle.
    """
    if bundle_digest(bundle.manifest) == bundle.id:  # it has no categories, or is of a hall from before
        return bundle.manifest
    manifest, _ = unpack(vault.read(team, bundle.artifact))
    if bundle_digest(manifest) != bundle.id:
        raise IntegrityError("the stored bundle is another one", where=bundle.id, hint="datahall verify")
    return manifest


class KeptManifests:
    """`manifest_of` that remembers what it read: a change of keys must not read every bundle again. Threads: any."""

    def __init__(self, vault: Reader) -> None:
        self._vault = vault
        self._kept: dict[tuple[str, str], BundleManifest] = {}
        self._lock = threading.Lock()

    def __call__(self, bundle: Bundle, team: str, /) -> BundleManifest:
        """Return the manifest; raises as `manifest_of`."""
        with self._lock:
            found = self._kept.get((team, bundle.id))
            if found is None:
                found = self._kept[team, bundle.id] = manifest_of(self._vault, bundle, team)
                if len(self._kept) > _NUM_KEPT:
                    del self._kept[next(iter(self._kept))]
            return found
