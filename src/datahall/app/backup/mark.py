"""Keeps backup and garbage collection apart: what a backup is about to read must not be deleted meanwhile."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datahall.core.errors import ConflictError


class BackupMark:
    """A lock on a file of the hall, held by a backup or by a collector, by one of them at a time.

    The kernel lets go of it when the process ends, however it ends, so a file left behind means nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def backing_up(self) -> Iterator[None]:
        """Hold the mark for a backup. Raises ConflictError while another backup or a collection goes on."""
        with self._taken() as free:
            if not free:
                raise ConflictError(
                    "another backup of this hall, or a collection of its garbage, is going on",
                    where=str(self.path),
                    hint="try again when it is through",
                )
            yield

    @contextmanager
    def collecting(self) -> Iterator[bool]:
        """Yield whether objects may be deleted now; no backup begins while the block runs."""
        with self._taken() as free:
            yield free

    @contextmanager
    def _taken(self) -> Iterator[bool]:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)
