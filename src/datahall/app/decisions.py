"""Logs decisions with the view that they were taken on, so that each can be asked again and answer the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from datahall.core.canonical import canonical_json

MAX_BYTES = 64 << 20
"""At this size the log starts anew; the one before is kept beside it."""


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a policy: its arguments as plain data, and what it answered."""

    policy: str
    """Name of the module in `datahall.policy`."""
    state: Any
    view: Any
    event: Any
    now: int
    """As the policy was told it: nanoseconds of the monotonic clock for waits, since the epoch elsewhere."""
    draw: float
    new_state: Any
    decision: Any
    reason: str


class DecisionLog:
    """Appends decisions to one file, a line of JSON each. One process writes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, decided: Decided) -> None:
        """Hand one decision to the kernel; decisions that matter are in the ledger, so none is synced here."""
        if self._path.exists() and self._path.stat().st_size > MAX_BYTES:
            self._path.replace(self._path.with_suffix(".1.jsonl"))
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, canonical_json(decided) + b"\n")
        finally:
            os.close(descriptor)


def read_decisions(path: Path) -> Iterator[Decided]:
    """Yield the logged decisions, oldest first; a line that a crash cut short is left out."""
    for line in path.read_bytes().splitlines():
        try:
            yield msgspec.json.decode(line, type=Decided)
        except msgspec.DecodeError:
            return
