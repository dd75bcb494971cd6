"""Reads the answer log's files: what each holds, which there are, and where an answer's record lies among them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from datahall.core.errors import IntegrityError, NotFoundError
from datahall.core.records import Answer
from datahall.serve.answers import AnswerIdParts
from datahall.serve.segment_format import open_seal

OPEN, SEALED = ".open", ".sealed"
_NAME = re.compile(r".+-[0-9]{15}\.(open|sealed)")
_DECODER = msgspec.msgpack.Decoder(Answer)


class _Time(msgspec.Struct, array_like=True):
    """All of a record that is read to seal it: its first field."""

    at_ns: int


_TIMES = msgspec.msgpack.Decoder(_Time)


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """What one file holds: its records in order, as they were written, and how many bytes at its end are none."""

    path: Path
    raw: tuple[bytes, ...]
    num_torn_bytes: int
    ended: bool
    """Whether its writer said that nothing follows."""

    @property
    def answers(self) -> tuple[Answer, ...]:
        """What the records say. Raises IntegrityError where another version of Datahall wrote them."""
        return decode(self.raw, self.path.name)

    def answer(self, index: int) -> Answer:
        """Return what one record says. Raises IndexError, and IntegrityError as `answers` does."""
        return decode([self.raw[index]], self.path.name)[0]

    def times_ns(self) -> list[int]:
        """Return when each answer was given, which is told without reading the rest of the records.

        Raises IntegrityError as `answers` does.
        """
        try:
            return [_TIMES.decode(record).at_ns for record in self.raw]
        except msgspec.DecodeError as error:
            raise _other_form(error, self.path.name) from error


def segment_files(folder: Path, gateway: str | None = None) -> list[Path]:
    """Return the segments in `folder`, of one gateway or of all, ordered by gateway and first sequence.

    Whatever else somebody has put there is passed over.
    """
    return sorted(
        path
        for path in folder.iterdir()
        if _NAME.fullmatch(path.name) and (gateway is None or gateway_of(path) == gateway)
    )


def read_segment(path: Path, key: bytes) -> Segment:
    """Return everything in one segment up to the first byte that is no whole write; `key` is the hall's answer key.

    Raises IntegrityError where a sealed segment has such a byte or no end, since sealed files are whole, and where the
    segment was written under another key. Raises FileNotFoundError where it has moved into the blob store.
    """
    path, data = _read(path)
    try:
        seal = open_seal(data, key, gateway_of(path), first_sequence(path))
    except IntegrityError as error:
        raise IntegrityError(error.what, where=path.name, hint=error.hint) from error
    if seal is None:
        records: list[bytes] = []
        num_whole_bytes, ended = 0, False
    else:
        records, num_whole_bytes, ended = seal.read(data)
    torn = len(data) - num_whole_bytes
    if path.suffix == SEALED and (torn or not ended):
        what = f"the last {torn} bytes are not a record" if torn else "its end is missing"
        raise IntegrityError(what, where=path.name)
    return Segment(path=path, raw=tuple(records), num_torn_bytes=torn, ended=ended)


def decode(records: Sequence[bytes], where: str) -> tuple[Answer, ...]:
    """Return the answers of authentic records. Raises IntegrityError where another version of Datahall wrote them."""
    try:
        return tuple(_DECODER.decode(record) for record in records)
    except msgspec.DecodeError as error:
        raise _other_form(error, where) from error


def _other_form(error: msgspec.DecodeError, where: str) -> IntegrityError:
    return IntegrityError(f"a record has another form than this version writes: {error}", where=where)


def find_local(folder: Path, parts: AnswerIdParts, key: bytes) -> tuple[Segment, int]:
    """Return the segment on this disk that holds an answer, and its place in it.

    Raises NotFoundError where none does: the segment has moved, or the record was lost. Raises IntegrityError where the
    segment that should hold it cannot be read.
    """
    for path in reversed(segment_files(folder, parts.gateway)):
        if first_sequence(path) > parts.sequence:
            continue
        try:
            segment = read_segment(path, key)
        except FileNotFoundError:  # moved since it was listed
            break
        index = parts.sequence - first_sequence(path)
        if index < len(segment.raw) and is_of(segment.answer(index), parts):
            return segment, index
        break
    raise NotFoundError("no segment on this disk holds this answer")


def is_of(answer: Answer, parts: AnswerIdParts) -> bool:
    """Return whether an id speaks of this answer.

    The time counts: numbers whose records a power cut took are given out again.
    """
    return (answer.gateway, answer.sequence, answer.at_ns // 1_000_000) == (
        parts.gateway,
        parts.sequence,
        parts.at_ns // 1_000_000,
    )


def first_sequence(path: Path) -> int:
    """Return the sequence with which a segment begins, as its name says."""
    return int(path.stem.rpartition("-")[2])


def gateway_of(path: Path) -> str:
    """Return whose segment this is, as its name says."""
    return path.stem.rpartition("-")[0]


def _read(path: Path) -> tuple[Path, bytes]:
    """Return a segment's bytes, also where its gateway sealed it a moment ago."""
    try:
        return path, path.read_bytes()
    except FileNotFoundError:
        sealed = path.with_suffix(SEALED)
        return sealed, sealed.read_bytes()
