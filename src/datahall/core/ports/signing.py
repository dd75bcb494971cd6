"""Making and checking signatures without seeing the key."""

from __future__ import annotations

from typing import Protocol


class Signer(Protocol):
    """Signs with one Ed25519 key (RFC 8032)."""

    @property
    def key_id(self) -> str:
        """The SHA-256 of the raw public key, in hexadecimal."""

    @property
    def public_key(self) -> bytes:
        """The raw public key, 32 bytes."""

    def sign(self, message: bytes) -> bytes:
        """Return the signature, 64 bytes."""


class Witness(Protocol):
    """A place outside the hall that remembers tree heads, so that a rolled-back hall is noticed."""

    def newest(self, origin: str) -> str | None:
        """Return the newest checkpoint note seen of `origin`, None if there is none."""

    def publish(self, origin: str, note: str) -> None:
        """Remember `note` as the newest of `origin`."""
