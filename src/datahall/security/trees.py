"""A stored folder: which files it has, and the way to one of them, to a range of it, or to a copy of the whole.

The manifest is an object of canonical JSON: each path with the digest and size of its file, and where the bytes lie (the
pack, by the digest of its plain bytes, and the offset in it). Whoever made a tree made its manifest too, so nothing in
it is believed before it is checked: no path leaves the folder, no range leaves its pack, and the tree's digest follows
from the content. Folders hold regular files; times, modes, links and empty folders are not kept.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec

from datahall.core.canonical import digest_bytes
from datahall.core.durable import rename
from datahall.core.errors import ConflictError, IntegrityError, NotFoundError, UserError
from datahall.core.ports import BlobStore
from datahall.core.records import Grant, Tree
from datahall.core.room import room_in

MANIFEST_TYPE: Final = "application/vnd.datahall.tree+json"
PACK_TYPE: Final = "application/vnd.datahall.pack"
MAX_FILES: Final = 1_000_000
MAX_PATH_BYTES: Final = 1024
MAX_MANIFEST_BYTES: Final = 1 << 30

_ENCODER = msgspec.json.Encoder(order="sorted")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]|(?:^|/)\.{0,2}(?:/|$)")
"""Control signs, backslashes and halves of signs; folders called nothing, `.` or `..`."""


class TreeFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file: digest and size of its bytes, and where they lie; an empty file lies nowhere (`pack` is empty)."""

    digest: str
    size_bytes: int
    pack: str
    offset: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the manifest object says: every file by its path, with `/` between folders."""

    files: dict[str, TreeFile]
    format: int = 1


def manifest_json(files: Mapping[str, TreeFile]) -> bytes:
    """Return the bytes of the manifest object: canonical JSON (without floats there is nothing that it could refuse)."""
    return _ENCODER.encode(Manifest(files=dict(files)))


def tree_digest(files: Mapping[str, TreeFile]) -> str:
    """Return the digest of a folder's logical content: paths, and the digests and sizes of their files."""
    return digest_bytes(_ENCODER.encode({path: [file.digest, file.size_bytes] for path, file in files.items()}))


def is_safe_path(path: str) -> bool:
    """Return whether a path stays inside the folder it is put in, on every system, and is spelled the one way."""
    if _UNSAFE.search(path):
        return False
    size_bytes = len(path.encode())
    return size_bytes <= 255 or (
        size_bytes <= MAX_PATH_BYTES and all(len(part.encode()) <= 255 for part in path.split("/"))
    )


class TreeReader:
    """A stored folder, open for reading. Raises IntegrityError unless its manifest is sound and has the tree's digest."""

    def __init__(self, blobs: BlobStore, tree: Tree, *, team: str) -> None:
        self._blobs = blobs
        self._team = team
        self.tree = tree
        self._packs = {grant.digest: grant for grant in tree.packs}
        self.files = self._checked(tree)

    @property
    def size_bytes(self) -> int:
        """How much room a copy of the folder takes."""
        return sum(file.size_bytes for file in self.files.values())

    def read(self, path: str, *, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield a file's bytes from `start` to `stop`; each frame is authenticated before any of it is yielded.

        Raises NotFoundError for a path that is not in the tree, UserError for a negative place.
        """
        file = self.files.get(path)
        if file is None:
            raise NotFoundError("there is no such file in this tree", where=path[:200])
        stop = file.size_bytes if stop is None else min(stop, file.size_bytes)
        if start < 0 or stop < 0:
            raise UserError(f"bytes {start} to {stop} are no range of a file", where=path)
        return self._pack_range(file.pack, file.offset + start, file.offset + stop)

    def get(self, path: str) -> bytes:
        """Return a file's bytes, checked against its digest. Raises NotFoundError or IntegrityError."""
        data = b"".join(self.read(path))
        if hashlib.sha256(data).hexdigest() != self.files[path].digest:
            raise IntegrityError("a file's bytes are not those that its digest names", where=path)
        return data

    def restore(self, target: Path, *, num_workers: int = 2) -> None:
        """Write every file below the new folder `target`, each checked against its digest.

        The folder appears when it is whole. It is a copy, not synced: power loss may take it, not the stored tree.
        Raises ConflictError where there is something already, IntegrityError where a file is damaged, StorageFullError
        where there is no room; then nothing is left.
        """
        if os.path.lexists(target):
            raise ConflictError("there is something already", where=str(target), hint="name a folder that is not there")
        making = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        making.mkdir(mode=0o700, parents=True)
        try:
            with room_in(target.parent), ThreadPoolExecutor(num_workers) as pool:
                for folder in sorted({(making / path).parent for path in self.files}):
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                for _ in pool.map(lambda group: self._write_pack(making, *group), self._by_pack().items()):
                    pass
                rename(making, target, at="trees.restore")
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def _write_pack(self, folder: Path, pack: str, paths: list[str]) -> None:
        """Write the files of one pack from a single pass over it; they are in the order of their offsets."""
        first, last = self.files[paths[0]], self.files[paths[-1]]
        source = _Source(self._pack_range(pack, first.offset, last.offset + last.size_bytes), at=first.offset)
        written: dict[int, str] = {}
        for path in paths:
            file = self.files[path]
            if file.pack and file.offset in written:  # two files of equal bytes share one place
                shutil.copyfile(folder / written[file.offset], folder / path)
                continue
            digest = hashlib.sha256()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(folder / path, flags, 0o600), "wb") as out:
                for piece in source.take(file.offset, file.size_bytes):
                    digest.update(piece)
                    out.write(piece)
            if digest.hexdigest() != file.digest:
                raise IntegrityError("a file's bytes are not those that its digest names", where=path)
            written[file.offset] = path

    def _pack_range(self, pack: str, start: int, stop: int) -> Iterator[bytes]:
        if start >= stop:
            return iter(())
        return self._blobs.read(self._packs[pack], team=self._team, start=start, stop=stop)

    def _by_pack(self) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {}
        for path, file in sorted(self.files.items(), key=lambda item: item[1].offset):
            groups.setdefault(file.pack, []).append(path)
        return groups

    def _checked(self, tree: Tree) -> dict[str, TreeFile]:
        manifest = _read_manifest(self._blobs, tree.manifest, self._team)
        why = _why_unsound(manifest, self._packs)
        if why:
            raise IntegrityError(why, where=tree.manifest.object)
        if tree_digest(manifest.files) != tree.digest:
            raise IntegrityError("the tree is not the one that its digest names", where=tree.manifest.object)
        return manifest.files


