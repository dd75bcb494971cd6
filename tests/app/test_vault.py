"""What a job made becomes an artifact only when it is what its grant says; what is kept is kept once."""

from __future__ import annotations

import msgspec
import pytest

from datahall.app.vault import Vault
from datahall.backends.blobs.memory import MemoryBlobStore
from datahall.core.errors import IntegrityError, NotFoundError
from datahall.security.packing import put_tree
from datahall.security.trees import TreeReader


class Shelf:
    """A catalogue that knows the records of changes."""

    def __init__(self):
        self.records = {}

    def get(self, kind, record_id):
        if record_id not in self.records:
            raise NotFoundError("no such record")
        return self.records[record_id]

    def take(self, changes):
        self.records |= {change.new.id: change.new for change in changes}


class Bare:
    """Wraps a key by leaving it as it is."""

    def wrap(self, data_key, *, team, object):
        return data_key

    def unwrap(self, wrapped, *, team, object):
        return wrapped


@pytest.fixture
def blobs():
    return MemoryBlobStore()


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def vault(shelf, blobs):
    return Vault(shelf, blobs, Bare())


def test_what_a_job_made_is_kept_once_and_read_again(vault, shelf, blobs):
    one, two = blobs.put(b"model", team="ward"), blobs.put(b"model", team="ward")
    shelf.take(vault.keep("ward", [(one, "x"), (two, "x")]))
    assert [artifact.object for artifact in shelf.records.values()] == [one.object]
    assert vault.read("ward", one.digest) == b"model"
    assert vault.keep("ward", [(one, "x")]) == ()
    assert vault.read("ward", one.digest) == b"model", "what is named again is not what is removed"


def test_an_object_that_is_not_what_its_grant_says_becomes_no_artifact(vault, blobs):
    lie = msgspec.structs.replace(blobs.put(b"another model", team="ward"), digest="0" * 64)
    with pytest.raises(IntegrityError):
        vault.keep("ward", [(lie, "x")])
    with pytest.raises(NotFoundError):
        vault.keep("ward", [(msgspec.structs.replace(lie, object="0" * 32), "x")])


def test_a_job_that_names_another_object_under_a_kept_digest_removes_nothing(vault, shelf, blobs):
    kept, other = (blobs.put(data, team="ward") for data in (b"kept", b"other"))
    shelf.take(vault.keep("ward", [(kept, "x"), (other, "x")]))
    lie = msgspec.structs.replace(kept, object=other.object)
    assert vault.keep("ward", [(lie, "x"), (lie, "x")]) == ()
    assert vault.read("ward", other.digest) == b"other"
    assert vault.read("ward", kept.digest) == b"kept"


def test_trees_that_share_packs_are_kept_and_read_again(vault, shelf, blobs, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_bytes(b"alpha")
    first = put_tree(folder, blobs, team="ward")
    shelf.take(vault.keep_tree("ward", first))
    (folder / "b").write_bytes(b"beta")
    earlier = TreeReader(blobs, vault.tree("ward", first.manifest.digest), team="ward")
    second = put_tree(folder, blobs, team="ward", earlier=earlier)
    shelf.take(vault.keep_tree("ward", second))
    assert vault.tree("ward", second.manifest.digest) == second
    reader = TreeReader(blobs, vault.tree("ward", second.manifest.digest), team="ward")
    assert {path: reader.get(path) for path in reader.files} == {"a": b"alpha", "b": b"beta"}
    assert len(blobs.list(team="ward")) == 4
