import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.core.canonical import canonical_json, digest_bytes
from datahall.core.errors import IntegrityError
from datahall.core.records import BundleManifest, Column
from datahall.engines import bundle
from datahall.engines.bundle import bundle_digest, pack, unpack

NAMES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}(\.[a-z0-9]{1,5})?", fullmatch=True).filter(
    lambda name: name != bundle.MANIFEST_NAME
)
FILES = st.dictionaries(NAMES, st.binary(max_size=300), max_size=5)


def manifest_of(contents, **changes):
    fields = {
        "app": "small",
        "task": "classification",
        "engine": "sklearn",
        "engine_settings": {"packages": {"numpy": "2"}},
        "features": (Column(name="x", kind="number"),),
        "target": Column(name="y", kind="category", categories=("no", "yes")),
        "threshold": 0.5,
        "environment": "e" * 64,
        "files": {name: digest_bytes(data) for name, data in contents.items()},
    }
    return BundleManifest(**(fields | changes))


def small():
    files = {"model.skops": b"model bytes", "notes.txt": b""}
    return pack(manifest_of(files), files)


def with_index(raw_index, rest=b""):
    return b"DHBNDL\x00\x01" + len(raw_index).to_bytes(8, "little") + raw_index + rest


@given(files=FILES)
def test_unpack_gives_what_was_packed(files):
    manifest = manifest_of(files)
    packed = pack(manifest, files)
    got, contents = unpack(memoryview(packed))
    assert (got, {name: bytes(view) for name, view in contents.items()}) == (manifest, files)
    assert packed == pack(manifest, dict(reversed(files.items())))


def test_contents_lie_at_multiples_of_64():
    packed = small()
    _, contents = unpack(packed)
    assert packed.index(b"model bytes") % 64 == 0
    assert contents["model.skops"].readonly


def test_a_flipped_bit_anywhere_is_refused():
    packed, draw = small(), random.Random(7)  # noqa: S311  (a seeded choice of bits)
    for place in range(len(packed)):
        broken = bytearray(packed)
        broken[place] ^= 1 << draw.randrange(8)
        with pytest.raises(IntegrityError):
            unpack(bytes(broken))


def test_control_without_digests_flipped_content_would_pass(monkeypatch):
    packed = small()
    true = {bytes(data): digest_bytes(data) for data in (b"model bytes", b"", _manifest_bytes(packed))}
    broken = packed.replace(b"model bytes", b"model bytEs")
    monkeypatch.setattr(bundle, "digest_bytes", lambda data: true.get(bytes(data), true[b"model bytes"]))
    assert bytes(unpack(broken)[1]["model.skops"]) == b"model bytEs"


def _manifest_bytes(packed):
    return canonical_json(unpack(packed)[0])


def test_every_truncation_and_every_appended_byte_is_refused():
    packed = small()
    for length in range(len(packed)):
        with pytest.raises(IntegrityError):
            unpack(packed[:length])
    for tail in (b"\0", b"\0" * 64, packed):
        with pytest.raises(IntegrityError):
            unpack(packed + tail)


@given(noise=st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_in_our_own_words(noise):
    for raw in (noise, with_index(noise), with_index(noise, noise)):
        with pytest.raises(IntegrityError):
            unpack(raw)


@pytest.mark.parametrize(
    "entries",
    [
        [["../evil", 1, "0" * 64], ["bundle.json", 1, "0" * 64]],
        [["/etc/passwd", 1, "0" * 64], ["bundle.json", 1, "0" * 64]],
        [["a" * 65, 1, "0" * 64], ["bundle.json", 1, "0" * 64]],
        [["bundle.json", 1, "0" * 64], ["bundle.json", 1, "0" * 64]],
        [["z.bin", 1, "0" * 64], ["bundle.json", 1, "0" * 64]],
        [["bundle.json", -1, "0" * 64]],
        [["bundle.json", 1 << 62, "0" * 64]],
        [["model.onnx", 1, "0" * 64]],
        [],
    ],
)
def test_a_hostile_index_is_refused(entries):
    with pytest.raises(IntegrityError):
        unpack(with_index(canonical_json({"files": entries}), b"\0" * 256))


def test_an_index_longer_than_its_cap_is_refused_before_it_is_read():
    head = b"DHBNDL\x00\x01" + (bundle.MAX_INDEX_BYTES + 1).to_bytes(8, "little")
    with pytest.raises(IntegrityError, match="claims"):
        unpack(head + b" " * (bundle.MAX_INDEX_BYTES + 1))


def test_a_second_spelling_of_the_index_is_refused():
    packed = small()
    length = int.from_bytes(packed[8:16], "little")
    spaced = packed[16 : 16 + length].replace(b'{"files"', b'{ "files"')
    with pytest.raises(IntegrityError, match="canonical"):
        unpack(with_index(spaced, packed[16 + length :]))


@pytest.mark.parametrize(
    "change", [(b'"app"', b'"aap":1,"app"'), (b'{"app"', b'{ "app"'), (b'"app":"small"', b'"app":1')]
)
def test_a_manifest_with_unknown_keys_or_another_spelling_is_refused(change):
    raw = canonical_json(manifest_of({}))
    assert unpack(hand_packed(raw))[0] == manifest_of({})
    with pytest.raises(IntegrityError, match="manifest"):
        unpack(hand_packed(raw.replace(*change)))


def hand_packed(manifest):
    index = canonical_json({"files": [["bundle.json", len(manifest), digest_bytes(manifest)]]})
    return with_index(index, bytes(-(16 + len(index)) % 64) + manifest)


def test_the_longest_name_is_packed():
    files = {"a" * 64: b""}
    assert set(unpack(pack(manifest_of(files), files))[1]) == set(files)


def test_pack_refuses_files_that_are_not_the_manifests():
    manifest = manifest_of({"a.bin": b"a"})
    for files in ({}, {"a.bin": b"b"}, {"a.bin": b"a", "b.bin": b"b"}):
        with pytest.raises(IntegrityError):
            pack(manifest, files)


@pytest.mark.parametrize("name", ["../a", "A.bin", ".hidden", "a/b", "a\0b", "", "bundle.json"])
def test_pack_refuses_names_that_are_not_plain(name):
    files = {name: b"a"}
    with pytest.raises(IntegrityError):
        pack(manifest_of(files), files)


@pytest.mark.parametrize(
    "change",
    [
        {"app": "other"},
        {"task": "regression"},
        {"engine": "onnx"},
        {"engine_settings": {}},
        {"features": ()},
        {"target": Column(name="y", kind="category", categories=("yes", "no"))},
        {"threshold": 0.500001},
        {"environment": "f" * 64},
        {"files": {"model.skops": "0" * 64}},
    ],
)
def test_whatever_determines_an_answer_changes_the_digest(change):
    assert bundle_digest(manifest_of({}, **change)) != bundle_digest(manifest_of({}))
    assert set(change) <= {field.name for field in msgspec.structs.fields(BundleManifest)}


def test_packing_anew_gives_another_digest():
    files = {"model.skops": b"model bytes"}
    before = pack(manifest_of(files), files)
    after = pack(manifest_of(files, threshold=0.1), files)
    assert bundle_digest(unpack(before)[0]) != bundle_digest(unpack(after)[0])
