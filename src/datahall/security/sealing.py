"""The sealed form of a stored object, and its way in: bytes of any length pass through and leave in frames.

An object is the line `DHBLOB2`, then its frames (`security/frames.py`; none for an empty object), then the sealed
index of their lengths. A reader takes the index from the end and then only the frames that it needs. How many frames
there must be follows from the size in the Grant, so an object cannot be cut, extended or rearranged unnoticed.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from array import array
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from datahall.core.errors import DataError, IntegrityError, UserError
from datahall.core.records import Grant
from datahall.security.frames import (
    FRAME_BYTES,
    FRAME_EXTRA_BYTES,
    Place,
    index_bytes,
    num_frames,
    seal_frame,
    seal_index,
)
from datahall.security.lanes import in_order

MAGIC: Final = b"DHBLOB2\n"
MAX_OBJECT_BYTES: Final = 1 << 40
"""Longer objects are refused on both ways; the index of the longest takes 4 MiB of memory."""

_TEAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OBJECT = re.compile(r"[0-9a-f]{32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


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
    """Return `name`. Raises UserError unless it is an object's name: 32 random hexadecimal digits."""
    if not is_object_name(name):
        raise UserError(f"'{name[:120]}' is not the name of an object")
    return name


def check_grant(grant: Grant) -> None:
    """Raise IntegrityError for a grant that nobody can have sealed, before it names a file or a size."""
    if (
        not is_object_name(grant.object)
        or not _DIGEST.fullmatch(grant.digest)
        or len(grant.key) != 32
        or not 0 <= grant.size_bytes <= MAX_OBJECT_BYTES
    ):
        raise IntegrityError("the right to read this object is malformed", where=grant.object[:120])


def max_sealed_bytes(size_bytes: int) -> int:
    """Return how long an object of `size_bytes` plain bytes can be at most once sealed."""
    frames = num_frames(size_bytes)
    return len(MAGIC) + size_bytes + FRAME_EXTRA_BYTES * frames + index_bytes(frames)


class Sealing:
    """One object on its way in: iterate over it once and store what comes; then `grant` is the right to read it.

    Memory holds a few frames at a time. Iterating raises DataError for more than MAX_OBJECT_BYTES, and what `chunks`
    raises; the constructor raises UserError for an impossible team.
    """

    def __init__(self, chunks: Iterable[bytes | memoryview], *, team: str) -> None:
        self._place = Place(AESGCM.generate_key(bit_length=256), check_team(team), secrets.token_hex(16))
        self._chunks = chunks
        self._digest = hashlib.sha256()
        self._size_bytes = 0
        self._done = False

    @property
    def object(self) -> str:
        """The name under which the bytes are to be stored; known before the first of them is."""
        return self._place.object

    @property
    def grant(self) -> Grant:
        """The right to read the object, once every byte was taken from here."""
        assert self._done, "the object is not sealed to its end"
        return Grant(
            digest=self._digest.hexdigest(),
            object=self._place.object,
            size_bytes=self._size_bytes,
            key=self._place.key,
        )

    def __iter__(self) -> Iterator[bytes | bytearray]:
        lengths = array("I")
        yield MAGIC
        for stored in in_order(self._seal, _marked(self._hashed())):
            lengths.append(len(stored))
            yield stored
        yield seal_index(self._place, lengths)
        self._done = True

    def _seal(self, frame: _Frame) -> bytearray:
        return seal_frame(self._place, frame.number, frame.plain, last=frame.last)

    def _hashed(self) -> Iterator[bytes | memoryview]:
        for plain in cut(self._chunks):
            self._size_bytes += len(plain)
            if self._size_bytes > MAX_OBJECT_BYTES:
                raise DataError(f"an object holds at most {MAX_OBJECT_BYTES} bytes")
            self._digest.update(plain)
            yield plain


def seal(data: bytes | memoryview, *, team: str) -> tuple[Grant, bytes]:
    """Return the right to read `data` again, and the bytes to store under the name in it.

    Raises as Sealing.
    """
    sealing = Sealing((data,), team=team)
    stored = b"".join(sealing)
    return sealing.grant, stored


def cut(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Yield the same bytes in pieces of FRAME_BYTES, only the last one shorter; none is empty.

    What could change while it is worked on (a view of a buffer that its owner fills again) is copied.
    """
    rest = bytearray()
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        lasting = isinstance(view.obj, bytes)
        at = 0
        if rest:
            at = min(FRAME_BYTES - len(rest), len(view))
            rest += view[:at]
            if len(rest) < FRAME_BYTES:
                continue
            yield bytes(rest)
            rest.clear()
        whole_until = at + (len(view) - at) // FRAME_BYTES * FRAME_BYTES
        for start in range(at, whole_until, FRAME_BYTES):
            piece = view[start : start + FRAME_BYTES]
            yield piece if lasting else bytes(piece)
        rest += view[whole_until:]
    if rest:
        yield bytes(rest)


class _Frame(NamedTuple):
    number: int
    plain: bytes | memoryview
    last: bool


def _marked(pieces: Iterator[bytes | memoryview]) -> Iterator[_Frame]:
    """Yield each piece with its index, and whether it is the last one."""
    held = next(pieces, None)
    index = 0
    while held is not None:
        following = next(pieces, None)
        yield _Frame(index, held, following is None)
        held, index = following, index + 1
