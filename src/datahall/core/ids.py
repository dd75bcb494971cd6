"""Names for things: a kind, a time that sorts, and enough randomness that two never meet."""

from __future__ import annotations

import re
import secrets
from typing import Final

from datahall.core.ports.clock import Clock

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
NAME_RULE = "a lower-case letter, then letters, digits, - or _, 63 at most"

HALL_TEAM: Final = "hall.own"
"""To whom the hall's own artifacts belong, such as its answer log; with its dot no name of a team that somebody has."""


def is_name(text: str) -> bool:
    """Return whether `text` can name an application, a candidate or a team; NAME_RULE says how one looks."""
    return _NAME.fullmatch(text) is not None


def new_id(prefix: str, clock: Clock) -> str:
    """Return `prefix_` followed by 10 characters of millisecond time and 16 of randomness.

    Ids of one prefix sort by the time at which they were made (the form of a ULID, in lower case).
    """
    return f"{prefix}_{_encode(clock.now_ns() // 1_000_000, 10)}{_encode(secrets.randbits(80), 16)}"


def _encode(number: int, length: int) -> str:
    characters = []
    for _ in range(length):
        characters.append(_ALPHABET[number & 31])
        number >>= 5
    return "".join(reversed(characters))
