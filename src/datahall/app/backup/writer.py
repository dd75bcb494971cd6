"""Writes a backup: members as they come, each compressed unless it is sealed already, then manifest and trailer."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from typing import BinaryIO, Literal, Self

import msgspec
import zstandard

from datahall.app.backup.cipher import FRAME_BYTES, FrameCipher
from datahall.app.backup.form import END, KEY_TEAM, MANIFEST, Header, Manifest, Member, encode_header, parts_of
from datahall.core.canonical import canonical_json
from datahall.security.keys import KeyRing

_LEVEL = 3  # zstd's own default, as for blobs


class ArchiveWriter:
    """Writes into an open file at its end; memory stays bounded by a few frames. Not for several threads."""

    def __init__(self, file: BinaryIO, header: Header, key: bytes) -> None:
        head = encode_header(header)
        self.header = header
        self.members: list[Member] = []
        self._file, self._cipher = file, FrameCipher(key, head)
        self._offset = 0
        self._put(head)

    @classmethod
    def begin(cls, file: BinaryIO, keys: KeyRing, origin: str) -> Self:
        """Return the writer of a new backup, under a fresh data key that only the hall's master key opens."""
        backup_id, key = secrets.token_hex(16), secrets.token_bytes(32)
        wrapped = keys.wrap(key, team=KEY_TEAM, object=backup_id)
        return cls(file, Header(id=backup_id, origin=origin, wrapped_key=wrapped), key)

    @property
    def num_bytes(self) -> int:
        """How long the file is by now."""
        return self._offset

    def add(self, name: str, chunks: Iterable[bytes], *, packing: Literal["zstd", "stored"] = "zstd") -> Member:
        """Write one member and return what the manifest will say of it."""
        parts_of(name)
        start, digest, size = self._offset, hashlib.sha256(), 0

        def counted() -> Iterable[bytes]:
            nonlocal size
            for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                yield chunk

        self._frames(_packed(counted()) if packing == "zstd" else counted(), len(self.members))
        member = Member(
            name=name,
            packing=packing,
            offset=start,
            stored_bytes=self._offset - start,
            size_bytes=size,
            sha256=digest.hexdigest(),
        )
        self.members.append(member)
        return member

    def finish(self, manifest: Manifest) -> Manifest:
        """Write the manifest with the members that there are, and the trailer; return the manifest."""
        manifest = msgspec.structs.replace(manifest, members=tuple(self.members))
        start = self._offset
        self._frames(_packed([canonical_json(manifest)]), MANIFEST)
        self._put(start.to_bytes(8, "big") + (self._offset - start).to_bytes(8, "big") + END)
        self._file.flush()
        return manifest

    def _frames(self, chunks: Iterable[bytes], member: int) -> None:
        held, index = bytearray(), 0
        for chunk in chunks:
            held += chunk
            while len(held) > FRAME_BYTES:  # the last frame is never known before there is no more
                self._put(self._cipher.seal(bytes(held[:FRAME_BYTES]), member=member, index=index, last=False))
                del held[:FRAME_BYTES]
                index += 1
        self._put(self._cipher.seal(bytes(held), member=member, index=index, last=True))

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._offset += len(data)


def _packed(chunks: Iterable[bytes]) -> Iterable[bytes]:
    compressor = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
    for chunk in chunks:
        yield compressor.compress(chunk)
    yield compressor.flush()
