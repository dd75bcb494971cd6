"""A folder of files that stays below a bound: what was used least recently goes first, what is in use stays."""

from __future__ import annotations

import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from datahall.backends.blobs.folder import files_in, is_in_place, is_temporary, teams_in
from datahall.core.durable import remove
from datahall.core.errors import StorageFullError

Key = tuple[str, str]
"""Team and object."""


class CacheStats(msgspec.Struct, frozen=True, kw_only=True):
    """How a cache does: uses that found their object here or did not, what it holds, and how many it let go."""

    hits: int
    misses: int
    evictions: int
    damaged: int
    held_bytes: int
    limit_bytes: int

    @property
    def hit_rate(self) -> float:
        """The share of uses that found their object here; 0 before the first use."""
        return self.hits / max(self.hits + self.misses, 1)


class Shelf:
    """Accounts for the files of one process in `folder`; its threads share it. What lies there at the start counts.

    Room is reserved before a file is written, so files and those under way never exceed `limit_bytes` together. The
    order of use survives a restart: it is kept in the files' times.
    """

    def __init__(self, folder: Path, *, limit_bytes: int, place: Callable[[Key], Path]) -> None:
        self._place = place
        self._limit_bytes = limit_bytes
        self._turn = threading.Condition()
        self._sizes: OrderedDict[Key, int] = OrderedDict()
        self._reserved: dict[Key, int] = {}
        self._pins: Counter[Key] = Counter()
        self._busy: set[Key] = set()
        self._counts: Counter[str] = Counter()
        self._held = 0
        self._scan(folder)

    def stats(self) -> CacheStats:
        """Return hits, misses, evictions and bytes, all of one moment."""
        with self._turn:
            return CacheStats(
                hits=self._counts["hits"],
                misses=self._counts["misses"],
                evictions=self._counts["evictions"],
                damaged=self._counts["damaged"],
                held_bytes=self._held,
                limit_bytes=self._limit_bytes,
            )

    @contextmanager
    def using(self, key: Key, fill: Callable[[Path], None]) -> Iterator[Path]:
        """Keep a file in its place while the block runs; `fill` puts it there where it is missing.

        `fill` calls `reserve` before it writes. Two threads never fill the same file. Raises what `fill` raises.
        """
        path = self._place(key)
        here = self._pin(key)
        try:
            if not here:
                self._filled(key, path, fill)
            yield path
        finally:
            with self._turn:
                self._pins[key] -= 1
                if not self._pins[key]:
                    del self._pins[key]

    def reserve(self, key: Key, size_bytes: int) -> None:
        """Make room. Raises StorageFullError where what is in use leaves too little."""
        with self._turn:
            free = [each for each in self._sizes if not self._pins[each]]
            loose = sum(self._sizes[each] for each in free)
            if self._held - loose + size_bytes > self._limit_bytes:
                raise StorageFullError(
                    f"the cache of {self._limit_bytes} bytes has no room for an object of {size_bytes} bytes",
                    where=key[1],
                    hint="give the cache more room, at least for all that one job reads",
                )
            for each in free:
                if self._held + size_bytes <= self._limit_bytes:
                    break
                self._remove(each)
                self._counts["evictions"] += 1
            self._reserved[key] = size_bytes
            self._held += size_bytes

    def adopt(self, key: Key, size_bytes: int, move: Callable[[Path], None]) -> None:
        """Take in a file that lies elsewhere, if there is room and it is not here yet."""
        with self._turn:
            if key in self._sizes or key in self._busy:
                return
            self._busy.add(key)
        try:
            self.reserve(key, size_bytes)
            move(self._place(key))
            self._settle(key, size_bytes)
        except StorageFullError:  # it is safe in the store that this is a cache of
            return
        finally:
            self._end(key)

    def drop(self, key: Key, *, damaged: bool = False) -> None:
        """Remove a file, whoever uses it: a reader that has it open goes on."""
        with self._turn:
            self._counts["damaged"] += damaged
            self._remove(key)

    def _pin(self, key: Key) -> bool:
        """Pin a file and return whether it is here; where it is not, the caller is the one who fills it."""
        with self._turn:
            while key in self._busy:
                self._turn.wait()
            self._pins[key] += 1
            if key in self._sizes:
                self._counts["hits"] += 1
                self._sizes.move_to_end(key)
                if _touched(self._place(key)):
                    return True
                self._held -= self._sizes.pop(key)  # somebody else removed it
            self._counts["misses"] += 1
            self._busy.add(key)
            return False

    def _filled(self, key: Key, path: Path, fill: Callable[[Path], None]) -> None:
        try:
            fill(path)
            self._settle(key, path.stat().st_size)
        finally:
            self._end(key)

    def _settle(self, key: Key, size_bytes: int) -> None:
        with self._turn:
            self._held += size_bytes - self._reserved.pop(key, 0)
            self._sizes[key] = size_bytes

    def _end(self, key: Key) -> None:
        with self._turn:
            self._held -= self._reserved.pop(key, 0)
            self._busy.discard(key)
            self._turn.notify_all()

    def _remove(self, key: Key) -> None:
        self._held -= self._sizes.pop(key, 0)
        try:
            remove(self._place(key), at="cache.evict")
        except FileNotFoundError:
            return

    def _scan(self, folder: Path) -> None:
        found: list[tuple[int, Key, int]] = []
        for team in teams_in(folder):
            for path in list(files_in(team)):
                if is_temporary(path):  # of a fill that was killed: this folder has one process
                    remove(path, at="cache.stale")
                elif is_in_place(path):
                    status = path.stat()
                    found.append((status.st_mtime_ns, (team.name, path.name), status.st_size))
        for _, key, size_bytes in sorted(found):
            self._sizes[key] = size_bytes
            self._held += size_bytes
        while self._held > self._limit_bytes:
            self._remove(next(iter(self._sizes)))


def _touched(path: Path) -> bool:
    """Note in a file's time that it was used; return whether there is one."""
    try:
        os.utime(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
