"""Laws of the file's form: what goes in comes out, in any pieces; a frame opens in its own place alone; no name leads out."""

from __future__ import annotations

import hashlib
import io
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.app.backup.cipher import FRAME_BYTES, TAG_BYTES, FrameCipher
from datahall.app.backup.form import Header, Manifest, decode_manifest, is_member_name, num_frames, parts_of
from datahall.app.backup.reader import Archive
from datahall.app.backup.writer import ArchiveWriter
from datahall.app.origin import origin_of
from datahall.core.canonical import canonical_json
from datahall.core.errors import IntegrityError
from datahall.security.keys import KeyRing

KEY, HEAD = bytes(range(32)), b"head"
NAMES = ["hall.db", *(f"reports/{letter}.html" for letter in "abcdef")]


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return KeyRing.open(tmp_path_factory.mktemp("keys"), create=True)


def manifest_of(writer):
    return Manifest(
        id=writer.header.id,
        origin=writer.header.origin,
        version="0",
        schema="0002",
        at_ns=1,
        num_entries=0,
        checkpoint=None,
        members=(),
    )


def written_and_read(keys, contents):
    """Return what comes back of members that are given as lists of pieces."""
    with tempfile.TemporaryFile() as file:
        writer = ArchiveWriter.begin(file, keys, origin_of(keys.signer))
        for name, (packing, pieces) in zip(NAMES, contents, strict=False):
            writer.add(name, pieces, packing=packing)
        manifest = writer.finish(manifest_of(writer))
        assert file.tell() == writer.num_bytes
        file.seek(0)
        archive = Archive(file, "here", keys)
        assert archive.manifest == manifest
        return [b"".join(archive.read(number)) for number in range(len(contents))]


pieces = st.lists(st.binary(max_size=300), max_size=5)
member = st.tuples(st.sampled_from(["zstd", "stored"]), pieces)


@given(st.lists(member, min_size=1, max_size=len(NAMES)))
def test_whatever_goes_in_comes_out(keys, contents):
    assert written_and_read(keys, contents) == [b"".join(parts) for _, parts in contents]


@settings(max_examples=15)
@given(
    st.sampled_from([0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 2 * FRAME_BYTES, 2 * FRAME_BYTES + 7]),
    st.integers(1, 3 * FRAME_BYTES),
    st.sampled_from(["zstd", "stored"]),
    st.integers(0, 2**32),
)
def test_frames_end_where_they_should_at_every_edge(keys, size, step, packing, seed):
    data = random.Random(seed).randbytes(size)  # noqa: S311  (bytes to store)
    parts = [data[start : start + step] for start in range(0, size, step)]
    assert written_and_read(keys, [(packing, parts)]) == [data]


def test_the_digest_and_the_sizes_in_the_manifest_are_those_of_the_plain_bytes(keys):
    writer = ArchiveWriter.begin(io.BytesIO(), keys, "o")
    made = writer.add("hall.db", [b"a" * 1000, b"b" * 1000])
    assert (made.size_bytes, made.sha256) == (2000, hashlib.sha256(b"a" * 1000 + b"b" * 1000).hexdigest())
    assert made.stored_bytes < 200, "compressed"
    assert writer.add("reports/a.html", [b"a" * 1000], packing="stored").stored_bytes == 1000 + TAG_BYTES


def test_a_frame_opens_in_its_own_place_of_its_own_backup_alone():
    places = [
        {"member": member, "index": index, "last": last} for member in (0, 1) for index in (0, 1) for last in (0, 1)
    ]
    here = FrameCipher(KEY, HEAD)
    frames = [here.seal(b"x", **place) for place in places]
    assert len(set(frames)) == len(places)
    for sealed_at, frame in zip(places, frames, strict=True):
        for place in places:
            if place == sealed_at:
                assert here.open(frame, **place) == b"x"
            else:
                with pytest.raises(IntegrityError, match="belongs elsewhere"):
                    here.open(frame, **place)
        for other in (FrameCipher(KEY, b"other"), FrameCipher(KEY[::-1], HEAD)):
            with pytest.raises(IntegrityError):
                other.open(frame, **sealed_at)
    with pytest.raises(IntegrityError):
        here.open(b"short", **places[0])


@given(st.integers(0, 5 * (FRAME_BYTES + TAG_BYTES)))
def test_so_many_bytes_are_so_many_frames(stored_bytes):
    total = num_frames(stored_bytes)
    assert (total - 1) * (FRAME_BYTES + TAG_BYTES) < stored_bytes or total == 0
    assert stored_bytes <= total * (FRAME_BYTES + TAG_BYTES)


segment = st.sampled_from(
    ["..", ".", "", "blobs", "answers", "reports", "hall.db", "a.html", "ward", "keys", "x\0", "\\"]
)


@given(st.one_of(st.lists(segment, max_size=5).map("/".join), st.text(max_size=40)))
def test_a_name_is_refused_or_stays_in_the_folder(name):
    if not is_member_name(name):
        return
    root = Path("/hall")
    assert root.joinpath(*parts_of(name)).parts[1:] == ("hall", *name.split("/"))
    assert not {"..", ".", ""} & set(name.split("/"))


@pytest.mark.parametrize(
    "name",
    [
        "hall.db",
        f"blobs/ward/{'b' * 32}",
        "answers/g1-000000000000007.sealed",
        "answers/g1-000000000000007.open",
        "answers/g1.next",
        "reports/tumours.html",
    ],
)
def test_what_a_hall_calls_its_files_is_accepted(name):
    assert "/".join(parts_of(name)) == name


def test_a_manifest_of_another_backup_or_with_more_to_say_is_refused(keys):
    writer = ArchiveWriter.begin(io.BytesIO(), keys, "o")
    start = writer.num_bytes
    writer.add("hall.db", [b"x"])
    manifest = writer.finish(manifest_of(writer))
    stop = manifest.members[0].offset + manifest.members[0].stored_bytes
    data = canonical_json(manifest)
    assert decode_manifest(data, writer.header, start, stop) == manifest
    other = Header(id="0" * 32, origin="o", wrapped_key=b"")
    for wrong, header, first, last in (
        (data, other, start, stop),
        (data, writer.header, start + 1, stop),
        (data, writer.header, start, stop + 1),
        (data[:-1] + b',"more":1}', writer.header, start, stop),
        (data[:-1], writer.header, start, stop),
        (b"[" * 100_000, writer.header, start, stop),
        (b"\xff", writer.header, start, stop),
    ):
        with pytest.raises(IntegrityError):
            decode_manifest(wrong, header, first, last)
