"""What a gateway has counted, in a file for whoever runs the hall: how often teams ask alike is no public answer's matter."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from datahall.core.durable import write_atomic
from datahall.serve.cache import CacheStats
from datahall.serve.decisions import DecisionStats


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """What one process has counted since it started."""

    pid: int
    """Whose these are; the file of a gateway that has died stays behind."""
    cache: CacheStats
    decisions: DecisionStats | None
    """None where none are kept."""


class CountersFile:
    """Tells a gateway's counters to the hall's command line."""

    def __init__(self, runtime: Path, gateway: str) -> None:
        self._path = runtime / f"counters-{gateway}.json"
        self._told: Counters | None = None

    def tell(self, counters: Counters) -> Callable[[], None] | None:
        """Return what writes them, for another thread; None where nothing has changed since the last call."""
        if counters == self._told:
            return None
        self._told = counters
        return lambda: self._write(msgspec.json.encode(counters))

    def remove(self) -> None:
        """Take the file away, if there is one."""
        self._path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        # On a full disk the figures stay what they were: nothing rests on them, and the answer log tells of the disk.
        with contextlib.suppress(OSError):
            write_atomic(self._path, data, at="gateway.counters")


def read_counters(runtime: Path, gateway: str, pid: int) -> Counters | None:
    """Return what the gateway that is this process last told, None where it has told nothing yet."""
    try:
        counters = msgspec.json.decode((runtime / f"counters-{gateway}.json").read_bytes(), type=Counters)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return counters if counters.pid == pid else None
