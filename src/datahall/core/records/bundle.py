"""Everything that determines an answer, under one digest."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from datahall.core.records.app import Task
from datahall.core.records.base import Record
from datahall.core.records.snapshot import Column

EngineName = Literal["onnx", "sklearn", "torch"]


class BundleManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The file `bundle.json` of a bundle; its canonical JSON's SHA-256 is the bundle's digest.

    `files` maps each other file's name to its SHA-256, so the digest covers model, pre- and
    post-processing (inside the model file), thresholds, engine and settings, and environment.
    """

    app: str
    task: Task
    engine: EngineName
    engine_settings: dict[str, Any]
    features: tuple[Column, ...]
    target: Column
    threshold: float | None
    """For two classes: the second class is answered from this probability on; None elsewhere."""
    environment: str
    """Digest of the packages that the engine needs to answer alike."""
    files: dict[str, str]

    def outline(self) -> BundleManifest:
        """Return it without the categories of its columns: what a record may hold of it."""
        features = tuple(column.outline() for column in self.features)
        return msgspec.structs.replace(self, features=features, target=self.target.outline())


class Bundle(Record, frozen=True, kw_only=True):
    """A stored bundle; `id` is the whole manifest's digest, `artifact` the digest of the packed tree."""

    KIND: ClassVar[str] = "bundle"
    INDEX: ClassVar[tuple[str, ...]] = ("app",)

    app: str
    artifact: str
    manifest: BundleManifest
    """Its outline: the categories of columns stand in the packed tree alone."""
    equivalence: dict[str, Any]
    """What the export tried and how equal its predictions were on the evaluation rows."""
