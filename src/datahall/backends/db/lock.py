"""One process at a time holds a hall."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from datahall.core.errors import HallBusyError

_NUM_TRIES, _RETRY_S = 10, 0.02


class HallLock:
    """An exclusive lock on a hall: `with HallLock(paths.lock): ...`, or `acquire` and `release`.

    The kernel lets go of it when the process ends, however it ends, so a lock file left behind means nothing.
    The file holds the pid of its holder, for people and for `datahall ps`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def acquire(self) -> None:
        """Take the lock. Raises HallBusyError, naming the holder's pid, if another has it."""
        assert not self.held, "acquired twice"
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if not _lock(descriptor):
            os.close(descriptor)
            pid = self.holder()
            who = f"process {pid}" if pid else "another process"
            raise HallBusyError(
                f"{who} holds this hall",
                where=str(self.path.parent),
                hint="talk to it, or end it with: datahall stop",
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go of the lock; a second call does nothing."""
        if self._descriptor is None:
            return
        # Emptied while still held, so that nobody reads the pid of a process that is through with the hall.
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
        self._descriptor = None

    def holder(self) -> int | None:
        """Return the pid written by the newest holder; it may have died since. None where there is none."""
        try:
            text = self.path.read_text("ascii").strip()
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        return int(text) if text.isdecimal() else None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _lock(descriptor: int) -> bool:
    """Take the lock if it is free, or becomes so in a moment.

    A child that was started while the lock was held lets go of it in its exec, which the kernel finishes only after
    the parent goes on: for that moment a lock that was released is still taken.
    """
    for _ in range(_NUM_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_RETRY_S)
        else:
            return True
    return False
