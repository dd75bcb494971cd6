"""A backup that is not exactly what was written is refused, and nothing of it is put in place."""

from __future__ import annotations

import io
import os
import random
import sqlite3
import tracemalloc

import msgspec
import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from datahall.app.backup import reader
from datahall.app.backup.cipher import TAG_BYTES, FrameCipher
from datahall.app.backup.form import MAX_MEMBER_BYTES, TRAILER_BYTES, Absent, Manifest, is_member_name
from datahall.app.backup.reader import Archive
from datahall.app.backup.writer import ArchiveWriter
from datahall.core.canonical import digest_bytes
from datahall.core.errors import DatahallError, IntegrityError, SchemaError, StorageFullError, UserError

NUM_PLACES, NUM_FLIPS = 200, 500


def refused(kit, kept, file, root, error=DatahallError):
    """Assert that a backup is not restored and that nothing is left of the try; return what was said."""
    with pytest.raises(error) as caught:
        kit.restore(file, kept.paths.keys, root)
    assert sorted(path.name for path in root.parent.iterdir() if path.name.startswith(root.name)) == []
    return caught.value


@pytest.fixture(scope="module")
def small(kit, tmp_path_factory):
    """A hall of one object, so that hundreds of altered copies of its backup are read in seconds."""
    root = tmp_path_factory.mktemp("small")
    made = kit.Built(root / "hall", num_objects=1, object_bytes=2_000)
    for name in ("a.html", "b.html"):
        (made.paths.reports / name).write_bytes(b"the same")
    made.file = root / "small.dhb"
    made.back_up(made.file)
    made.data = made.file.read_bytes()
    yield made
    made.close()


def boundaries(hall):
    """Return every offset at which something begins or ends."""
    with Archive.open(hall.file, hall.keys) as archive:
        members = archive.manifest.members
    ends = [member.offset + member.stored_bytes for member in members]
    return [0, 10, 14, members[0].offset, *ends, len(hall.data) - TRAILER_BYTES, len(hall.data) - 1]


def test_a_backup_that_was_cut_off_anywhere_is_refused(small, kit, tmp_path):
    draw = random.Random(1)  # noqa: S311  (places to cut at, not secrets)
    places = {*boundaries(small), *(draw.randrange(len(small.data)) for _ in range(NUM_PLACES))}
    for place in sorted(places):
        (tmp_path / "cut.dhb").write_bytes(small.data[:place])
        refused(kit, small, tmp_path / "cut.dhb", tmp_path / "back", IntegrityError)
    kit.restore(small.file, small.paths.keys, tmp_path / "back")


def test_a_backup_with_one_other_bit_is_refused(small, kit, tmp_path):
    draw = random.Random(2)  # noqa: S311  (bits to flip, not secrets)
    for _ in range(NUM_FLIPS):
        altered = bytearray(small.data)
        altered[draw.randrange(len(altered))] ^= 1 << draw.randrange(8)
        (tmp_path / "altered.dhb").write_bytes(altered)
        refused(kit, small, tmp_path / "altered.dhb", tmp_path / "back")


def test_no_byte_of_the_beginning_and_the_end_goes_unchecked(small, kit, tmp_path):
    with Archive.open(small.file, small.keys) as archive:
        head = archive.manifest.members[0].offset
    for place in [*range(20), *range(20, head, 7), *range(len(small.data) - TRAILER_BYTES, len(small.data))]:
        altered = bytearray(small.data)
        altered[place] ^= 0x20  # of a letter, the other case
        (tmp_path / "altered.dhb").write_bytes(altered)
        refused(kit, small, tmp_path / "altered.dhb", tmp_path / "back")


class Blind(FrameCipher):
    """Decrypts without looking at the tag: AES-GCM is counter mode behind it (NIST SP 800-38D, 6.5)."""

    def __init__(self, key, head):
        super().__init__(key, head)
        self._key = key

    def open(self, frame, *, member, index, last):
        nonce = member.to_bytes(4, "big") + index.to_bytes(7, "big") + bytes([last])
        counter = modes.CTR(nonce + (2).to_bytes(4, "big"))
        return Cipher(algorithms.AES(self._key), counter).decryptor().update(frame[:-TAG_BYTES])


