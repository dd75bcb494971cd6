"""Answer ids: what a client is given, and what it proves without any record.

An id is `ans_` and, in URL-safe base 64, `version u8 | sequence u48 | route revision u40 | time in ms u48 | gateway |
MAC`. The MAC is keyed BLAKE2b (RFC 7693) of 128 bits over all before it, under a key that only the hall has: an id that
opens was given out by this hall, by that gateway, at that time and under that revision of the routes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from binascii import b2a_base64
from collections.abc import Callable

import msgspec

from datahall.core.errors import IntegrityError

PREFIX = "ans_"
_PREFIX = PREFIX.encode()
MAX_GATEWAY_BYTES = 32
_VERSION = 2
_MAC_BYTES = 16
_HEAD = struct.Struct(">BIH")
"""Version, and the sequence in 32 and 16 bits."""
_TAIL = struct.Struct(">BI")
"""The revision in 8 and 32 bits; the time follows."""
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_HEAD_BYTES = 1 + 6 + 5 + 6


class AnswerIdParts(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer id says."""

    gateway: str
    sequence: int
    route_revision: int
    at_ns: int
    """Whole milliseconds."""


def answer_ids(gateway: str, key: bytes) -> Callable[[int, int], Callable[[int], bytes]]:
    """Return what makes ids for one gateway: first out of route revision and time in nanoseconds, then of sequences.

    `key` is the hall's answer key, at least 16 bytes. Ids are ASCII.
    """
    name = gateway.encode()
    assert 0 < len(name) <= MAX_GATEWAY_BYTES, "a gateway's id has 1 to 32 bytes"
    keyed = _keyed(key)

    def at(route_revision: int, at_ns: int) -> Callable[[int], bytes]:
        tail = _TAIL.pack(route_revision >> 32, route_revision & 0xFFFFFFFF)
        tail += (at_ns // 1_000_000).to_bytes(6, "big") + name

        def make(sequence: int) -> bytes:
            body = _HEAD.pack(_VERSION, sequence >> 16, sequence & 0xFFFF) + tail
            mac = keyed.copy()
            mac.update(body)
            # A third of the time of base64.urlsafe_b64encode.
            return _PREFIX + b2a_base64(body + mac.digest(), newline=False).translate(_URL_SAFE, b"=")

        return make

    return at


def make_answer_id(parts: AnswerIdParts, key: bytes) -> str:
    """Return the id's text."""
    return answer_ids(parts.gateway, key)(parts.route_revision, parts.at_ns)(parts.sequence).decode()


def open_answer_id(text: str, key: bytes) -> AnswerIdParts:
    """Return what `text` says. Raises IntegrityError where this hall never gave it out."""
    refused = IntegrityError(
        "this is not an answer id of this hall",
        where=text[:80],
        hint="copy it whole from the header Datahall-Answer-Id",
    )
    raw = _decode(text)
    if raw is None or not _HEAD_BYTES + _MAC_BYTES < len(raw) <= _HEAD_BYTES + _MAC_BYTES + MAX_GATEWAY_BYTES:
        raise refused
    body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(body, key)) or body[0] != _VERSION:
        raise refused
    return AnswerIdParts(
        gateway=body[_HEAD_BYTES:].decode(),
        sequence=int.from_bytes(body[1:7], "big"),
        route_revision=int.from_bytes(body[7:12], "big"),
        at_ns=int.from_bytes(body[12:18], "big") * 1_000_000,
    )


def _mac(body: bytes, key: bytes) -> bytes:
    mac = _keyed(key)
    mac.update(body)
    return mac.digest()


def _keyed(key: bytes) -> hashlib.blake2b:
    assert len(key) >= 16, "the answer key is too short to prove anything"
    return hashlib.blake2b(key=key, digest_size=_MAC_BYTES, person=b"datahall answer")


def _decode(text: str) -> bytes | None:
    """Return the bytes of an id's text, None unless it is exactly the text that `make_answer_id` would have written."""
    if not text.startswith(PREFIX) or len(text) > 120:
        return None
    body = text[len(PREFIX) :]
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == body else None
