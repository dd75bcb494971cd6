"""Names a process for good: its pid together with the moment at which it started."""

from __future__ import annotations

import os
from pathlib import Path


def started_at(pid: int) -> float:
    """Return the start time of a process as the system counts it, in seconds since the machine started.

    Raises ProcessLookupError where it is gone, or only waits to be reaped.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error
    if fields[0] == "Z":
        raise ProcessLookupError(pid)
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def is_running(pid: int, started: float) -> bool:
    """Whether the process of that pid is still the one that started then."""
    try:
        return started_at(pid) == started
    except ProcessLookupError:
        return False