class Credulous(Archive):
    """Compares no digests."""

    def _check_digest(self, member, digest):
        pass


def test_without_tags_and_digests_an_altered_backup_would_be_restored(small, kit, tmp_path, monkeypatch):
    """The control: each of the two checks refuses the altered object; with both off it comes back as something else."""
    with Archive.open(small.file, small.keys) as archive:
        member = next(each for each in archive.manifest.members if each.packing == "stored")
    altered = bytearray(small.data)
    altered[member.offset + 100] ^= 1
    file = tmp_path / "altered.dhb"
    file.write_bytes(altered)
    with pytest.raises(IntegrityError, match="frame 1 of member"):
        kit.restore(file, small.paths.keys, tmp_path / "a", archive=Credulous)
    monkeypatch.setattr(reader, "FrameCipher", Blind)
    with pytest.raises(IntegrityError, match="not those that the manifest names"):
        kit.restore(file, small.paths.keys, tmp_path / "b")
    _, paths = kit.restore(file, small.paths.keys, tmp_path / "c", archive=Credulous)
    with pytest.raises(IntegrityError):
        kit.assert_whole(paths)


def test_members_cannot_be_exchanged_dropped_or_taken_from_another_backup(small, kit, tmp_path):
    small.back_up(tmp_path / "second.dhb")
    second = (tmp_path / "second.dhb").read_bytes()
    with Archive.open(small.file, small.keys) as archive:
        members = archive.manifest.members
    data, name = small.data, tmp_path / "spliced.dhb"
    pieces = {each.name: data[each.offset : each.offset + each.stored_bytes] for each in members}
    first, other = (each for each in members if each.name in {"reports/a.html", "reports/b.html"})
    assert first.sha256 == other.sha256, "no digest could tell them apart"
    swapped = bytearray(data)
    swapped[first.offset : first.offset + first.stored_bytes] = pieces[other.name]
    dropped = data[: first.offset] + data[first.offset + first.stored_bytes :]
    foreign = bytearray(data)
    foreign[first.offset : first.offset + first.stored_bytes] = second[first.offset : first.offset + first.stored_bytes]
    header_of_second = second[: members[0].offset] + data[members[0].offset :]
    for spliced in (swapped, dropped, foreign, header_of_second, data + b"\0", data + data, second + data):
        name.write_bytes(spliced)
        refused(kit, small, name, tmp_path / "back")


def written(hall, file, *, change=lambda manifest: manifest, members=None):
    """Write a backup as somebody would who has the keys and means harm."""
    with Archive.open(hall.file, hall.keys) as archive, file.open("wb") as out:
        writer = ArchiveWriter.begin(out, hall.keys, hall.origin)
        for number, member in enumerate(archive.manifest.members):
            data = b"".join(archive.read(number))
            if members is None or member.name in members:
                data = members[member.name](data) if members and members[member.name] else data
                writer.add(member.name, [data], packing=member.packing)
        whole = msgspec.structs.replace(archive.manifest, id=writer.header.id, members=tuple(writer.members))
        changed = change(whole)
        writer.members[:] = changed.members
        writer.finish(changed)
    return file


def renamed(number, name):
    def change(manifest):
        members = list(manifest.members)
        members[number] = msgspec.structs.replace(members[number], name=name)
        return msgspec.structs.replace(manifest, members=tuple(members))

    return change


def with_member(number, **fields):
    def change(manifest):
        members = list(manifest.members)
        members[number] = msgspec.structs.replace(members[number], **fields)
        return msgspec.structs.replace(manifest, members=tuple(members))

    return change


