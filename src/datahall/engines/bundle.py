"""The packed form of a bundle: one run of bytes that is either exactly what was packed or refused.

Layout, with all numbers little-endian: 8 bytes of magic; the index's length as u64; the index, canonical JSON
`{"files": [[name, size_bytes, sha256], ...]}` sorted by name; then each content, in the order of the index, at the next
multiple of 64 bytes, with zeros between. Offsets follow from sizes, so contents can neither overlap nor hide between
one another, and every bundle has one byte form only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from datahall.core.canonical import canonical_json, digest_bytes, digest_of
from datahall.core.errors import IntegrityError
from datahall.core.records import BundleManifest

MANIFEST_NAME = "bundle.json"
MAX_INDEX_BYTES = 1 << 20
MAX_FILES = 256
MAX_BUNDLE_BYTES = 4 << 30

_MAGIC = b"DHBNDL\x00\x01"
_ALIGNMENT = 64  # a cache line; also what ONNX Runtime and numpy like for raw tensors
_PLAIN_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9]+)*")


class _Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    files: tuple[tuple[str, int, str], ...]


def bundle_digest(manifest: BundleManifest) -> str:
    """Return the bundle's digest: the SHA-256 of the manifest's canonical JSON."""
    return digest_of(manifest)


def pack(manifest: BundleManifest, files: Mapping[str, bytes]) -> bytes:
    """Return `manifest` and its `files` as one run of bytes; equal arguments give equal bytes.

    Raises IntegrityError where `files` are not what the manifest says, or a name is not plain.
    """
    if MANIFEST_NAME in files:
        raise IntegrityError(f"'{MANIFEST_NAME}' is the manifest's own name")
    _check_files(manifest, {name: digest_bytes(data) for name, data in files.items()})
    contents = {**files, MANIFEST_NAME: canonical_json(manifest)}
    entries = tuple((name, len(data), digest_bytes(data)) for name, data in sorted(contents.items()))
    index = canonical_json(_Index(entries))
    _check_index(_Index(entries), index)
    packed = bytearray(_MAGIC + len(index).to_bytes(8, "little") + index)
    for name, _, _ in entries:
        packed += bytes(-len(packed) % _ALIGNMENT)
        packed += contents[name]
    return bytes(packed)


def unpack(packed: bytes | memoryview) -> tuple[BundleManifest, dict[str, memoryview]]:
    """Return the manifest and its files by name, as views into `packed` without a copy.

    Raises IntegrityError for any byte that is not as `pack` wrote it. Whoever was told a bundle's digest compares it
    with `bundle_digest(manifest)`: only that notices a bundle that was packed anew.
    """
    view = memoryview(packed).toreadonly().cast("B")
    index, start = _read_index(view)
    contents: dict[str, memoryview] = {}
    for name, begin, end, digest in _places(index, start, len(view)):
        if digest_bytes(view[begin:end]) != digest:
            raise IntegrityError(f"the bundle's file '{name}' is not what its digest says")
        contents[name] = view[begin:end]
    _check_padding(view, index, start)
    manifest = _decode_manifest(contents.pop(MANIFEST_NAME))
    _check_files(manifest, {name: digest for name, _, digest in index.files if name != MANIFEST_NAME})
    return manifest, contents


def _read_index(view: memoryview) -> tuple[_Index, int]:
    head = len(_MAGIC) + 8
    if len(view) < head or bytes(view[: len(_MAGIC)]) != _MAGIC:
        raise IntegrityError("these bytes are not a bundle")
    length = int.from_bytes(view[len(_MAGIC) : head], "little")
    if length > MAX_INDEX_BYTES or head + length > len(view):
        raise IntegrityError(f"the bundle's index claims {length} bytes, which it cannot have")
    raw = bytes(view[head : head + length])
    try:
        index = msgspec.json.decode(raw, type=_Index)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(f"the bundle's index cannot be read: {error}") from error
    _check_index(index, raw)
    return index, head + length


def _check_index(index: _Index, raw: bytes) -> None:
    names = [name for name, _, _ in index.files]
    if len(names) > MAX_FILES or names != sorted(set(names)) or MANIFEST_NAME not in names:
        raise IntegrityError("the bundle's index does not list each file once, in order, with a manifest")
    for name, size_bytes, _ in index.files:
        if len(name) > 64 or not _PLAIN_NAME.fullmatch(name):
            raise IntegrityError(f"'{name[:64]}' is no plain file name for a bundle")
        if not 0 <= size_bytes <= MAX_BUNDLE_BYTES:
            raise IntegrityError(f"the bundle's file '{name}' claims {size_bytes} bytes")
    if canonical_json(index) != raw:
        raise IntegrityError("the bundle's index is not in its canonical form")


def _places(index: _Index, start: int, total: int) -> Iterator[tuple[str, int, int, str]]:
    """Yield (name, begin, end, digest) of each content, and check that they end where the bytes end."""
    end = start
    for name, size_bytes, digest in index.files:
        begin = end + -end % _ALIGNMENT
        end = begin + size_bytes
        if end > total:
            raise IntegrityError(f"the bundle ends within its file '{name}'")
        yield name, begin, end, digest
    if end != total:
        raise IntegrityError(f"the bundle has {total - end} bytes behind its last file")


def _check_padding(view: memoryview, index: _Index, start: int) -> None:
    previous = start
    for name, begin, end, _ in _places(index, start, len(view)):
        if any(view[previous:begin]):
            raise IntegrityError(f"the bundle hides bytes before its file '{name}'")
        previous = end


def _decode_manifest(raw: memoryview) -> BundleManifest:
    try:
        manifest: Any = msgspec.json.decode(raw, type=BundleManifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(f"the bundle's manifest cannot be read: {error}") from error
    # Re-encoding loses what the type does not know, so an unknown key or a second spelling shows here.
    if canonical_json(manifest) != bytes(raw):
        raise IntegrityError("the bundle's manifest is not in its canonical form")
    assert isinstance(manifest, BundleManifest)
    return manifest


def _check_files(manifest: BundleManifest, digests: Mapping[str, str]) -> None:
    for name in sorted({*manifest.files, *digests}):
        if name not in digests:
            raise IntegrityError(f"the bundle lacks the file '{name}' of its manifest")
        if manifest.files.get(name) != digests[name]:
            raise IntegrityError(f"the bundle's file '{name}' is not what its manifest says")
