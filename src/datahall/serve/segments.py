"""The answer log: append-only segments that have every answer's record before its client has the answer.

A segment is a file of encrypted frames (`segment_format.py`), one frame a write, its records being `Answer`s as
MessagePack. One write hands all records of a batch to the kernel, so a killed gateway loses none; `sync_work`, done every
100 ms, bounds what a power cut can take. The file being written is called `<gateway>-<first sequence>.open`; a full one
is ended, synced and renamed to `.sealed`, after which it never changes. Control moves sealed ones into the blob store;
until then they spool here, up to a bound beyond which no answer is given. `<gateway>.next` holds the number with which
the log goes on when all its segments have moved.

A file whose sync failed is never believed again: the kernel may have forgotten what it could not write, and say that all
is well the next time. Its records are written into another file, and until they are no answer is given.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from datahall.core.durable import remove, rename, sync_data, sync_file, sync_folder, write_atomic
from datahall.core.errors import IntegrityError, StorageFullError, UnavailableError
from datahall.core.records import Answer
from datahall.serve.segment_files import OPEN, SEALED, Segment, first_sequence, read_segment, segment_files
from datahall.serve.segment_format import MAX_FRAME_BYTES, SegmentSeal, open_seal

_ENCODER = msgspec.msgpack.Encoder()
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
_LOOK_NS = 1_000_000_000


class AnswerLog:
    """Writes one gateway's segments. Only one may be open on a gateway's name at a time."""

    def __init__(
        self,
        folder: Path,
        gateway: str,
        key: bytes,
        *,
        now_ns: int,
        max_records: int = 20_000,
        max_age_ns: int = 60_000_000_000,
        max_spool_bytes: int = 1 << 30,
    ) -> None:
        """Continue where the last run of this gateway ended; `key` is the hall's answer key.

        A segment that it left open is cut behind its last whole write and sealed; `num_torn_bytes` says how much was
        cut: the end of a write that never finished, so no client got that answer, unless power failed.
        Raises IntegrityError where such a segment was written under another key.
        """
        self.folder = folder
        self.gateway = gateway
        self.num_torn_bytes = 0
        self._key = key
        self._max_records, self._max_age_ns, self._max_spool_bytes = max_records, max_age_ns, max_spool_bytes
        self._descriptor = -1
        self._path: Path | None = None
        self._seal: SegmentSeal
        self._num_records = self._num_bytes = 0
        self._opened_at_ns = now_ns
        self._dirty = self._is_new = False
        self._ended: list[tuple[Path, int]] = []
        self._unkept: set[Path] = set()
        """Segments whose sync failed, until they are written anew."""
        self.next_sequence = self._recover()
        self._num_spooled_bytes, self._looked_at_ns = self._look(), now_ns

    def check_room(self) -> None:
        """Raise StorageFullError where no answer can be given: too many records wait to be moved, or the disk fails."""
        if self._unkept:
            raise StorageFullError(
                "the disk did not keep the answer log, which is written anew before any answer is given",
                hint="look after the disk, then ask again",
            )
        if self._num_spooled_bytes + self._num_bytes >= self._max_spool_bytes:
            raise StorageFullError(
                "the answer log has no room: its segments are not taken into the blob store",
                hint="see what holds them up: datahall ps",
            )

    def append(self, answers: Iterable[Answer]) -> None:
        """Hand the records to the kernel in one write; their sequences must continue the log's.

        Raises UnavailableError where they cannot be written, StorageFullError where there is no room: then the answers
        must not be given.
        """
        answers = list(answers)
        numbers = range(self.next_sequence, self.next_sequence + len(answers))
        assert [answer.sequence for answer in answers] == list(numbers), "an answer's place tells its number"
        records = _ENCODER.encode(answers)
        assert len(records) < MAX_FRAME_BYTES, "a record is a few hundred bytes"
        self.check_room()
        try:
            if self._descriptor < 0:
                self._open()
            self._write(self._seal.frame(records, offset=self._num_bytes, index=self._num_records))
        except OSError as error:
            kind = StorageFullError if error.errno in _FULL else UnavailableError
            raise kind(
                f"the answer log cannot be written: {error.strerror}", hint="free some disk space, then ask again"
            ) from error
        self.next_sequence += len(answers)
        self._num_records += len(answers)
        self._dirty = True

    def sync_work(self) -> Callable[[], None] | None:
        """Return what makes everything appended survive a power cut, as work for any thread; None if that is done."""
        if not self._dirty:
            return None
        descriptor, path = (
            os.dup(self._descriptor),
            self._path,
        )  # the log may end its segment and close its own meanwhile
        self._dirty = False  # only now: where no descriptor was left, the next call must find the work again
        is_new, self._is_new = self._is_new, False

        def work() -> None:
            try:
                sync_data(descriptor, at="answers.tick")
                if is_new:
                    sync_folder(self.folder, at="answers.open")
            except OSError:
                if path is not None:
                    self._unkept.add(path)
                raise
            finally:
                os.close(descriptor)

        return work

    def end(self, now_ns: int, *, force: bool = False) -> None:
        """Put an end to the segment if it is full, a minute old, or `force`; waits for no disk."""
        if now_ns - self._looked_at_ns >= _LOOK_NS:
            self._num_spooled_bytes, self._looked_at_ns = self._look(), now_ns
        if self._path is None:
            self._opened_at_ns = now_ns
            return
        old, unkept = now_ns - self._opened_at_ns >= self._max_age_ns, self._path in self._unkept
        if not (old or force or unkept or self._num_records >= self._max_records):
            return
        if not unkept:
            os.ftruncate(self._descriptor, self._num_bytes)
            self._write(self._seal.end(offset=self._num_bytes, num_records=self._num_records))
        # Nothing may follow the end, so whatever fails from here on, the next append begins another file.
        self._ended.append((self._path, self.next_sequence))
        os.close(self._descriptor)
        self._num_spooled_bytes += self._num_bytes
        self._descriptor, self._path, self._num_records, self._num_bytes = -1, None, 0, 0
        self._opened_at_ns, self._dirty, self._is_new = now_ns, False, False

    def seal_work(self) -> Callable[[], Path | None] | None:
        """Return what syncs and seals the segments that were ended, as work for any thread; None if there are none.

        It returns the last file that it sealed. What fails is tried again by the next call's work.
        """
        return self._seal_ended if self._ended else None

    def rotate(self, now_ns: int, *, force: bool = False) -> Path | None:
        """Do what `end` and then `seal_work` does; return the sealed file, if any."""
        self.end(now_ns, force=force)
        return self._seal_ended()

    def close(self, now_ns: int) -> None:
        """Seal what is open."""
        self.rotate(now_ns, force=True)

    def _open(self) -> None:
        path = self.folder / f"{self.gateway}-{self.next_sequence:015d}{OPEN}"
        seal = SegmentSeal(self._key, self.gateway, self.next_sequence)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._descriptor, self._path, self._seal, self._num_bytes, self._is_new = descriptor, path, seal, 0, True
        try:
            self._write(seal.header())
        except OSError:
            os.close(descriptor)
            self._descriptor, self._path = -1, None
            remove(path, at="answers.undo")
            raise

    def _write(self, data: bytes) -> None:
        """Write all of `data` behind what is there, or leave the file as it was."""
        end = self._num_bytes
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], end + written)
        except OSError:
            with contextlib.suppress(OSError):  # a sick disk: the next write goes over what stayed
                os.ftruncate(self._descriptor, end)
            raise
        self._num_bytes = end + len(data)

    def _seal_ended(self) -> Path | None:
        sealed, num_lost = None, 0
        for path, following in tuple(self._ended):
            with contextlib.suppress(FileNotFoundError):  # somebody removed it: that must not hold up the next ones
                if path in self._unkept:
                    segment = read_segment(path, self._key)
                    num_lost += following - first_sequence(path) - len(segment.raw)
                    sealed = self._finish(segment, following) or sealed
                else:
                    _remember(self.folder, self.gateway, following)
                    sealed = self._sealed(path)
            self._unkept.discard(path)
            with contextlib.suppress(ValueError):  # at the very end, another thread may still be at the same work
                self._ended.remove((path, following))
        if num_lost:
            raise IntegrityError(f"the disk lost the records of {num_lost} answers that were given")
        return sealed

    def _sealed(self, path: Path) -> Path:
        try:
            return _seal(path)
        except OSError:
            self._unkept.add(path)
            raise

    def _recover(self) -> int:
        files = segment_files(self.folder, self.gateway)
        following = _remembered(self.folder, self.gateway)
        if following is None:  # nothing was sealed so far, unless somebody removed it: then the last file tells
            whole = [read_segment(path, self._key) for path in files[-1:] if path.suffix == SEALED]
            following = max((first_sequence(one.path) + len(one.raw) for one in whole), default=0)
        for path in files:
            if path.suffix == OPEN:
                segment = read_segment(path, self._key)
                self.num_torn_bytes += segment.num_torn_bytes
                following = max(following, first_sequence(path) + len(segment.raw))
                self._finish(segment, following)
        return following

    def _finish(self, segment: Segment, following: int) -> Path | None:
        """Seal what an earlier run left open or the disk did not keep, in another file; remove it if it holds nothing."""
        path = segment.path
        if not segment.raw:
            remove(path, at="answers.empty")
            return None
        data = path.read_bytes()
        whole = data[: len(data) - segment.num_torn_bytes]
        if not segment.ended:
            seal = open_seal(data, self._key, self.gateway, first_sequence(path))
            assert seal is not None, "records were read, so there is a header"
            whole += seal.end(offset=len(whole), num_records=len(segment.raw))
        # An earlier run may have failed to sync it, of which a sync of this run would not be told.
        write_atomic(path, whole, at="answers.rewrite")
        _remember(self.folder, self.gateway, following)
        return _seal(path)

    def _look(self) -> int:
        """Return how many bytes of this gateway's wait to be moved, without the segment that is being written."""
        total = 0
        for path in segment_files(self.folder, self.gateway):
            try:
                total += 0 if path == self._path else path.stat().st_size
            except FileNotFoundError:  # moved since it was listed
                continue
        return total


def _marker(folder: Path, gateway: str) -> Path:
    return folder / f"{gateway}.next"


def _remember(folder: Path, gateway: str, following: int) -> None:
    write_atomic(_marker(folder, gateway), b"%d\n" % following, at="answers.next")


def _remembered(folder: Path, gateway: str) -> int | None:
    path = _marker(folder, gateway)
    try:
        return int(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise IntegrityError(
            "this file does not hold the number of the gateway's next answer",
            where=str(path),
            hint="write into it a number higher than any that the gateway gave out",
        ) from error


def _seal(path: Path) -> Path:
    sealed = path.with_suffix(SEALED)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync_file(descriptor, at="answers.seal")
    finally:
        os.close(descriptor)
    rename(path, sealed, at="answers.seal")
    sync_folder(path.parent, at="answers.seal")
    return sealed
