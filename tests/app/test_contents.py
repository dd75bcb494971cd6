"""Records hold outlines; the values of people's rows are read from encrypted artifacts, and only from the right ones."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from datahall.app.contents import Columns, KeptManifests, columns_of, manifest_of
from datahall.core.canonical import canonical_json
from datahall.core.errors import IntegrityError, NotFoundError
from datahall.core.records import Bundle, BundleManifest, Column, Snapshot
from datahall.engines.bundle import bundle_digest, pack

COLOUR = Column(name="colour", kind="category", categories=("blue", "red"))
KIND = Column(name="kind", kind="category", categories=("rose", "tulip"))
MANIFEST = BundleManifest(
    app="flowers",
    task="classification",
    engine="onnx",
    engine_settings={},
    features=(COLOUR,),
    target=KIND,
    threshold=None,
    environment="e" * 64,
    files={},
)


def bundle_of(manifest):
    return Bundle(
        id=bundle_digest(manifest), app="flowers", artifact="a", manifest=manifest.outline(), equivalence={}
    )  # fmt: skip


class Artifacts:
    """Artifacts by digest; counts how often one is read."""

    def __init__(self, **stored):
        self.stored, self.num_reads = stored, 0

    def read(self, team, digest):
        assert team == "main"
        self.num_reads += 1
        if digest not in self.stored:
            raise NotFoundError("there is no such artifact")
        return self.stored[digest]


def test_an_outline_tells_no_value_and_all_else():
    outline = MANIFEST.outline()
    assert b"rose" in canonical_json(MANIFEST)  # control
    assert not any(value in canonical_json(outline) for value in (b"rose", b"tulip", b"red", b"blue"))
    assert [column.name for column in (*outline.features, outline.target)] == ["colour", "kind"]
    assert msgspec.structs.replace(outline, features=(COLOUR,), target=KIND) == MANIFEST


def test_the_whole_manifest_comes_from_the_bundle():
    vault = Artifacts(a=pack(MANIFEST, {}))
    assert manifest_of(vault, bundle_of(MANIFEST), "main") == MANIFEST


def test_another_bundle_in_its_place_is_refused():
    other = msgspec.structs.replace(MANIFEST, target=msgspec.structs.replace(KIND, categories=("oak", "rose")))
    with pytest.raises(IntegrityError, match="another one"):
        manifest_of(Artifacts(a=pack(other, {})), bundle_of(MANIFEST), "main")


def test_an_erased_bundle_is_not_found():
    with pytest.raises(NotFoundError):
        manifest_of(Artifacts(), bundle_of(MANIFEST), "main")


def test_a_record_of_before_holds_its_manifest_itself():
    old = msgspec.structs.replace(bundle_of(MANIFEST), manifest=MANIFEST)
    assert manifest_of(Artifacts(), old, "main") == MANIFEST


def test_a_manifest_is_read_once():
    vault = Artifacts(a=pack(MANIFEST, {}))
    kept = KeptManifests(vault)
    assert kept(bundle_of(MANIFEST), "main") == kept(bundle_of(MANIFEST), "main") == MANIFEST
    assert vault.num_reads == 1


@pytest.mark.parametrize("columns", ["c", ""])
def test_a_snapshot_s_columns_come_from_their_artifact_or_from_a_record_of_before(columns):
    whole = Columns(features=(COLOUR,), target=KIND, sensitive=())
    shown = (COLOUR.outline(), KIND.outline()) if columns else (COLOUR, KIND)
    snapshot = SimpleNamespace(team="main", columns=columns, features=shown[:1], target=shown[1], sensitive=())
    assert columns_of(Artifacts(c=whole.as_bytes()), snapshot) == whole
    assert "columns" in Snapshot.__struct_fields__
