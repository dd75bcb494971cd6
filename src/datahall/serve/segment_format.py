r"""The bytes of an answer log segment: a header, one encrypted frame a write, and an end mark once nothing follows.

    header   `DHANSW2\n` | salt, 16 random bytes | check, 16 bytes
    frame    u32 length | u64 counter | AES-256-GCM of the write's records, a MessagePack array
    end      u32 2^32 - 1 | MAC, 16 bytes

Two keys come of the hall's answer key, the salt, the gateway and the first sequence (HMAC-SHA512 as a PRF, RFC 2104):
one encrypts, one authenticates header and end. A frame's nonce is its counter, which counts attempts, not successes: bytes
of a failed write may be on the disk, and its number is not used again. A file is never appended to after a restart, and
has a salt of its own, so no nonce repeats under a key (NIST SP 800-38D, 8.2.1). The associated data binds a frame to its
place in the file and to its first sequence; gateway and segment are bound by the key.
"""

from __future__ import annotations

import hmac
import os
import struct
from typing import Final, NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from datahall.core.errors import IntegrityError

HEADER_BYTES: Final = 40
MAX_FRAME_BYTES: Final = 64 << 20

_MAGIC: Final = b"DHANSW2\n"
_FAMILY: Final = b"DHANSW"
_SALT_BYTES: Final = 16
_MAC_BYTES: Final = 16
_FRAME: Final = struct.Struct(">IQ")
_LENGTH: Final = struct.Struct(">I")
_RECORDS: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])
_PLACE: Final = struct.Struct(">QQ")
_END: Final = _LENGTH.pack(2**32 - 1)


class Frames(NamedTuple):
    """What could be read: the records in order, how many bytes held them, and whether an end mark closed them."""

    records: list[bytes]
    num_whole_bytes: int
    ended: bool


class SegmentSeal:
    """Encrypts one segment's frames and opens them again; `salt` None starts a new segment."""

    __slots__ = ("_cipher", "_counter", "_first", "_mac_key", "salt")

    def __init__(self, key: bytes, gateway: str, first_sequence: int, salt: bytes | None = None) -> None:
        assert len(key) >= 16, "the answer key is too short to hide anything"
        self.salt = os.urandom(_SALT_BYTES) if salt is None else salt
        bound = b"datahall answer segment\0" + self.salt + first_sequence.to_bytes(8, "big") + gateway.encode()
        keys = hmac.digest(key, bound, "sha512")
        self._cipher, self._mac_key = AESGCM(keys[:32]), keys[32:]
        self._first = first_sequence
        self._counter = 0

    def header(self) -> bytes:
        """Return the bytes with which the segment begins."""
        return _MAGIC + self.salt + self._mac(b"header")

    def frame(self, records: bytes, *, offset: int, index: int) -> bytes:
        """Return the frame of one write at `offset` in the file: an encoded array, whose first record is the segment's `index`-th."""
        counter, self._counter = self._counter, self._counter + 1
        sealed = self._cipher.encrypt(_nonce(counter), records, _PLACE.pack(offset, self._first + index))
        return _FRAME.pack(len(sealed), counter) + sealed

    def end(self, *, offset: int, num_records: int) -> bytes:
        """Return the mark after which nothing follows; a sealed segment without it was cut."""
        return _END + self._mac(b"end" + _PLACE.pack(offset, num_records))

    def read(self, data: bytes) -> Frames:
        """Return the records of all whole frames, up to the first byte that belongs to none."""
        records: list[bytes] = []
        offset = HEADER_BYTES
        while offset + _LENGTH.size <= len(data):
            if data.startswith(_END, offset):
                mark = self.end(offset=offset, num_records=len(records))
                ended = hmac.compare_digest(data[offset : offset + len(mark)], mark)
                return Frames(records, offset + len(mark) if ended else offset, ended)
            found = self._open(data, offset, len(records))
            if found is None:
                break
            records += found[0]
            offset = found[1]
        return Frames(records, offset, ended=False)

    def _open(self, data: bytes, offset: int, index: int) -> tuple[list[bytes], int] | None:
        if offset + _FRAME.size > len(data):
            return None
        length, counter = _FRAME.unpack_from(data, offset)
        start, stop = offset + _FRAME.size, offset + _FRAME.size + length
        if length > MAX_FRAME_BYTES or stop > len(data):
            return None
        try:
            plain = self._cipher.decrypt(_nonce(counter), data[start:stop], _PLACE.pack(offset, self._first + index))
        except (InvalidTag, ValueError):  # ValueError: shorter than a tag
            return None
        return [bytes(record) for record in _RECORDS.decode(plain)], stop

    def _mac(self, what: bytes) -> bytes:
        return hmac.digest(self._mac_key, what, "sha256")[:_MAC_BYTES]


def open_seal(data: bytes, key: bytes, gateway: str, first_sequence: int) -> SegmentSeal | None:
    """Return the seal of a segment's bytes, None where not even the header was wholly written before power failed.

    Raises IntegrityError for a header that was made under another key, by another version of Datahall, or for another
    gateway or place in the log: reading on would take every record for a torn one.
    """
    if len(data) < HEADER_BYTES:
        return None
    if not data.startswith(_MAGIC):
        if not data.startswith(_FAMILY):
            return None
        raise IntegrityError(
            "another version of Datahall wrote this answer segment",
            hint="start the version that wrote it once more, and stop it: it seals what is open",
        )
    seal = SegmentSeal(key, gateway, first_sequence, data[len(_MAGIC) : len(_MAGIC) + _SALT_BYTES])
    if not hmac.compare_digest(seal.header(), data[:HEADER_BYTES]):
        raise IntegrityError(
            "this is no answer segment of this hall, gateway and place",
            hint="is keys/answers.key the one under which it was written?",
        )
    return seal


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")
