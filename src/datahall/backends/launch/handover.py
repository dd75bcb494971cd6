"""What a launcher tells a new process, as one line on its standard input."""

from __future__ import annotations

import os

import msgspec

from datahall.core.ports.launching import Limits

MAX_MESSAGE_BYTES = 64 << 20
"""A longer line is no message: results travel as stored objects, and only their grants come back."""


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """Descriptors by number, the rights to keep, and the request itself."""

    messages: int
    lifeline: int
    memfds: tuple[int, ...]
    work: str
    readable: tuple[str, ...]
    writable: tuple[str, ...]
    network: bool
    connects: bool
    confine: bool
    limits: Limits
    request: msgspec.Raw


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of `data`; one `write` may take only part of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
