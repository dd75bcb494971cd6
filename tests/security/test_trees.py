"""Folders go away as trees and come back as they were; nothing in a manifest is believed."""

from __future__ import annotations

import os
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.blobs.memory import MemoryBlobStore
from datahall.core.canonical import canonical_json, digest_bytes, digest_of
from datahall.core.errors import ConflictError, DataError, IntegrityError, NotFoundError, StorageFullError
from datahall.core.failpoints import armed
from datahall.core.records import Tree
from datahall.security import packing
from datahall.security.packing import ALONE_BYTES, put_tree
from datahall.security.trees import Manifest, TreeFile, TreeReader, is_safe_path, tree_digest

SEVERAL = {
    "a.txt": b"alpha",
    "sub/b.bin": bytes(300_000),
    "sub/deeper/c.bin": random.Random(1).randbytes(2_500_000),  # noqa: S311  test data
    "sub/deeper/empty": b"",
    "umlaut ä.txt": b"beta",
    "z.txt": b"alpha",
}


@pytest.fixture
def blobs() -> MemoryBlobStore:
    return MemoryBlobStore()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return laid(tmp_path / "folder", SEVERAL)


def laid(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def seen(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_comes_back_as_it_was(blobs, folder, tmp_path):
    tree = put_tree(folder, blobs, team="ward")
    reader = TreeReader(blobs, tree, team="ward")
    assert reader.size_bytes == sum(map(len, SEVERAL.values()))
    reader.restore(tmp_path / "again")
    assert seen(tmp_path / "again") == SEVERAL
    assert {path: reader.get(path) for path in reader.files} == SEVERAL
    assert all((tmp_path / "again" / path).stat().st_mode & 0o077 == 0 for path in SEVERAL)


def test_a_manifest_is_canonical_json_and_its_digest_that_of_what_it_says(blobs, folder):
    tree = put_tree(folder, blobs, team="ward")
    files = TreeReader(blobs, tree, team="ward").files
    assert blobs.get(tree.manifest, team="ward") == canonical_json(Manifest(files=files))
    assert tree.digest == digest_of({path: [digest_bytes(data), len(data)] for path, data in SEVERAL.items()})


def test_an_empty_folder_is_a_tree(blobs, tmp_path):
    tree = put_tree(laid(tmp_path / "none", {}), blobs, team="ward")
    assert tree.packs == ()
    TreeReader(blobs, tree, team="ward").restore(tmp_path / "again")
    assert list((tmp_path / "again").iterdir()) == []


names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
paths = st.lists(names, min_size=1, max_size=3).map("/".join).filter(is_safe_path)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(paths, st.binary(max_size=200), max_size=6), st.data())
def test_any_folder_comes_back_and_any_range_is_the_slice(tmp_path_factory, files, data):
    folders = {path[:at] for path in files for at, sign in enumerate(path) if sign == "/"}
    files = {path: held for path, held in files.items() if path not in folders}
    place, blobs = tmp_path_factory.mktemp("law"), MemoryBlobStore()
    tree = put_tree(laid(place / "folder", files), blobs, team="ward")
    reader = TreeReader(blobs, tree, team="ward")
    reader.restore(place / "again")
    assert seen(place / "again") == files
    for path, held in files.items():
        start, stop = data.draw(st.integers(0, 210)), data.draw(st.one_of(st.none(), st.integers(0, 210)))
        assert b"".join(reader.read(path, start=start, stop=stop)) == held[start:stop]


def test_equal_folders_have_equal_digests_however_they_were_packed(blobs, folder, tmp_path, monkeypatch):
    one = put_tree(folder, blobs, team="ward", num_workers=1)
    monkeypatch.setattr(packing, "PACK_BYTES", 1000)
    two = put_tree(laid(tmp_path / "copy", dict(reversed(SEVERAL.items()))), blobs, team="ward")
    assert len(two.packs) > len(one.packs)
    assert one.digest == two.digest
    for path, data in (("a.txt", b"alphb"), ("a2.txt", b"alpha"), ("sub/deeper/empty", b"x")):
        other = laid(tmp_path / digest_bytes(path.encode()), {**SEVERAL, path: data})
        assert put_tree(other, blobs, team="ward").digest != one.digest


def test_many_small_files_are_few_objects_and_large_ones_lie_alone(blobs, tmp_path):
    files = {f"{number:04}": bytes([number % 251]) * 50 for number in range(2000)}
    large = {"0000.large": bytes(ALONE_BYTES), "0001.large": bytes(ALONE_BYTES)}
    tree = put_tree(laid(tmp_path / "folder", files | large), blobs, team="ward")
    assert sorted(grant.size_bytes for grant in tree.packs) == [100_000, ALONE_BYTES]
    assert len(blobs.list(team="ward")) == 3, "equal large files lie once, and the manifest beside them"
    reader = TreeReader(blobs, tree, team="ward")
    reader.restore(tmp_path / "again")
    assert seen(tmp_path / "again") == files | large


def test_files_of_an_earlier_tree_are_not_stored_again(blobs, folder, tmp_path):
    earlier = TreeReader(blobs, put_tree(folder, blobs, team="ward"), team="ward")
    before = set(blobs.list(team="ward"))
    changed = laid(tmp_path / "changed", {**SEVERAL, "a.txt": b"alphb", "new.bin": bytes(10), "moved.txt": b"beta"})
    tree = put_tree(changed, blobs, team="ward", earlier=earlier)
    made = set(blobs.list(team="ward")) - before
    assert len(made) == 2, "one pack and the manifest"
    assert sum(grant.size_bytes for grant in tree.packs if grant.object in made) == len(b"alphb") + 10
    TreeReader(blobs, tree, team="ward").restore(tmp_path / "again")
    assert seen(tmp_path / "again") == seen(changed)


def test_progress_ends_at_its_total(blobs, folder, tmp_path):
    heard = []
    put_tree(folder, blobs, team="ward", report=heard.append)
    assert heard[-1].done == heard[-1].total == sum(map(len, SEVERAL.values()))


class Killed(BaseException):
    """As `kill -9`: nothing handles it."""


def test_a_put_that_was_killed_goes_on_with_the_packs_that_are_missing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "PACK_BYTES", 1000)
    blobs, journal = LocalBlobStore(tmp_path / "blobs"), tmp_path / "journal"
    syncs = iter(range(100))

    def kill(name: str) -> None:
        if name == "trees.journal/sync:after" and next(syncs) == 1:
            raise Killed

    with armed(kill), pytest.raises(Killed):
        put_tree(folder, blobs, team="ward", journal=journal, num_workers=1)
    stored = set(blobs.list(team="ward"))
    assert len(stored) >= 2
    assert journal.stat().st_mode & 0o777 == 0o600
    journal.write_bytes(journal.read_bytes() + b'\n{"grant":{"dig')  # cut in the middle of a line
    tree = put_tree(folder, blobs, team="ward", journal=journal, num_workers=1)
    assert stored <= {grant.object for grant in tree.packs}
    assert len(blobs.list(team="ward")) == len(tree.packs) + 1, "nothing was stored twice"
    TreeReader(blobs, tree, team="ward").restore(tmp_path / "again")
    assert seen(tmp_path / "again") == SEVERAL
    put_tree(folder, blobs, team="ward")
    assert len(blobs.list(team="ward")) == 2 * (len(tree.packs) + 1), "control: without a journal all is stored again"


