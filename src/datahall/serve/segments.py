"""The answer log: append-only segments that have every answer's record before its client has the answer.

A segment is a file of `u32 length | u32 crc32 | record`, a record being an `Answer` as MessagePack. One write hands all
records of a batch to the kernel, so a killed gateway loses none; `sync`, called every 100 ms, bounds what a power cut
can take. The file being written is called `<gateway>-<first sequence>.open`; a full one is synced and renamed to
`.sealed`, after which it never changes.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from datahall.core.canonical import digest_bytes
from datahall.core.durable import rename, sync_data, sync_file, sync_folder
from datahall.core.errors import IntegrityError, NotFoundError, UnavailableError
from datahall.core.records import Answer
from datahall.serve.answers import AnswerIdParts

OPEN, SEALED = ".open", ".sealed"
_NAME = re.compile(r".+-[0-9]{15}\.(open|sealed)")
MAX_RECORD_BYTES = 1 << 16
_HEAD = struct.Struct(">II")
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Answer)


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """What one file holds: its answers in order, their raw bytes, and how many bytes at its end are no record."""

    path: Path
    answers: tuple[Answer, ...]
    raw: tuple[bytes, ...]
    num_torn_bytes: int


class AnswerLog:
    """Writes one gateway's segments. Only one may be open on a gateway's name at a time."""

    def __init__(
        self, folder: Path, gateway: str, *, now_ns: int, max_records: int = 20_000, max_age_ns: int = 60_000_000_000
    ) -> None:
        """Continue where the last run of this gateway ended.

        A segment that it left open is cut behind its last whole record and sealed; `num_torn_bytes` says how much was
        cut: the end of a write that never finished, so no client got that answer, unless power failed.
        """
        self.folder = folder
        self.gateway = gateway
        self.num_torn_bytes = 0
        self._max_records, self._max_age_ns = max_records, max_age_ns
        self._descriptor = -1
        self._path: Path | None = None
        self._num_records = 0
        self._opened_at_ns = now_ns
        self._dirty = False
        self.next_sequence = self._recover()

    def append(self, answers: Iterable[Answer]) -> None:
        """Hand the records to the kernel in one write; their sequences must continue the log's.

        Raises UnavailableError where they cannot be written: then the answers must not be given.
        """
        records = [_ENCODER.encode(answer) for answer in answers]
        data = b"".join(_HEAD.pack(len(record), zlib.crc32(record)) + record for record in records)
        try:
            if self._descriptor < 0:
                self._open()
            end = os.lseek(self._descriptor, 0, os.SEEK_CUR)
            self._write(data, end)
        except OSError as error:
            raise UnavailableError(
                f"the answer log cannot be written: {error.strerror}", hint="free some disk space, then ask again"
            ) from error
        self.next_sequence += len(records)
        self._num_records += len(records)
        self._dirty = True

    def sync(self) -> None:
        """Make everything appended survive a power cut."""
        if self._dirty:
            sync_data(self._descriptor, at="answers.sync")
            self._dirty = False

    def sync_work(self) -> Callable[[], None] | None:
        """Return `sync` as work for another thread, None where there is nothing to do."""
        if not self._dirty:
            return None
        descriptor = os.dup(self._descriptor)  # the log may seal its segment and close its own meanwhile
        self._dirty = False  # only now: where no descriptor was left, the next call must find the work again

        def work() -> None:
            try:
                sync_data(descriptor, at="answers.tick")
            finally:
                os.close(descriptor)

        return work

    def rotate(self, now_ns: int, *, force: bool = False) -> Path | None:
        """Seal the segment if it is full, a minute old, or `force`; return the sealed file, if any."""
        if self._path is None:
            self._opened_at_ns = now_ns
            return None
        old = now_ns - self._opened_at_ns >= self._max_age_ns
        if not (old or force or self._num_records >= self._max_records):
            return None
        self.sync()
        os.close(self._descriptor)
        sealed = _seal(self._path)
        self._descriptor, self._path, self._num_records, self._opened_at_ns = -1, None, 0, now_ns
        return sealed

    def close(self, now_ns: int) -> None:
        """Seal what is open."""
        self.rotate(now_ns, force=True)

    def _open(self) -> None:
        path = self.folder / f"{self.gateway}-{self.next_sequence:015d}{OPEN}"
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._path = path
        sync_folder(self.folder, at="answers.open")

    def _write(self, data: bytes, end: int) -> None:
        """Write all of `data`, or leave the file ending at `end` as it was."""
        try:
            written = 0
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError:
            os.ftruncate(self._descriptor, end)
            os.lseek(self._descriptor, end, os.SEEK_SET)
            raise

    def _recover(self) -> int:
        last = -1
        files = segment_files(self.folder, self.gateway)
        for path in [path for path in files[:-1] if path.suffix == OPEN] + files[-1:]:
            segment = read_segment(path)
            if path.suffix == OPEN:
                self.num_torn_bytes += segment.num_torn_bytes
                if segment.num_torn_bytes:
                    os.truncate(path, path.stat().st_size - segment.num_torn_bytes)
                _seal(path)
            last = max(last, first_sequence(path) - 1, *(answer.sequence for answer in segment.answers[-1:]))
        return last + 1


def segment_files(folder: Path, gateway: str | None = None) -> list[Path]:
    """Return the segments in `folder`, of one gateway or of all, ordered by gateway and first sequence.

    Whatever else somebody has put there is passed over.
    """
    return sorted(
        path
        for path in folder.iterdir()
        if _NAME.fullmatch(path.name) and (gateway is None or _gateway_of(path) == gateway)
    )


def read_segment(path: Path) -> Segment:
    """Return everything in one segment up to the first byte that is no whole record.

    Raises IntegrityError where a sealed segment has such a byte: sealed files are whole.
    """
    path, data = _read(path)
    answers, raw, offset = [], [], 0
    while offset + _HEAD.size <= len(data):
        length, crc = _HEAD.unpack_from(data, offset)
        record = data[offset + _HEAD.size : offset + _HEAD.size + length]
        if length > MAX_RECORD_BYTES or len(record) < length or zlib.crc32(record) != crc:
            break
        try:
            answers.append(_DECODER.decode(record))
        except msgspec.DecodeError:
            break
        raw.append(record)
        offset += _HEAD.size + length
    torn = len(data) - offset
    if torn and path.suffix == SEALED:
        raise IntegrityError(f"the last {torn} bytes are not a record", where=path.name)
    return Segment(path=path, answers=tuple(answers), raw=tuple(raw), num_torn_bytes=torn)


def segment_leaves(path: Path) -> list[bytes]:
    """Return one 32-byte leaf for each record, in order: the SHA-256 of the record, which holds its own random salt.

    A leaf tells nothing about its record to anyone who does not have it, so it can stay when the record is erased.
    """
    return [bytes.fromhex(digest_bytes(record)) for record in read_segment(path).raw]


def find(folder: Path, parts: AnswerIdParts) -> Answer:
    """Return the record of the answer that an opened id speaks of.

    Raises NotFoundError where it was erased by retention, or lost in a power cut.
    """
    candidates = [path for path in segment_files(folder, parts.gateway) if first_sequence(path) <= parts.sequence]
    for path in reversed(candidates):
        for answer in read_segment(path).answers:
            if answer.sequence == parts.sequence and answer.at_ns // 1_000_000 == parts.at_ns // 1_000_000:
                return answer
        break
    raise NotFoundError(
        "the answer was given by this hall, but its record is no longer kept",
        hint="answers are kept as long as the application's retention says",
    )


def locate(folder: Path, answer: Answer) -> tuple[Path, int]:
    """Return the segment of an answer, and its place among the segment's leaves. Raises NotFoundError."""
    for path in reversed(segment_files(folder, answer.gateway)):
        if first_sequence(path) <= answer.sequence:
            segment = read_segment(path)
            for index, found in enumerate(segment.answers):
                if found.id == answer.id:
                    return segment.path, index
    raise NotFoundError("no segment holds this answer")


def first_sequence(path: Path) -> int:
    """Return the sequence with which a segment begins, as its name says."""
    return int(path.stem.rpartition("-")[2])


def _read(path: Path) -> tuple[Path, bytes]:
    """Return a segment's bytes, also where its gateway sealed it a moment ago."""
    try:
        return path, path.read_bytes()
    except FileNotFoundError:
        sealed = path.with_suffix(SEALED)
        return sealed, sealed.read_bytes()


def _gateway_of(path: Path) -> str:
    return path.stem.rpartition("-")[0]


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