NAMES = [
    "../hall.db",
    "/etc/passwd",
    "blobs/../../x",
    "blobs/ward/../../../x",
    "blobs/ward/x",
    "blobs//x",
    "./hall.db",
    "hall.db/",
    "hall.db\0",
    "hall.toml",
    "keys/master.key",
    "keys/owner.key",
    "hall.lock",
    "answers/../keys/master.key",
    "answers/x.sealed",
    "answers/-000000000000000.open",
    "reports/../x.html",
    "reports/.html",
    "reports/x.html/y",
    "reports\\x.html",
    "",
    ".",
    "..",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_no_hall_has_is_refused_whoever_wrote_it(small, kit, tmp_path, name):
    assert not is_member_name(name)
    for number in (1, -1):
        written(small, tmp_path / "x.dhb", change=renamed(number, name))
        refused(kit, small, tmp_path / "x.dhb", tmp_path / "back", IntegrityError)


def test_the_writer_that_means_harm_can_write_what_is_restored(small, kit, tmp_path):
    """The control: without the harm, what it writes comes back."""
    written(small, tmp_path / "x.dhb")
    _, paths = kit.restore(tmp_path / "x.dhb", small.paths.keys, tmp_path / "back")
    kit.assert_whole(paths)


@pytest.mark.parametrize(
    ("fields", "number"),
    [
        ({"offset": 0}, 1),
        ({"offset": 2**63}, 1),
        ({"stored_bytes": 0}, 1),
        ({"stored_bytes": -5}, 1),
        ({"stored_bytes": 2**62}, 1),
        ({"size_bytes": -1}, 1),
        ({"size_bytes": MAX_MEMBER_BYTES + 1}, 0),
        ({"size_bytes": 5}, 0),
        ({"size_bytes": 5}, 1),
        ({"sha256": "0" * 64}, 1),
        ({"sha256": "x"}, 1),
        ({"packing": "stored"}, 0),
        ({"name": "hall.db"}, 1),
    ],
)
def test_a_manifest_that_does_not_describe_its_file_is_refused(small, kit, tmp_path, fields, number):
    written(small, tmp_path / "x.dhb", change=with_member(number, **fields))
    refused(kit, small, tmp_path / "x.dhb", tmp_path / "back", IntegrityError)


def test_a_promise_of_more_than_the_disk_has_is_refused_before_anything_is_written(small, kit, tmp_path):
    written(small, tmp_path / "x.dhb", change=with_member(0, size_bytes=MAX_MEMBER_BYTES))
    said = refused(kit, small, tmp_path / "x.dhb", tmp_path / "back", StorageFullError)
    assert "1099" in said.what


def test_a_few_bytes_that_become_many_are_stopped_where_the_manifest_ends(small, kit, tmp_path):
    bomb = zstandard.ZstdCompressor().compress(bytes(300 << 20))
    assert len(bomb) < 100_000
    with (tmp_path / "x.dhb").open("wb") as out:
        writer = ArchiveWriter.begin(out, small.keys, small.origin)
        writer.add("hall.db", [bomb], packing="stored")
        writer.members[0] = msgspec.structs.replace(writer.members[0], packing="zstd", size_bytes=1_000)
        manifest = Manifest(
            id=writer.header.id,
            origin=small.origin,
            version="0",
            schema="0001",
            at_ns=0,
            num_entries=0,
            checkpoint=None,
            members=(),
        )
        writer.finish(manifest)
    given_out = []
    with Archive.open(tmp_path / "x.dhb", small.keys) as archive, pytest.raises(IntegrityError, match="size"):
        given_out.extend(map(len, archive.read(0)))
    assert sum(given_out) <= 1_000, "it stops before anything of it reaches a disk"
    tracemalloc.start()
    try:
        refused(kit, small, tmp_path / "x.dhb", tmp_path / "back", IntegrityError)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


def test_a_member_that_is_shorter_than_promised_or_has_something_behind_it_is_refused(small, kit, tmp_path):
    with Archive.open(small.file, small.keys) as archive:
        size_bytes = archive.manifest.members[0].size_bytes
    written(small, tmp_path / "x.dhb", change=with_member(0, size_bytes=size_bytes + 1))
    assert "size" in refused(kit, small, tmp_path / "x.dhb", tmp_path / "back", IntegrityError).what
    with Archive.open(small.file, small.keys) as archive, (tmp_path / "x.dhb").open("wb") as out:
        writer = ArchiveWriter.begin(out, small.keys, small.origin)
        database = b"".join(archive.read(0))
        packed = zstandard.ZstdCompressor().compress(database)
        writer.add("hall.db", [packed, bytes(3 << 20)], packing="stored")
        fields = {"packing": "zstd", "size_bytes": size_bytes, "sha256": digest_bytes(database)}
        writer.members[0] = msgspec.structs.replace(writer.members[0], **fields)
        writer.finish(msgspec.structs.replace(archive.manifest, id=writer.header.id))
    refused(kit, small, tmp_path / "x.dhb", tmp_path / "back", IntegrityError)


def test_a_ledger_that_was_changed_by_who_has_the_keys_is_refused(small, kit, tmp_path):
    def forge(data):
        path = tmp_path / "forged.db"
        path.write_bytes(data)
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE record_app SET body = replace(body, 'classification', 'regression')")
        connection.close()
        return path.read_bytes()

    with Archive.open(small.file, small.keys) as archive:
        names = {member.name: None for member in archive.manifest.members}
    written(small, tmp_path / "x.dhb", members={**names, "hall.db": forge})
    assert "ledger" in refused(kit, small, tmp_path / "x.dhb", tmp_path / "back", IntegrityError).what


def test_an_object_that_the_ledger_names_has_to_be_there(small, kit, tmp_path):
    with Archive.open(small.file, small.keys) as archive:
        names = {m.name: None for m in archive.manifest.members if not m.name.startswith("blobs/")}
    written(small, tmp_path / "x.dhb", members=names)
    assert "lacks an object" in refused(kit, small, tmp_path / "x.dhb", tmp_path / "back", IntegrityError).what


@pytest.mark.parametrize("name", [None, "hall.db", "answers/g1.next", "blobs/ward/../x", ""])
def test_only_an_object_that_is_not_there_can_be_said_to_be_absent(small, kit, tmp_path, name):
    def change(manifest):
        held = next(member.name for member in manifest.members if member.name.startswith("blobs/"))
        absent = Absent(name=held if name is None else name, why="damaged")
        return msgspec.structs.replace(manifest, absent=(absent,))

    written(small, tmp_path / "x.dhb", change=change)
    refused(kit, small, tmp_path / "x.dhb", tmp_path / "back", IntegrityError)


def test_a_manifest_that_promises_other_entries_is_refused(small, kit, tmp_path):
    written(small, tmp_path / "x.dhb", change=lambda m: msgspec.structs.replace(m, num_entries=m.num_entries - 1))
    assert "its manifest says" in refused(kit, small, tmp_path / "x.dhb", tmp_path / "back", IntegrityError).what


def test_a_backup_of_a_newer_datahall_names_the_way_out(small, kit, tmp_path):
    written(small, tmp_path / "x.dhb", change=lambda m: msgspec.structs.replace(m, schema="9999", version="99.0"))
    said = refused(kit, small, tmp_path / "x.dhb", tmp_path / "back", SchemaError)
    assert "upgrade" in said.hint


def test_what_is_no_backup_at_all_is_refused(small, kit, tmp_path):
    draw = random.Random(3)  # noqa: S311  (noise)
    head = small.data[:10]
    for data in (
        b"",
        b"x",
        draw.randbytes(5_000),
        head,
        head + b"\xff\xff\xff\xff",
        head + (5).to_bytes(4, "big") + b'{"a":',
        head + (40_000).to_bytes(4, "big") + b"[" * 40_000,
    ):
        (tmp_path / "x.dhb").write_bytes(data)
        refused(kit, small, tmp_path / "x.dhb", tmp_path / "back", IntegrityError)
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(UserError, match="not a file"):
            Archive.open(path, small.keys)


def test_the_file_is_closed_again_where_it_is_refused(small):
    file = io.BytesIO(b"")
    with pytest.raises((OSError, DatahallError)):
        Archive(file, "x", small.keys)
