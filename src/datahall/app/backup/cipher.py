"""Sealed frames: bytes of any length, encrypted in pieces that fit nowhere but in their own place of their own backup.

AES-256-GCM (NIST SP 800-38D) over 1 MiB each, only the last one shorter. The nonce is member, index and a flag on the
last frame (the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizar, 2015); it never repeats under a key,
because every backup has a random key of its own and seals each of its members once. The associated data binds the
file's header, and with it the backup's id.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from datahall.core.canonical import digest_bytes
from datahall.core.errors import IntegrityError

FRAME_BYTES: Final = 1 << 20
TAG_BYTES: Final = 16


class FrameCipher:
    """Seals and opens the frames of one backup: `key` has 32 bytes, `head` is the file up to its first member."""

    def __init__(self, key: bytes, head: bytes) -> None:
        self._cipher = AESGCM(key)
        self._head = digest_bytes(head)

    def seal(self, plain: bytes | memoryview, *, member: int, index: int, last: bool) -> bytes:
        """Return the frame that holds `plain`, TAG_BYTES longer."""
        return self._cipher.encrypt(_nonce(member, index, last), plain, self._bound(member, index, last))

    def open(self, frame: bytes, *, member: int, index: int, last: bool) -> bytes:
        """Return what a frame holds. Raises IntegrityError unless it was sealed for exactly this place."""
        try:
            return self._cipher.decrypt(_nonce(member, index, last), frame, self._bound(member, index, last))
        except (InvalidTag, ValueError) as error:  # ValueError: shorter than a tag
            raise IntegrityError(
                f"frame {index + 1} of member {member} was altered, or belongs elsewhere",
                hint="take another backup: no part of this one can be trusted",
            ) from error

    def _bound(self, member: int, index: int, last: bool) -> bytes:
        return f"datahall backup 1\0{self._head}\0{member}\0{index}\0{int(last)}".encode()


def _nonce(member: int, index: int, last: bool) -> bytes:
    return member.to_bytes(4, "big") + index.to_bytes(7, "big") + (b"\x01" if last else b"\x00")