def test_a_journal_counts_only_for_files_that_did_not_change_and_objects_that_are_there(folder, tmp_path):
    blobs, journal = LocalBlobStore(tmp_path / "blobs"), tmp_path / "journal"
    first = put_tree(folder, blobs, team="ward", journal=journal)
    (folder / "a.txt").write_bytes(b"omega")
    second = put_tree(folder, blobs, team="ward", journal=journal)
    assert TreeReader(blobs, second, team="ward").get("a.txt") == b"omega"
    for grant in (*first.packs, *second.packs):
        blobs.delete(grant.object, team="ward")
    third = put_tree(folder, blobs, team="ward", journal=journal)
    assert TreeReader(blobs, third, team="ward").get("a.txt") == b"omega"


@pytest.mark.parametrize("make", [lambda at: at.symlink_to("a.txt"), os.mkfifo, lambda at: at.with_name("x\n").touch()])
def test_what_is_no_plain_file_is_refused(blobs, folder, make):
    make(folder / "odd")
    with pytest.raises(DataError, match="link or device"):
        put_tree(folder, blobs, team="ward")


def test_a_file_that_changes_while_it_is_read_is_refused(folder):
    class Meanwhile(MemoryBlobStore):
        def write(self, chunks, *, team):
            (folder / "z.txt").write_bytes(b"another length")
            return super().write(chunks, team=team)

    with pytest.raises(DataError, match="changed while it was read"):
        put_tree(folder, Meanwhile(), team="ward")


