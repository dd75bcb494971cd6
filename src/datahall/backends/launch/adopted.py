"""A process that an earlier owner started: it can be watched and ended, but its messages went to that owner."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

from datahall.core.jobs import Failure, Message

UNKNOWN_STATUS = 255
"""What an adopted process ended with is told to its parent only."""

_SAME_START_S = 0.005  # the kernel counts in hundredths of a second


class AdoptedProcess:
    """A process group found by its leader's number and start time."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self._pid = pid
        self._pidfd = pidfd

    @classmethod
    def find(cls, pid: int, started_at: float) -> AdoptedProcess | None:
        """Return the process, None if it is gone or its number belongs to another now."""
        try:
            pidfd = os.pidfd_open(pid)
        except (ProcessLookupError, ValueError, OSError):
            return None
        process = cls(pid, pidfd)
        # Read after the descriptor was opened: if both fit, the descriptor is on the right process.
        try:
            found = started_at_of(pid)
        except OSError:
            return None
        if abs(found - started_at) > _SAME_START_S or process.poll() is not None:
            return None
        return process

    @property
    def pid(self) -> int:
        """Its process id, also the id of its group."""
        return self._pid

    @property
    def isolation(self) -> str:
        """`none`: nothing about it can be proven from outside."""
        return "none"

    def messages(self) -> Iterator[Message]:
        """Wait for its end and yield a Failure: what it may have said before is not known here."""
        self._ends_within(None)
        yield Message(
            failure=Failure(
                error="UnavailableError",
                what=f"process {self._pid} has ended; an earlier owner started it, so its result is not known",
                hint="run it again",
            )
        )

    def poll(self) -> int | None:
        """Return UNKNOWN_STATUS once it has ended, None while it runs."""
        return UNKNOWN_STATUS if self._ends_within(0) else None

    def stop(self, grace_seconds: float = 10.0) -> int:
        """Send SIGTERM to the group, SIGKILL after `grace_seconds`; return UNKNOWN_STATUS."""
        if self.poll() is None:
            self._signal(signal.SIGTERM)
            if not self._ends_within(grace_seconds):
                self._signal(signal.SIGKILL)
                self._ends_within(None)
        return UNKNOWN_STATUS

    def __del__(self) -> None:
        os.close(self._pidfd)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended in between
            if os.getpgid(self._pid) == self._pid:
                os.killpg(self._pid, number)
            else:
                signal.pidfd_send_signal(self._pidfd, number)

    def _ends_within(self, seconds: float | None) -> bool:
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return bool(poller.poll(None if seconds is None else seconds * 1000))


def started_at_of(pid: int) -> float:
    """Return when a process started, in seconds since the machine did. Raises OSError where it is gone."""
    stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    return int(stat.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
