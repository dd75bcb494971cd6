"""The first thing that a started process does: tie its life to its owner's, and give up what it was not given."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import resource
import select
import signal
import sys
import threading
from pathlib import Path

import msgspec

from datahall.backends.launch import landlock, seccomp
from datahall.backends.launch.handover import MAX_MESSAGE_BYTES, Handover, write_all
from datahall.core.canonical import canonical_json
from datahall.core.jobs import Message, Progress
from datahall.core.ports.launching import Limits


class ChildContext:
    """What the process was given: a request, memory files, a private folder, and a way to send messages."""

    __slots__ = ("_lock", "_messages", "isolation", "memfds", "request", "work")

    def __init__(
        self, *, request: bytes, memfds: tuple[memoryview, ...], work: Path, isolation: str, messages: int
    ) -> None:
        self.request = request
        self.memfds = memfds
        self.work = work
        self.isolation = isolation
        self._messages = messages
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        """Send one message to the owner; safe from several threads.

        Raises ValueError for NaN, infinities and messages of more than 64 MiB.
        """
        line = canonical_json(message) + b"\n"
        if len(line) > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message has at most {MAX_MESSAGE_BYTES} bytes, this one has {len(line)}")
        with self._lock:
            write_all(self._messages, line)

    def report(self, progress: Progress) -> None:
        """Send how far the work is."""
        self.send(Message(progress=progress))


def enter() -> ChildContext:
    """Take over what the launcher hands down; call it before anything that starts threads.

    From the return on, the process dies with its owner (SIGKILL by the kernel, to its whole group), cannot exceed its
    limits, and reaches only its own paths. A process that cannot be confined as ordered ends here with an error.
    """
    handover = msgspec.json.decode(_read_order(), type=Handover)
    assert len(os.listdir("/proc/self/task")) == 1, "threads that run before enter() would stay unconfined"  # noqa: PTH208  names are enough
    for descriptor in (handover.messages, handover.lifeline, *handover.memfds):
        os.set_inheritable(descriptor, False)
    _die_with_owner(handover.lifeline)
    _limit(handover.limits)
    if handover.confine:
        _confine(handover)
    return ChildContext(
        request=bytes(handover.request),
        memfds=tuple(map(_view, handover.memfds)),
        work=Path(handover.work),
        isolation="landlock" if handover.confine else "none",
        messages=handover.messages,
    )


def _read_order() -> bytes:
    with os.fdopen(os.dup(0), "rb") as stdin:
        order = stdin.read()
    # The order holds keys: nothing that this process starts may read it again.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return order


def _die_with_owner(lifeline: int) -> None:
    """Have the kernel kill this process group when the other end of `lifeline` closes.

    Signal-driven I/O (fcntl(2), F_SETOWN and F_SETSIG) needs no thread of ours, so it also ends a process that is
    stopped, or deep in a library that never lets Python run.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    poller = select.poll()
    poller.register(lifeline, select.POLLIN | select.POLLHUP)
    if poller.poll(0):  # the owner was gone before the order stood
        sys.exit("the owner of this process has ended")


def _limit(limits: Limits) -> None:
    landlock.no_new_privileges()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold plain data and keys
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    num_files = limits.num_files if hard == resource.RLIM_INFINITY else min(limits.num_files, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (num_files, num_files))
    if limits.memory_bytes is not None:
        # RLIMIT_DATA counts private writable memory. RLIMIT_AS would count address space, of which numerical
        # libraries reserve many times what they use.
        resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))
    # When memory runs out the kernel should take work that can be repeated, not the hall. Some containers forbid it.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def _confine(handover: Handover) -> None:
    landlock.restrict(
        runnable=[*landlock.python_paths(), *(landlock.network_paths() if handover.network else ())],
        readable=map(Path, handover.readable),
        writable=[*landlock.DEVICES, *map(Path, (handover.work, *handover.writable))],
        network=handover.network,
    )
    seccomp.restrict(network=handover.network, connects=handover.connects)


def _view(descriptor: int) -> memoryview:
    size = os.fstat(descriptor).st_size
    if size == 0:
        return memoryview(b"")
    # Private: before Linux 6.7 a write-sealed file could not be mapped shared, even for reading.
    return memoryview(mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))
