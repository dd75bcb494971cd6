"""A sealed object's way out: whole, or any range of it, each frame authenticated before a byte of it is used."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from itertools import accumulate
from typing import Final, Protocol

from datahall.core.errors import DataError, IntegrityError, UserError
from datahall.core.ports import BlobStore
from datahall.core.records import Grant
from datahall.security.frames import (
    FRAME_BYTES,
    FRAME_EXTRA_BYTES,
    Place,
    index_bytes,
    num_frames,
    open_frame,
    open_index,
)
from datahall.security.lanes import in_order
from datahall.security.sealing import MAGIC, check_grant, check_team, max_sealed_bytes

MAX_WHOLE_BYTES: Final = 4 << 30
"""What `get` returns at most: it has to fit into memory. Larger objects are read by ranges."""

SMALL_BYTES: Final = 256 << 10
"""Objects up to this stored length are fetched at once, index and frames together."""


class Fetch(Protocol):
    """Fetches stored bytes; called from several threads at once where `several` is asked for."""

    def __call__(self, start: int, stop: int) -> bytes | memoryview:
        """Return the stored bytes from `start` to `stop`; fewer where there are no more."""


class Opening:
    """One stored object, open for reading with its grant.

    `stored_bytes` is the length of what is stored, `run_bytes` how much to fetch at once where frames lie side by side,
    `several` whether to fetch and open several runs at once: that pays where fetching takes time, as from a bucket;
    frames of a local file are opened faster than threads hand them over. Raises IntegrityError unless the index at the
    end was sealed for this grant and team, at this length.
    """

    def __init__(
        self,
        grant: Grant,
        fetch: Fetch,
        *,
        team: str,
        stored_bytes: int,
        run_bytes: int = FRAME_BYTES,
        several: bool = False,
    ) -> None:
        check_grant(grant)
        self._grant = grant
        self._fetch = fetch
        self._run_bytes = run_bytes
        self._lanes = in_order if several else map
        self._place = Place(grant.key, check_team(team), grant.object)
        self._num = num_frames(grant.size_bytes)
        body_stop = stored_bytes - index_bytes(self._num)
        if body_stop < len(MAGIC) or stored_bytes > max_sealed_bytes(grant.size_bytes):
            raise IntegrityError("what lies there is not the object: its length is wrong", where=grant.object)
        if stored_bytes <= SMALL_BYTES:
            stored = memoryview(fetch(0, stored_bytes))
            self._fetch = lambda start, stop: stored[start:stop]
        lengths = open_index(self._place, self._num, self._fetch(body_stop, stored_bytes))
        self._starts = list(accumulate(lengths, initial=len(MAGIC)))
        fits = all(FRAME_EXTRA_BYTES < each <= FRAME_BYTES + FRAME_EXTRA_BYTES for each in lengths)
        if not fits or self._starts[-1] != body_stop:
            raise IntegrityError("the object is cut, or something was added to it", where=grant.object)

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the plain bytes from `start` to `stop`, which may lie beyond the end, as in a slice.

        Raises UserError for a negative place, IntegrityError as frames are reached.
        """
        stop = self._grant.size_bytes if stop is None else min(stop, self._grant.size_bytes)
        if start < 0 or stop < 0:
            raise UserError(f"bytes {start} to {stop} are no range of an object", where=self._grant.object)
        if start == 0:
            self._check_head()
        if start >= stop:
            return
        first, behind = start // FRAME_BYTES, num_frames(stop)
        at = first * FRAME_BYTES
        for run in self._lanes(self._open_run, self._runs(first, behind)):
            for plain in run:
                yield plain[max(start - at, 0) : stop - at]  # no copy where all of it is wanted
                at += len(plain)

    def whole(self) -> bytes:
        """Return all plain bytes, checked against the digest. Raises DataError for what does not fit into memory."""
        if self._grant.size_bytes > MAX_WHOLE_BYTES:
            raise DataError(
                f"an object of {self._grant.size_bytes} bytes does not fit into memory",
                where=self._grant.object,
                hint="read it by ranges",
            )
        taken = io.BytesIO()  # unlike joining a list, it holds every byte once
        for plain in self.checked():
            taken.write(plain)
        return taken.getvalue()

    def checked(self) -> Iterator[bytes]:
        """Yield all plain bytes; raises IntegrityError at the end unless they have the grant's digest."""
        digest = hashlib.sha256()
        for plain in self.read():
            digest.update(plain)
            yield plain
        if digest.hexdigest() != self._grant.digest:
            raise IntegrityError("the object's bytes are not those that its digest names", where=self._grant.object)

    def check(self) -> None:
        """Raise IntegrityError unless every frame and the whole digest are right."""
        for _ in self.checked():
            pass

    def _check_head(self) -> None:
        if bytes(self._fetch(0, len(MAGIC))) != MAGIC:
            raise IntegrityError("this is not a stored object", where=self._grant.object)

    def _runs(self, first: int, behind: int) -> Iterator[range]:
        """Yield the frames from `first` to `behind` in runs whose stored bytes are fetched together."""
        while first < behind:
            stop = first + 1
            while stop < behind and self._starts[stop + 1] - self._starts[first] <= self._run_bytes:
                stop += 1
            yield range(first, stop)
            first = stop

    def _open_run(self, run: range) -> list[bytes]:
        base, end = self._starts[run.start], self._starts[run.stop]
        stored = memoryview(self._fetch(base, end))
        if len(stored) != end - base:
            raise IntegrityError("the object is cut", where=self._grant.object)
        return [
            open_frame(
                self._place,
                index,
                stored[self._starts[index] - base : self._starts[index + 1] - base],
                size_bytes=min(FRAME_BYTES, self._grant.size_bytes - index * FRAME_BYTES),
                last=index == self._num - 1,
            )
            for index in run
        ]


def check_object_whole(blobs: BlobStore, grant: Grant, *, team: str) -> None:
    """Raise IntegrityError unless an object has the bytes that its grant names; memory holds a few frames at a time."""
    digest = hashlib.sha256()
    for plain in blobs.read(grant, team=team):
        digest.update(plain)
    if digest.hexdigest() != grant.digest:
        raise IntegrityError("the object's bytes are not those that its digest names", where=grant.object)


def unseal(stored: bytes | memoryview, grant: Grant, *, team: str) -> bytes:
    """Return the plain bytes of a stored object. Raises as Opening and its `whole`."""
    return open_bytes(stored, grant, team=team).whole()


def open_bytes(stored: bytes | memoryview, grant: Grant, *, team: str) -> Opening:
    """Open an object whose stored bytes are in memory. Raises as Opening."""
    view = memoryview(stored)
    return Opening(grant, lambda start, stop: view[start:stop], team=team, stored_bytes=len(view))