def tree_of(blobs: BlobStore, manifest: Grant, grant: Callable[[str], Grant], *, team: str) -> Tree:
    """Return the right to read a folder from that to its manifest and a way to the grant of each pack, by its digest.

    Raises IntegrityError for what is no manifest, and what `grant` raises.
    """
    files = _read_manifest(blobs, manifest, team).files
    packs = sorted({file.pack for file in files.values() if file.pack})
    return Tree(digest=tree_digest(files), manifest=manifest, packs=tuple(grant(digest) for digest in packs))


def _read_manifest(blobs: BlobStore, grant: Grant, team: str) -> Manifest:
    if grant.size_bytes > MAX_MANIFEST_BYTES:
        raise IntegrityError("the manifest is too long", where=grant.object)
    try:
        return msgspec.json.decode(blobs.get(grant, team=team), type=Manifest)
    except msgspec.DecodeError as error:
        raise IntegrityError(f"this is not a manifest: {error}", where=grant.object) from error


def _why_unsound(manifest: Manifest, packs: dict[str, Grant]) -> str:
    """Return why a manifest cannot be used, nothing where it can."""
    if manifest.format != 1 or len(manifest.files) > MAX_FILES:
        return "the manifest is of another format, or has too many files"
    places: dict[str, dict[tuple[int, int], str]] = {}
    for path, file in manifest.files.items():
        if not is_safe_path(path):
            return f"the path {path[:200]!r} could leave the folder"
        if not _lies_within(file, packs):
            return f"the file {path[:200]!r} lies outside the packs of this tree"
        place = (file.offset, file.offset + file.size_bytes)
        if places.setdefault(file.pack, {}).setdefault(place, file.digest) != file.digest:
            return f"the file {path[:200]!r} shares its place with another one"
    if any(stop > start for held in places.values() for (_, stop), (start, _) in pairwise(sorted(held))):
        return "two files overlap"
    folders = {path[:at] for path in manifest.files for at, sign in enumerate(path) if sign == "/"}
    return "a path is both a file and a folder" if folders & set(manifest.files) else ""


def _lies_within(file: TreeFile, packs: dict[str, Grant]) -> bool:
    """Whether a file lies inside a pack of the tree; an empty one, and no other, lies nowhere."""
    if file.pack == "":
        return (file.size_bytes, file.offset) == (0, 0)
    return file.pack in packs and file.size_bytes > 0 <= file.offset <= packs[file.pack].size_bytes - file.size_bytes


class _Source:
    """A pass over a pack, from which files take their bytes in the order of their places."""

    def __init__(self, pieces: Iterable[bytes], *, at: int) -> None:
        self._pieces = iter(pieces)
        self._at = at
        self._held = b""

    def take(self, offset: int, size_bytes: int) -> Iterator[memoryview]:
        """Yield `size_bytes` from `offset` on; what lies between is passed over."""
        stop = offset + size_bytes
        at = offset
        while at < stop:
            while self._at + len(self._held) <= at:
                self._at += len(self._held)
                self._held = next(self._pieces)
            taken = memoryview(self._held)[at - self._at : stop - self._at]
            at += len(taken)
            yield taken
