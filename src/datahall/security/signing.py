"""Ed25519 signatures, and the DSSE envelope in which signed statements travel.

Sources: RFC 8032 (Ed25519); the secure-systems-lab Dead Simple Signing Envelope, version 1.0.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from datahall.core.canonical import canonical_json, digest_bytes
from datahall.core.errors import IntegrityError
from datahall.core.ports.signing import Signer

MAX_ENVELOPE_BYTES: Final = 16 * 1024 * 1024
"""Evidence is a few kilobytes; anything this long is not evidence, and is refused before it is parsed."""

_KEY_BYTES = 32


class Ed25519Signer:
    """Signs with one private key that never leaves the object, except by `private_raw`."""

    __slots__ = ("_key", "_key_id", "_public_key")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public_key = key.public_key().public_bytes_raw()
        self._key_id = key_id_of(self._public_key)

    @classmethod
    def generate(cls) -> Ed25519Signer:
        """Return a signer with a fresh random key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_private(cls, raw: bytes) -> Ed25519Signer:
        """Return the signer of a raw private key of 32 bytes.

        Raises IntegrityError for any other length.
        """
        if len(raw) != _KEY_BYTES:
            raise IntegrityError(f"an Ed25519 private key has {_KEY_BYTES} bytes, this one has {len(raw)}")
        return cls(Ed25519PrivateKey.from_private_bytes(raw))

    def private_raw(self) -> bytes:
        """Return the private key, 32 bytes, to be stored or handed to one job."""
        return self._key.private_bytes_raw()

    @property
    def key_id(self) -> str:
        """The SHA-256 of the raw public key, in hexadecimal."""
        return self._key_id

    @property
    def public_key(self) -> bytes:
        """The raw public key, 32 bytes."""
        return self._public_key

    def sign(self, message: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return self._key.sign(message)


def key_id_of(public_key: bytes) -> str:
    """Return the name of a raw public key: its SHA-256 in hexadecimal."""
    return digest_bytes(public_key)


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether `signature` over `message` was made with the private half of `public_key`.

    A key or signature of the wrong form does not verify; it is no error.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


class DsseOpened(msgspec.Struct, frozen=True, kw_only=True):
    """What a verified envelope held, and the key that signed it."""

    payload_type: str
    payload: bytes
    key_id: str


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keyid: str
    sig: str


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    payload: str
    payload_type: str
    signatures: list[_Signature]


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding: what is signed, so that type and payload cannot be confused."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def dsse_sign(signer: Signer, payload_type: str, payload: bytes) -> str:
    """Return `payload` in a DSSE envelope with one signature, as canonical JSON text."""
    signature = signer.sign(pae(payload_type, payload))
    envelope = _Envelope(_encode(payload), payload_type, [_Signature(signer.key_id, _encode(signature))])
    return canonical_json(envelope).decode()


def dsse_open(envelope: str, keys: Mapping[str, bytes]) -> DsseOpened:
    """Return what an envelope holds once its signature holds under one of `keys` (key id to raw public key).

    Only the one canonical text of an envelope is accepted: no two readers can see different payloads in it
    (duplicate keys, escapes), and the digest of the text is a name for it.
    Raises IntegrityError for every other text, several signatures, an unknown key, or a payload that was altered.
    """
    parsed = _parse(envelope)
    if len(parsed.signatures) != 1:
        raise IntegrityError(f"the envelope has {len(parsed.signatures)} signatures instead of one")
    signature = parsed.signatures[0]
    public_key = keys.get(signature.keyid)
    if public_key is None:
        raise IntegrityError(f"the envelope is signed by a key that is not known here: {signature.keyid[:80]!r}")
    if key_id_of(public_key) != signature.keyid:
        raise IntegrityError(f"the key listed as {signature.keyid} is another one")
    payload = _decode(parsed.payload, "payload")
    if not verify(public_key, pae(parsed.payload_type, payload), _decode(signature.sig, "signature")):
        raise IntegrityError("the envelope's signature does not fit its payload")
    return DsseOpened(payload_type=parsed.payload_type, payload=payload, key_id=signature.keyid)


def _parse(envelope: str) -> _Envelope:
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise IntegrityError(f"the envelope is longer than {MAX_ENVELOPE_BYTES} bytes")
    try:
        text = envelope.encode()
        parsed = msgspec.json.decode(text, type=_Envelope)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise IntegrityError(f"this is not a DSSE envelope: {error}") from error
    if canonical_json(parsed) != text:
        raise IntegrityError("the envelope is not in its canonical form")
    return parsed


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise IntegrityError(f"the envelope's {what} is not base64: {error}") from error
    if _encode(data) != text:  # the unused bits of the last character would be a second spelling
        raise IntegrityError(f"the envelope's {what} is not canonical base64")
    return data


if TYPE_CHECKING:
    _: Signer = Ed25519Signer.generate()
