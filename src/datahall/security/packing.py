"""Puts a folder away as a tree: small files packed together, large ones alone, several packs at once."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from datahall.core.durable import sync_data
from datahall.core.errors import DataError
from datahall.core.jobs import Progress, Report
from datahall.core.ports import BlobStore
from datahall.core.records import Grant, Tree
from datahall.core.room import room_in
from datahall.security.trees import MAX_FILES, TreeFile, TreeReader, is_safe_path, manifest_json, tree_digest

PACK_BYTES: Final = 64 << 20
ALONE_BYTES: Final = 16 << 20
"""A file of this size or more is a pack of its own, so that it can be shared with other trees by itself."""

_READ_BYTES: Final = 1 << 20


class Found(msgspec.Struct, frozen=True):
    """A file as it was when the folder was listed; one that changes meanwhile is an error."""

    path: str
    size_bytes: int
    changed_ns: int


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """One stored pack: the right to read it, its files in order, and the digest of each."""

    grant: Grant
    files: tuple[Found, ...]
    digests: tuple[str, ...]


def put_tree(
    folder: Path,
    blobs: BlobStore,
    *,
    team: str,
    earlier: TreeReader | None = None,
    journal: Path | None = None,
    num_workers: int = 2,
    report: Report = lambda _: None,
) -> Tree:
    """Store the files below `folder` and return the right to read them; equal folders have equal digests.

    Files whose bytes are in `earlier`, a tree of the same team, are not stored again. `journal` is a private file that
    remembers packs that are stored already: after a kill, the same call goes on with the others. It holds their data
    keys, so it belongs beside `folder` and is removed, by the caller, once the tree is kept. Raises DataError for what
    is not a regular file or changes while it is read, StorageFullError where there is no room.
    """
    every = list_files(folder)
    files: dict[str, TreeFile] = {
        file.path: TreeFile(digest=hashlib.sha256().hexdigest(), size_bytes=0, pack="", offset=0)
        for file in every
        if file.size_bytes == 0
    }
    reused = _reuse(folder, every, earlier) if earlier else {}
    files |= reused
    plan = _plan(file for file in every if file.path not in files)
    stored = _Journal(journal, set(blobs.list(team=team)) if journal else set())
    told = _Told(report, total=sum(file.size_bytes for file in every))
    told.add(sum(file.size_bytes for file in reused.values()))

    def put_pack(pack: tuple[Found, ...]) -> Packed:
        packed = stored.find(pack)
        if packed is None:
            digests: list[str] = []
            grant = blobs.write(_bytes_of(folder, pack, digests), team=team)
            packed = Packed(grant=grant, files=pack, digests=tuple(digests) or (grant.digest,))
            stored.add(packed)
        told.add(packed.grant.size_bytes)
        return packed

    with ThreadPoolExecutor(num_workers) as pool:
        packs = list(pool.map(put_pack, plan))
    grants: dict[str, Grant] = {}
    for packed in packs:
        files |= _places(packed)
        if grants.setdefault(packed.grant.digest, packed.grant) is not packed.grant:  # two equal large files
            blobs.delete(packed.grant.object, team=team)
    if earlier:
        used = {file.pack for file in reused.values()}
        grants |= {grant.digest: grant for grant in earlier.tree.packs if grant.digest in used}
    manifest = blobs.put(manifest_json(files), team=team)
    return Tree(digest=tree_digest(files), manifest=manifest, packs=tuple(grants[name] for name in sorted(grants)))


def list_files(folder: Path) -> list[Found]:
    """Return the regular files below `folder`, ordered by path.

    Raises DataError for links, devices and names that could not be restored everywhere.
    """
    found: list[Found] = []
    waiting = [(folder, "")]
    while waiting:
        place, prefix = waiting.pop()
        with os.scandir(place) as items:
            for item in items:
                path = f"{prefix}{item.name}"
                if item.is_dir(follow_symlinks=False):
                    waiting.append((Path(item.path), f"{path}/"))
                    continue
                status = item.stat(follow_symlinks=False)
                if not stat.S_ISREG(status.st_mode) or not is_safe_path(path):
                    raise DataError(
                        f"{path[:200]!r} is a link or device, or its name could not be restored everywhere",
                        where=str(folder),
                        hint="a tree holds regular files with plain names; remove or rename it",
                    )
                found.append(Found(path, status.st_size, status.st_mtime_ns))
    if len(found) > MAX_FILES:
        raise DataError(f"a tree holds at most {MAX_FILES} files, this folder has {len(found)}", where=str(folder))
    return sorted(found, key=lambda file: file.path)


def _plan(files: Iterable[Found]) -> list[tuple[Found, ...]]:
    """Return the packs in the order of their paths: equal folders are cut alike."""
    packs: list[tuple[Found, ...]] = []
    small: list[Found] = []
    held = 0
    for file in files:
        if file.size_bytes >= ALONE_BYTES:
            packs.append((file,))
            continue
        if held + file.size_bytes > PACK_BYTES:
            packs.append(tuple(small))
            small, held = [], 0
        small.append(file)
        held += file.size_bytes
    return [*packs, tuple(small)] if small else packs


def _bytes_of(folder: Path, pack: tuple[Found, ...], digests: list[str]) -> Iterator[bytes]:
    """Yield the bytes of a pack's files, and note the digest of each; that of a lone file is the pack's own."""
    if len(pack) == 1:
        yield from _read(folder, pack[0])
        return
    for file in pack:
        digest = hashlib.sha256()
        for piece in _read(folder, file):
            digest.update(piece)
            yield piece
        digests.append(digest.hexdigest())


def _read(folder: Path, file: Found) -> Iterator[bytes]:
    descriptor = os.open(f"{folder}/{file.path}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        left = file.size_bytes
        while left > 0:
            piece = os.read(descriptor, min(_READ_BYTES, left + 1))  # one more: a file that grew is not cut unnoticed
            if not piece:
                break
            left -= len(piece)
            yield piece
        if left or os.fstat(descriptor).st_mtime_ns != file.changed_ns:
            raise DataError("the file changed while it was read", where=file.path, hint="run it again")
    finally:
        os.close(descriptor)


def _reuse(folder: Path, files: list[Found], earlier: TreeReader) -> dict[str, TreeFile]:
    """Return the files whose bytes an earlier tree has; only those with a size that it knows are read for it."""
    known = {file.digest: file for file in earlier.files.values() if file.size_bytes}
    sizes = {file.size_bytes for file in known.values()}
    reused = {}
    for file in files:
        if file.size_bytes in sizes:
            digest = hashlib.sha256()
            for piece in _read(folder, file):
                digest.update(piece)
            if digest.hexdigest() in known:
                reused[file.path] = known[digest.hexdigest()]
    return reused


def _places(packed: Packed) -> dict[str, TreeFile]:
    """Return where each file of a pack lies."""
    places = {}
    offset = 0
    for file, digest in zip(packed.files, packed.digests, strict=True):
        places[file.path] = TreeFile(digest=digest, size_bytes=file.size_bytes, pack=packed.grant.digest, offset=offset)
        offset += file.size_bytes
    return places


class _Journal:
    """Remembers stored packs in a file of one JSON line each; a line cut by a kill is passed over."""

    def __init__(self, path: Path | None, objects: set[str]) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._packs: dict[tuple[Found, ...], Packed] = {}
        if path is None or not path.exists():
            return
        for line in path.read_bytes().splitlines():
            try:
                packed = msgspec.json.decode(line, type=Packed)
            except msgspec.DecodeError:
                continue
            if packed.grant.object in objects:
                self._packs[packed.files] = packed

    def find(self, files: tuple[Found, ...]) -> Packed | None:
        """Return the pack that holds exactly these files, unchanged since, if it is stored."""
        return self._packs.get(files)

    def add(self, packed: Packed) -> None:
        """Remember a pack, durably."""
        if self._path is None:
            return
        with self._lock, room_in(self._path.parent):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(self._path, flags, 0o600), "ab") as file:
                # The line break comes first: it ends a line that a kill cut.
                file.write(b"\n" + msgspec.json.encode(packed))
                file.flush()
                sync_data(file.fileno(), at="trees.journal")


class _Told:
    """Adds up what several threads have done, and reports it."""

    def __init__(self, report: Report, *, total: int) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._done, self._total = 0, total

    def add(self, num_bytes: int) -> None:
        """Report `num_bytes` more."""
        with self._lock:
            self._done += num_bytes
            self._report(Progress(done=self._done, total=self._total, message="bytes stored"))
