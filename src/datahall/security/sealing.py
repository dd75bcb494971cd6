"""The sealed form of a stored object: compressed, then encrypted in frames that fit nowhere else.

An object is the line `DHBLOB1` and then frames of AES-256-GCM (NIST SP 800-38D) over 1 MiB each of the zstd-compressed
bytes, only the last one shorter. The nonce is the frame's index and a flag on the last frame (the STREAM construction
of Hoang, Reyhanitabar, Rogaway and Vizar, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance",
2015); it never repeats under a key because every object has a random key of its own. The associated data binds team,
object name, index and number of frames.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from datahall.core.canonical import digest_bytes
from datahall.core.errors import DataError, IntegrityError, UserError
from datahall.core.records import Grant

FRAME_BYTES: Final = 1 << 20
MAX_OBJECT_BYTES: Final = 4 << 30
"""Objects pass through memory whole; a larger one is refused on both ways."""

_MAGIC: Final = b"DHBLOB1\n"
_TAG_BYTES: Final = 16
_STORED_FRAME_BYTES: Final = FRAME_BYTES + _TAG_BYTES
_LEVEL: Final = 3  # zstd's own default: a higher one costs seconds a gigabyte for a few per cent
_TEAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OBJECT = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{32}")


def is_team_name(name: str) -> bool:
    """Return whether `name` is a plain name that stays inside a folder."""
    return _TEAM.fullmatch(name) is not None


def check_team(team: str) -> str:
    """Return `team`. Raises UserError unless it is a plain name that stays inside a folder."""
    if not is_team_name(team):
        raise UserError(
            f"'{team[:80]}' cannot be a team's name",
            hint="use letters, digits, '.', '_' and '-', at most 64, the first one a letter or digit",
        )
    return team


def is_object_name(name: str) -> bool:
    """Return whether `name` has the form of an object's name."""
    return _OBJECT.fullmatch(name) is not None


def check_object(name: str) -> str:
    """Return `name`. Raises UserError unless it is an object's name: digest, dot, 32 random hexadecimal digits."""
    if not is_object_name(name):
        raise UserError(f"'{name[:120]}' is not the name of an object")
    return name


def max_sealed_bytes(size_bytes: int) -> int:
    """Return how long an object of `size_bytes` plain bytes can be at most once sealed (zstd's own bound)."""
    packed = size_bytes + (size_bytes >> 8) + 1024
    return len(_MAGIC) + packed + _TAG_BYTES * (packed // FRAME_BYTES + 1)


def seal(data: bytes | memoryview, *, team: str) -> tuple[Grant, bytes]:
    """Return the right to read `data` again, and the bytes to store under the name in it.

    Raises DataError for more than MAX_OBJECT_BYTES, UserError for an impossible team.
    """
    check_team(team)
    view = memoryview(data).cast("B")
    if len(view) > MAX_OBJECT_BYTES:
        raise DataError(f"an object holds at most {MAX_OBJECT_BYTES} bytes, this one has {len(view)}")
    digest = digest_bytes(view)
    grant = Grant(
        digest=digest,
        object=f"{digest}.{secrets.token_hex(16)}",
        size_bytes=len(view),
        key=AESGCM.generate_key(bit_length=256),
    )
    packed = memoryview(zstandard.ZstdCompressor(level=_LEVEL).compress(view))
    cipher = AESGCM(grant.key)
    total = -(-len(packed) // FRAME_BYTES)
    frames = [_MAGIC]
    for index in range(total):
        plain = packed[index * FRAME_BYTES : (index + 1) * FRAME_BYTES]
        frames.append(cipher.encrypt(_nonce(index, total), plain, _bound(team, grant.object, index, total)))
    return grant, b"".join(frames)


def unseal(stored: bytes, grant: Grant, *, team: str) -> bytes:
    """Return the plain bytes of a stored object.

    Raises IntegrityError for anything but exactly what was sealed for this grant and team.
    """
    check_grant(grant)
    packed = _decrypt(memoryview(stored), grant, team)
    data = _decompress(packed, grant)
    if digest_bytes(data) != grant.digest:
        raise IntegrityError("the object's bytes are not those that its digest names", where=grant.object)
    return data


def check_grant(grant: Grant) -> None:
    """Raise IntegrityError for a grant that `seal` cannot have made, before it names a file or a size."""
    if (
        not is_object_name(grant.object)
        or not grant.object.startswith(f"{grant.digest}.")
        or len(grant.key) != 32
        or not 0 <= grant.size_bytes <= MAX_OBJECT_BYTES
    ):
        raise IntegrityError("the right to read this object is malformed", where=grant.object[:120])


def _decrypt(stored: memoryview, grant: Grant, team: str) -> bytes:
    body = stored[len(_MAGIC) :]
    if bytes(stored[: len(_MAGIC)]) != _MAGIC or not body:
        raise IntegrityError("this is not a stored object", where=grant.object)
    cipher = AESGCM(grant.key)
    total = -(-len(body) // _STORED_FRAME_BYTES)
    frames = []
    for index in range(total):
        frame = body[index * _STORED_FRAME_BYTES : (index + 1) * _STORED_FRAME_BYTES]
        try:
            frames.append(cipher.decrypt(_nonce(index, total), frame, _bound(team, grant.object, index, total)))
        except (InvalidTag, ValueError) as error:  # ValueError: shorter than a tag
            raise IntegrityError(
                f"frame {index + 1} of {total} is not what was stored under this name, team and key",
                where=grant.object,
                hint="restore the object from a backup",
            ) from error
    return b"".join(frames)


def _decompress(packed: bytes, grant: Grant) -> bytes:
    # Whoever made the grant also made the object: the size it claims is checked before memory is taken for it.
    try:
        if zstandard.get_frame_parameters(packed).content_size != grant.size_bytes:
            raise IntegrityError("the object does not have the size that was promised", where=grant.object)
        data = zstandard.ZstdDecompressor().decompress(packed, max_output_size=grant.size_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"the object cannot be decompressed: {error}", where=grant.object) from error
    if len(data) != grant.size_bytes:
        raise IntegrityError("the object does not have the size that was promised", where=grant.object)
    return data


def _nonce(index: int, total: int) -> bytes:
    return index.to_bytes(11, "big") + (b"\x01" if index == total - 1 else b"\x00")


def _bound(team: str, object_name: str, index: int, total: int) -> bytes:
    return f"datahall blob 1\0{team}\0{object_name}\0{index}\0{total}".encode()
