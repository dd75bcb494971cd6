"""Starting processes that hold only what they were given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec

from datahall.core.jobs import Message


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one process may use."""

    memory_bytes: int | None = None
    num_files: int = 1024
    num_threads: int = 1


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A process to start: which main, what it is told, what it may touch.

    `request` reaches the process as one line on its standard input (never as arguments, which others can see).
    `memfds` are bytes handed over as sealed memory files; the request names them by position.
    The process sees no environment variable but those in `environment` and a fixed minimum.
    """

    main: str
    """`job` or `replica`."""
    name: str
    """For people: shown by ps and used for the log file's name."""
    request: Any
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    network: bool = False
    connects: bool = False
    """Whether it may connect to Unix sockets; without, and without `network`, it can only accept."""
    memfds: tuple[bytes, ...] = ()
    environment: dict[str, str] = {}
    limits: Limits = Limits()


class Process(Protocol):
    """One started process group."""

    @property
    def pid(self) -> int:
        """Its process id, also the id of its group."""

    @property
    def isolation(self) -> str:
        """`landlock` where the kernel enforces readable, writable and network; else `none`."""

    def messages(self) -> Iterator[Message]:
        """Yield each message until the process ends; a death without a result yields a Failure."""

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""

    def stop(self, grace_seconds: float = 10.0) -> int:
        """Send SIGTERM to the group, SIGKILL after `grace_seconds`; return the exit status."""


class Launcher(Protocol):
    """Starts processes that end when the launcher's owner ends, however it ends."""

    def start(self, spec: ProcessSpec) -> Process:
        """Start the process. Raises UnavailableError where the machine has no room for it."""

    def adopt(self, pid: int, started_at: float) -> Process | None:
        """Return a handle on a process that an earlier owner started, None if it is gone."""
