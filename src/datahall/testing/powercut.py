"""What a disk may hold after the power went: any mixture of what was not synced, as a seed says.

The model, from POSIX and SQLite's own account of disks (https://www.sqlite.org/psow.html):

- What a file held when a sync of it returned is there. Of the writes and truncations since then each one is there, not
  there, or torn: some of the 512-byte sectors that a write touches have it, the others have not. Any combination may
  be, as disks reorder. A write changes nothing outside its own bytes (SQLite's default, "powersafe overwrite").
- A name that was made or removed is durable after a sync of its folder. Until then each name of a folder is, on its own,
  as it was after some earlier change to it. The unix VFS syncs the folder with a journal's or a WAL's first sync and
  where it is asked to with a deletion; it never renames.
- The shared memory of a WAL (`-shm`) is not written through the VFS, and is gone.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from datahall.testing.vfs import Operation

SECTOR_BYTES = 512


class Disk:
    """Follows the operations of one folder, empty at first; `image` says what a power cut now would leave."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._names: dict[str, list[_Content | None]] = {}
        """What each name stood for since its folder was last synced, oldest first; None is no file."""

    def apply(self, operation: Operation) -> None:
        """Do one operation."""
        path = operation.path
        if operation.kind == "folder":
            if path == self._folder:
                self._names = {name: history[-1:] for name, history in self._names.items()}
            return
        if not path.startswith(f"{self._folder}/"):
            return
        history = self._names.setdefault(path, [None])
        if operation.kind == "delete":
            history.append(None)
        elif operation.kind == "open":
            if history[-1] is None:
                history.append(_Content())
        elif operation.kind != "close":
            content = history[-1]
            assert content is not None, f"{operation.kind} of {path}, which is not there"
            content.apply(operation)

    def image(self, draw: random.Random) -> dict[str, bytes]:
        """Return name to bytes, as one of the ways in which the power may go."""
        keep = draw.choice([0.0, 0.5, 0.9, 1.0])  # all lost, a mixture, nearly all there, all there
        found = {}
        for path, history in self._names.items():
            content = history[-1] if keep == 1.0 else draw.choice(history)
            if content is not None:
                found[Path(path).name] = content.image(draw, keep)
        return found


class _Content:
    """A file's bytes: those that were synced, and what was done since."""

    def __init__(self) -> None:
        self._synced = bytearray()
        self._since: list[Operation] = []

    def apply(self, operation: Operation) -> None:
        if operation.kind == "sync":
            for each in self._since:
                _do(self._synced, each)
            self._since = []
        else:
            self._since.append(operation)

    def image(self, draw: random.Random, keep: float) -> bytes:
        data = bytearray(self._synced)
        for operation in self._since:
            for part in _torn(operation, draw, keep):
                _do(data, part)
        return bytes(data)


def images(log: Sequence[Operation], folder: Path, seeds: Iterable[int]) -> Iterator[tuple[int, int, dict[str, bytes]]]:
    """Yield `(seed, cut, image)` for each seed, by `cut`: the power goes after the first `cut` operations of the log.

    A seed alone decides both, so one that found something finds it again.
    """
    draws = [(seed, random.Random(seed)) for seed in seeds]  # noqa: S311  (a repeatable accident, no secret)
    planned = sorted(((draw.randint(0, len(log)), seed, draw) for seed, draw in draws), key=lambda plan: plan[:2])
    disk, num_done = Disk(folder), 0
    for cut, seed, draw in planned:
        for operation in log[num_done:cut]:
            disk.apply(operation)
        num_done = cut
        yield seed, cut, disk.image(draw)


def lay_out(image: dict[str, bytes], folder: Path) -> None:
    """Write an image's files into a folder, which is made."""
    folder.mkdir(mode=0o700)
    for name, data in image.items():
        (folder / name).write_bytes(data)


def _torn(operation: Operation, draw: random.Random, keep: float) -> Iterator[Operation]:
    """Yield what of an operation reached the disk: all, nothing, or some of a write's sectors."""
    fate = draw.random()
    if fate < keep:
        yield operation
    elif operation.kind == "write" and fate < keep + (1 - keep) / 2 and keep > 0:
        for start, end in _sectors(operation.offset, len(operation.data)):
            if draw.random() < 0.5:
                yield Operation("write", operation.path, operation.offset + start, operation.data[start:end])


def _sectors(offset: int, num_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield where in a write each of the disk's sectors begins and ends."""
    start = 0
    while start < num_bytes:
        end = min(start + SECTOR_BYTES - (offset + start) % SECTOR_BYTES, num_bytes)
        yield start, end
        start = end


def _do(data: bytearray, operation: Operation) -> None:
    data.extend(bytes(max(0, operation.offset - len(data))))  # a hole reads as zeros
    if operation.kind == "truncate":
        del data[operation.offset :]
    else:
        data[operation.offset : operation.offset + len(operation.data)] = operation.data
