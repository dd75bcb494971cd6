"""Signed tree heads as text: the C2SP tlog-checkpoint body inside a C2SP signed-note.

The text is origin, size and base64 root, one a line, then an empty line, then `— name base64(key hash || signature)`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from datahall.core.errors import IntegrityError
from datahall.core.ports import Signer
from datahall.core.records import Checkpoint

_ED25519 = b"\x01"  # the signed-note signature type
_BASE64 = r"[A-Za-z0-9+/]+={0,2}"
_NOTE = re.compile(
    rf"(?P<text>(?P<origin>[^\s+]+)\n(?P<size>0|[1-9][0-9]{{0,18}})\n(?P<root>{_BASE64})\n)"
    rf"\n(?P<signatures>(?:— [^\s+]+ {_BASE64}\n)+)"
)


def key_hash(name: str, public_key: bytes) -> bytes:
    """Return the four bytes by which a signature names its key: SHA-256(name || LF || 0x01 || key)[:4]."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public_key).digest()[:4]


def sign_checkpoint(origin: str, size: int, root: bytes, signer: Signer) -> Checkpoint:
    """Return the signed checkpoint; the key's name is the origin. `origin` holds no white space and no plus."""
    text = f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"
    signature = key_hash(origin, signer.public_key) + signer.sign(text.encode())
    note = f"{text}\n— {origin} {base64.b64encode(signature).decode()}\n"
    assert _NOTE.fullmatch(note), f"'{origin}' cannot be an origin"
    return Checkpoint(origin=origin, size=size, root=root, note=note)


def read_note(note: str) -> Checkpoint:
    """Return what `note` says, without looking at its signatures. Raises IntegrityError if it is no checkpoint."""
    match = _NOTE.fullmatch(note)
    root = _decode(match["root"]) if match else b""
    if match is None or len(root) != hashlib.sha256().digest_size:
        raise IntegrityError("this is not a checkpoint", where=note[:80].partition("\n")[0])
    return Checkpoint(origin=match["origin"], size=int(match["size"]), root=root, note=note)


def verify_note(note: str, public_key: bytes, *, origin: str | None = None) -> Checkpoint:
    """Return what `note` says once `public_key` (raw Ed25519, 32 bytes) is seen to have signed it.

    Raises IntegrityError for a note of another origin, and for one without a good signature of that key.
    """
    checkpoint = read_note(note)
    if origin is not None and checkpoint.origin != origin:
        raise IntegrityError(f"a checkpoint of '{checkpoint.origin}' stands where one of '{origin}' should")
    text, _, signatures = note.partition("\n\n")
    message = f"{text}\n".encode()
    wanted = key_hash(checkpoint.origin, public_key)
    for line in signatures.splitlines():
        _, name, encoded = line.split(" ")
        signature = _decode(encoded)
        if name == checkpoint.origin and signature[:4] == wanted and _signed(public_key, signature[4:], message):
            return checkpoint
    raise IntegrityError("this checkpoint is not signed by the hall's key", where=checkpoint.origin)


def _signed(public_key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""
