"""Moves sealed objects from a folder into a bucket, several parts at once; after a kill it goes on with what is missing.

The sealed file and a small file beside it, one line a part with the server's mark of it, are all that is needed to go
on: no data key is. A part counts as uploaded when the server still shows that mark for it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from datahall.backends.blobs.bucket import Stored
from datahall.backends.blobs.folder import objects_in, open_object, teams_in
from datahall.backends.blobs.objects import ObjectBlobStore, object_key, part_key, parts_prefix
from datahall.core.durable import remove, step, sync_data
from datahall.core.errors import ConflictError
from datahall.core.room import room_in
from datahall.security.lanes import in_order


class PartDone(msgspec.Struct, frozen=True):
    """One line of the file beside an object: a part of `size_bytes` and the server's mark of it."""

    number: int
    size_bytes: int
    e_tag: str


def upload_all(
    store: ObjectBlobStore, staging: Path, *, uploaded: Callable[[Path, str], object] = lambda *_: None
) -> None:
    """Upload every object of the store in `staging`, and remove each from there once it is safe in the bucket.

    `uploaded` is told each file and its team before it is removed, and may move it away. A job wrote `staging`, so
    nothing in it is trusted: what is not a regular file under an object's name in its place is left behind, and so is
    an object under whose name the bucket has other bytes.
    """
    for team in teams_in(staging):
        for path in list(objects_in(team)):
            try:
                upload(store, path, team=team.name)
            except ConflictError:
                continue
            uploaded(path, team.name)
            if path.exists():
                remove(path, at="objects.uploaded")


def upload(store: ObjectBlobStore, path: Path, *, team: str) -> None:
    """Upload one sealed object, in parts where it is large. Raises ConflictError, UnavailableError, StorageFullError."""
    descriptor = open_object(path)
    try:
        size_bytes = os.fstat(descriptor).st_size
        if size_bytes <= store.part_bytes:
            stored = os.pread(descriptor, size_bytes, 0)
            step("objects.upload/create", lambda: store.bucket.create(object_key(path.name, team), stored))
            return
        state = _State(path.with_name(f".{path.name}.upload"), store.part_bytes)
        there = {part.key: part for part in store.bucket.list(parts_prefix(path.name, team))}

        def send(number: int) -> None:
            key = part_key(path.name, team, number)
            if state.has(number, there.get(key)):
                return
            piece = os.pread(descriptor, store.part_bytes, number * store.part_bytes)
            state.add(PartDone(number, len(piece), store.bucket.create(key, piece)))

        for _ in in_order(send, range(-(-size_bytes // store.part_bytes))):
            pass
        store.commit(path.name, size_bytes, team=team)
        state.forget()
    finally:
        os.close(descriptor)


class _State:
    """Which parts were uploaded; a line cut by a kill is passed over, and its part is compared with the server's."""

    def __init__(self, path: Path, part_bytes: int) -> None:
        self._path = path.with_name(f"{path.name}.{part_bytes}")  # parts of another size are other parts
        self._lock = threading.Lock()
        self._done: dict[int, PartDone] = {}
        if not self._path.exists():
            return
        for line in self._path.read_bytes().splitlines():
            try:
                done = msgspec.json.decode(line, type=PartDone)
            except msgspec.DecodeError:
                continue
            self._done[done.number] = done

    def has(self, number: int, there: Stored | None) -> bool:
        """Return whether a part was uploaded and the server still has it as it was."""
        done = self._done.get(number)
        return (
            done is not None and there is not None and (there.size_bytes, there.e_tag) == (done.size_bytes, done.e_tag)
        )

    def add(self, done: PartDone) -> None:
        """Remember a part, durably."""
        with self._lock, room_in(self._path.parent):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(self._path, flags, 0o600), "ab") as file:
                # The line break comes first: it ends a line that a kill cut.
                file.write(b"\n" + msgspec.json.encode(done))
                file.flush()
                sync_data(file.fileno(), at="objects.part")

    def forget(self) -> None:
        """Remove the file."""
        if self._path.exists():
            remove(self._path, at="objects.forget_state")
