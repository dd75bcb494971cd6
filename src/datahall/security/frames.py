"""One frame of a stored object: compressed where that helps, encrypted so that it fits one place only.

A stored frame is a flag byte (1: compressed with zstd, 0: as it was) and AES-256-GCM (NIST SP 800-38D) over at most
1 MiB of the object. The nonce is the frame's index and a mark on the last frame (the STREAM construction of Hoang,
Reyhanitabar, Rogaway and Vizar, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015); it
never repeats under a key because every object has a random key of its own. The associated data binds format version,
team, object name, index and flag. The index of frame lengths is sealed likewise, under a mark of its own.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from typing import Final, NamedTuple

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from datahall.core.errors import IntegrityError

FRAME_BYTES: Final = 1 << 20
TAG_BYTES: Final = 16
FRAME_EXTRA_BYTES: Final = 1 + TAG_BYTES
"""What a frame is longer at most than the bytes in it."""

_LEVEL: Final = 1  # level 3 takes three times as long for three per cent fewer bytes
_RAW: Final = 0
_PACKED: Final = 1
_MIDDLE, _LAST, _INDEX = b"\x00", b"\x01", b"\x02"
_local = threading.local()


class Place(NamedTuple):
    """What a frame is bound to besides its index: whose object it is in, and the key of that object alone."""

    key: bytes
    team: str
    object: str


def num_frames(size_bytes: int) -> int:
    """Return how many frames hold `size_bytes`; none for an empty object."""
    return -(-size_bytes // FRAME_BYTES)


def index_bytes(num: int) -> int:
    """Return the stored length of the index over `num` frames."""
    return 4 * num + TAG_BYTES


def seal_frame(place: Place, index: int, plain: bytes | memoryview, *, last: bool) -> bytearray:
    """Return the stored form of one frame."""
    packed: bytes | memoryview = _compressor().compress(plain)
    flag = _PACKED if len(packed) < len(plain) else _RAW
    body = packed if flag == _PACKED else plain
    stored = bytearray(len(body) + FRAME_EXTRA_BYTES)
    stored[0] = flag
    # A cipher a frame: no promise is needed that one may be shared by threads, and it costs a microsecond.
    AESGCM(place.key).encrypt_into(_nonce(index, last), body, bound(place, index, flag), memoryview(stored)[1:])
    return stored


def open_frame(place: Place, index: int, stored: bytes | memoryview, *, size_bytes: int, last: bool) -> bytes:
    """Return the `size_bytes` plain bytes of one frame. Raises IntegrityError for anything but what was sealed there."""
    view = memoryview(stored)
    flag = view[0] if view else -1
    if flag not in {_RAW, _PACKED}:
        raise IntegrityError(f"frame {index + 1} is not a frame", where=place.object)
    try:
        body = AESGCM(place.key).decrypt(_nonce(index, last), view[1:], bound(place, index, flag))
    except (InvalidTag, ValueError) as error:  # ValueError: shorter than a tag
        raise IntegrityError(
            f"frame {index + 1} is not what was stored under this name, team and key",
            where=place.object,
            hint="restore the object from a backup",
        ) from error
    plain = body if flag == _RAW else _unpack(body, size_bytes, place)
    if len(plain) != size_bytes:
        raise IntegrityError("the object does not have the size that was promised", where=place.object)
    return plain


def seal_index(place: Place, lengths: Sequence[int]) -> bytes:
    """Return the stored form of the frames' lengths."""
    plain = struct.pack(f"<{len(lengths)}I", *lengths)
    return AESGCM(place.key).encrypt(_nonce_of(len(lengths), _INDEX), plain, bound(place, len(lengths), "index"))


def open_index(place: Place, num: int, stored: bytes | memoryview) -> tuple[int, ...]:
    """Return the lengths of `num` stored frames. Raises IntegrityError unless they were sealed for this object."""
    try:
        plain = AESGCM(place.key).decrypt(_nonce_of(num, _INDEX), stored, bound(place, num, "index"))
    except (InvalidTag, ValueError) as error:  # ValueError: shorter than a tag
        raise IntegrityError(
            "the object's index is not what was stored under this name, team, size and key",
            where=place.object,
            hint="restore the object from a backup",
        ) from error
    return struct.unpack(f"<{num}I", plain)


def bound(place: Place, index: int, what: int | str) -> bytes:
    """Return the associated data of a frame: everything that it must not be moved between."""
    return f"datahall blob 2\0{place.team}\0{place.object}\0{index}\0{what}".encode()


def _unpack(body: bytes, size_bytes: int, place: Place) -> bytes:
    # Whoever made the grant also made the object: the size it claims is checked before memory is taken for it.
    try:
        if zstandard.get_frame_parameters(body).content_size != size_bytes:
            raise IntegrityError("the object does not have the size that was promised", where=place.object)
        return _decompressor().decompress(body, max_output_size=size_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"the object cannot be decompressed: {error}", where=place.object) from error


def _nonce(index: int, last: bool) -> bytes:
    return _nonce_of(index, _LAST if last else _MIDDLE)


def _nonce_of(index: int, mark: bytes) -> bytes:
    return index.to_bytes(11, "big") + mark


def _compressor() -> zstandard.ZstdCompressor:
    # One a thread: they cannot be shared, and a new one for each frame would cost more than a small frame itself.
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(level=_LEVEL)
    made: zstandard.ZstdCompressor = _local.compressor
    return made


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor()
    made: zstandard.ZstdDecompressor = _local.decompressor
    return made