def test_restoring_over_something_or_onto_a_full_disk_leaves_what_was(blobs, folder, tmp_path):
    reader = TreeReader(blobs, put_tree(folder, blobs, team="ward"), team="ward")
    with pytest.raises(ConflictError):
        reader.restore(folder)

    def full(name: str) -> None:
        raise OSError(28, name)

    with armed(full), pytest.raises(StorageFullError):
        reader.restore(tmp_path / "again")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    with pytest.raises(NotFoundError):
        reader.read("not there")


def hostile(blobs: MemoryBlobStore, files: dict[str, TreeFile], **changes: object) -> Tree:
    """Return a tree over one pack of ten bytes with the manifest that a hostile job would write."""
    pack = blobs.put(b"0123456789", team="ward")
    files = {
        path: msgspec.structs.replace(file, pack=pack.digest if file.size_bytes else "") for path, file in files.items()
    }
    manifest = blobs.put(canonical_json(Manifest(files=files)), team="ward")
    tree = Tree(digest=tree_digest(files), manifest=manifest, packs=(pack,))
    return msgspec.structs.replace(tree, **changes)


def lying(offset: int = 0, size_bytes: int = 5, data: bytes | None = None) -> TreeFile:
    held = b"0123456789"[offset : offset + size_bytes] if data is None else data
    return TreeFile(digest=digest_bytes(held), size_bytes=size_bytes, pack="", offset=offset)


def test_the_trees_below_would_be_read_if_they_did_not_lie(blobs, tmp_path):
    reader = TreeReader(blobs, hostile(blobs, {"a": lying(), "b/c": lying(5), "d": lying()}), team="ward")
    reader.restore(tmp_path / "again")
    assert seen(tmp_path / "again") == {"a": b"01234", "b/c": b"56789", "d": b"01234"}


@pytest.mark.parametrize(
    "path",
    ["", "..", "../x", "/etc/x", "a/../b", "a//b", "a/", "./a", "a\\b", "a\0", "a\nb", "x" * 256, "a/" * 600 + "a", "\ud800"],
)  # fmt: skip
def test_a_path_that_could_leave_the_folder_is_refused(blobs, tmp_path, path):
    assert not is_safe_path(path)
    if path != "\ud800":  # JSON cannot say it
        with pytest.raises(IntegrityError, match="could leave the folder"):
            TreeReader(blobs, hostile(blobs, {path: lying()}), team="ward")


@pytest.mark.parametrize(
    "files",
    [
        {"a": lying(-1)},
        {"a": lying(6)},
        {"a": lying(0, 11)},
        {"a": lying(0, -5)},
        {"a": lying(1 << 80, 5)},
        {"a": lying(3, 0)},
        {"a": lying(0, 5), "b": lying(4, 5)},
        {"a": lying(0, 5), "b": lying(0, 5, b"other")},
        {"a": lying(), "a/b": lying(5)},
    ],
    ids=["before", "beyond", "too long", "negative", "huge", "empty somewhere", "overlap", "two digests", "file as folder"],
)  # fmt: skip
def test_a_manifest_that_lies_about_places_is_refused(blobs, files):
    with pytest.raises(IntegrityError):
        TreeReader(blobs, hostile(blobs, files), team="ward")


def test_a_manifest_of_another_tree_or_none_is_refused(blobs, tmp_path):
    tree = hostile(blobs, {"a": lying()})
    for changes in (
        {"digest": "0" * 64},
        {"packs": ()},
        {"manifest": blobs.put(b"no json", team="ward")},
        {"manifest": blobs.put(b'{"files":{},"format":1,"more":0}', team="ward")},
        {"manifest": blobs.put(b'{"files":{},"format":2}', team="ward"), "digest": tree_digest({})},
        {"manifest": hostile(blobs, {"a": lying(5)}).manifest},
    ):
        with pytest.raises(IntegrityError):
            TreeReader(blobs, msgspec.structs.replace(tree, **changes), team="ward")


def test_a_file_that_is_not_what_its_digest_names_is_not_restored(blobs, tmp_path):
    reader = TreeReader(blobs, hostile(blobs, {"a": lying(0, 5, b"other")}), team="ward")
    with pytest.raises(IntegrityError):
        reader.get("a")
    with pytest.raises(IntegrityError):
        reader.restore(tmp_path / "again")
    assert list(tmp_path.iterdir()) == []
