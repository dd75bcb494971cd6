"""Mutating calls that can be made again: the same key gives the same answer, and has one effect however often it comes.

The answer is kept in the transaction of its effect, so there is no moment at which one is there without the other. It is
sealed (AES-256-GCM), since it may hold the text of a key; the caller and the request are bound into the seal.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from datahall.core.canonical import digest_bytes
from datahall.core.errors import UserError
from datahall.core.ports import Catalogue
from datahall.core.records import Call

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"
_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_NONCE_BYTES: Final = 12


class Once(msgspec.Struct, frozen=True):
    """A call by its idempotency key: `id` names caller and key, `request` is the digest of all that was asked."""

    id: str
    request: str


def once_of(key: str, caller: str, method: str, path: str, body: bytes) -> Once:
    """Return what names a call. Raises UserError for a key that is none. Keys of different callers never meet."""
    if not _KEY.fullmatch(key):
        raise UserError(f"{HEADER} takes 1 to 200 visible ASCII characters", where=HEADER, hint="send a UUID")
    return Once(
        id=digest_bytes(f"{caller}\0{key}".encode()),
        request=digest_bytes(f"{method}\0{path}\0".encode() + body),
    )


class Calls:
    """Keeps answers and gives them again. `key` (32 bytes) seals them."""

    def __init__(self, catalogue: Catalogue, key: bytes) -> None:
        self._catalogue = catalogue
        self._cipher = AESGCM(key)

    def answered(self, once: Once) -> bytes | None:
        """Return the answer that this call got before, None for a new one.

        Raises ConflictError where its key was used for another request.
        """
        sealed = self._catalogue.reply(once.id, once.request)
        if sealed is None:
            return None
        return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _bound(once))

    def call(self, once: Once | None, answer: object) -> Call | None:
        """Return what an act takes along so that `answer` is given again; None for a call without a key."""
        if once is None:
            return None
        nonce = secrets.token_bytes(_NONCE_BYTES)
        reply = nonce + self._cipher.encrypt(nonce, msgspec.json.encode(answer), _bound(once))
        return Call(id=once.id, request=once.request, reply=reply)


def _bound(once: Once) -> bytes:
    return f"datahall call\0{once.id}\0{once.request}".encode()
