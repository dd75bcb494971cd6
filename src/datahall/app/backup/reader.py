"""Reads a backup, and believes nothing in it that is not authenticated: a byte that was changed is found before use."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec
import zstandard

from datahall.app.backup.cipher import FRAME_BYTES, TAG_BYTES, FrameCipher
from datahall.app.backup.form import (
    END,
    KEY_TEAM,
    MAGIC,
    MANIFEST,
    MAX_HEADER_BYTES,
    MAX_MANIFEST_BYTES,
    TRAILER_BYTES,
    Header,
    Manifest,
    Member,
    decode_manifest,
    num_frames,
)
from datahall.app.origin import origin_of
from datahall.core.errors import IntegrityError, NotFoundError, UserError
from datahall.security.keys import KeyRing

_STORED_FRAME_BYTES = FRAME_BYTES + TAG_BYTES
_WINDOW_BYTES = 1 << 24  # the most that zstd may remember while it decompresses; level 3 needs 2 MiB
_CHUNK_BYTES = 1 << 20


class Archive:
    """An open backup: `header` and `manifest` are checked, members are as they are read. Close it, or use `with`."""

    def __init__(self, file: BinaryIO, where: str, keys: KeyRing) -> None:
        """Read header, trailer and manifest.

        Raises IntegrityError for what is no whole backup, UserError where `keys` are not those of its hall.
        """
        self._file, self.where = file, where
        self.num_bytes = os.fstat(file.fileno()).st_size
        self.header, head = self._read_header()
        self._cipher = FrameCipher(_data_key(self.header, keys, where), head)
        start, length = self._read_trailer(len(head))
        plain = self._plain(MANIFEST, start, length, "zstd", MAX_MANIFEST_BYTES)
        self.manifest: Manifest = decode_manifest(b"".join(plain), self.header, len(head), start)

    @classmethod
    def open(cls, path: Path, keys: KeyRing) -> Self:
        """Open the backup at `path`. Raises NotFoundError where there is no file, and as the constructor does."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise NotFoundError("there is no such backup", where=str(path)) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UserError("this is not a file", where=str(path))
        file = os.fdopen(descriptor, "rb")
        try:
            return cls(file, str(path), keys)
        except BaseException:  # a refused file must not stay open
            file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, number: int) -> Iterator[bytes]:
        """Yield the plain bytes of the member of that number in the manifest.

        Raises IntegrityError, at the end at the latest, unless all of them are right.
        """
        member, digest = self.manifest.members[number], hashlib.sha256()
        for chunk in self._plain(number, member.offset, member.stored_bytes, member.packing, member.size_bytes):
            digest.update(chunk)
            yield chunk
        self._check_digest(member, digest.hexdigest())

    def check(self) -> Iterator[Member]:
        """Read every member to its end and yield it. Raises IntegrityError at the first that is not right."""
        for number, member in enumerate(self.manifest.members):
            for _ in self.read(number):
                pass
            yield member

    def _check_digest(self, member: Member, digest: str) -> None:
        if digest != member.sha256:
            raise IntegrityError(
                "the bytes are not those that the manifest names", where=f"{self.where}: {member.name}"
            )

    def _read_header(self) -> tuple[Header, bytes]:
        start = self._file.read(len(MAGIC) + 4)
        length = int.from_bytes(start[len(MAGIC) :], "big")
        if start[: len(MAGIC)] != MAGIC or len(start) < len(MAGIC) + 4 or length > MAX_HEADER_BYTES:
            raise IntegrityError("this is no backup of a hall", where=self.where)
        text = self._file.read(length)
        try:
            header = msgspec.json.decode(text, type=Header)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise IntegrityError("the backup's header cannot be read", where=self.where) from error
        return header, start + text  # whether these are the bytes that were written, every frame will tell

    def _read_trailer(self, head_bytes: int) -> tuple[int, int]:
        """Return where the manifest begins and how long it is."""
        if self.num_bytes < head_bytes + TRAILER_BYTES:
            raise self._cut_off()
        self._file.seek(self.num_bytes - TRAILER_BYTES)
        trailer = self._file.read(TRAILER_BYTES)
        start, length = int.from_bytes(trailer[:8], "big"), int.from_bytes(trailer[8:16], "big")
        if trailer[16:] != END or start < head_bytes or start + length + TRAILER_BYTES != self.num_bytes:
            raise self._cut_off()
        return start, length

    def _cut_off(self) -> IntegrityError:
        return IntegrityError(
            "the backup does not end as it should: it was cut off or altered",
            where=self.where,
            hint="copy it again from where it came, or take another backup",
        )

    def _plain(self, number: int, start: int, length: int, packing: str, limit_bytes: int) -> Iterator[bytes]:
        frames = self._frames(number, start, length)
        yield from _limited(_unpacked(frames) if packing == "zstd" else frames, limit_bytes, number != MANIFEST)

    def _frames(self, number: int, start: int, length: int) -> Iterator[bytes]:
        total = num_frames(length)
        if not total:
            raise self._cut_off()
        for index in range(total):
            self._file.seek(start + index * _STORED_FRAME_BYTES)
            frame = self._file.read(min(_STORED_FRAME_BYTES, length - index * _STORED_FRAME_BYTES))
            yield self._cipher.open(frame, member=number, index=index, last=index == total - 1)


class _Source:
    """What the decompressor reads from: frames, one at a time."""

    def __init__(self, frames: Iterator[bytes]) -> None:
        self._frames, self._rest = frames, b""

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`; none at the end."""
        if not self._rest:
            self._rest = next(self._frames, b"")
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


def _unpacked(frames: Iterator[bytes]) -> Iterator[bytes]:
    source = _Source(frames)
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
    # The reader gives out what is asked for and no more, however much a few bytes would become.
    reader = decompressor.stream_reader(source, read_across_frames=False, closefd=False)  # type: ignore[arg-type]  # it reads, which is all
    try:
        while chunk := reader.read(_CHUNK_BYTES):
            yield chunk
    except zstandard.ZstdError as error:
        raise IntegrityError(f"a member cannot be decompressed: {error}") from error


def _limited(chunks: Iterator[bytes], limit_bytes: int, exact: bool) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > limit_bytes:
            break
        yield chunk
    if size > limit_bytes or (exact and size != limit_bytes):
        raise IntegrityError("a member does not have the size that the manifest says")


def _data_key(header: Header, keys: KeyRing, where: str) -> bytes:
    ours = origin_of(keys.signer)
    if header.origin != ours:
        raise UserError(
            f"these are not the keys of this backup: it is one of {header.origin}, they are those of {ours}",
            where=where,
            hint="give the keys folder of the hall that it was made of: --keys DIR",
        )
    try:
        return keys.unwrap(header.wrapped_key, team=KEY_TEAM, object=header.id)
    except IntegrityError as error:
        raise UserError(
            "these keys do not open this backup: it was altered, or its hall has had another master key since",
            where=where,
            hint="give the newest copy of that hall's keys folder: --keys DIR",
        ) from error
