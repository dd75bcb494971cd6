"""Trees of processes as the kernel sees them: who belongs to one, its cores, its processor time and its memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import time
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_STOP_SECONDS = 20.0


def adopt_orphans() -> None:
    """Become the parent of whatever our servers leave behind, so that all of it can be found and ended."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def two_cores() -> tuple[int, int]:
    """Return the cores for servers and for clients. Raises SystemExit where there is one only."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("this benchmark needs two cores: one for the server, one for the client")
    return cores[0], cores[1]


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(root: int) -> set[int]:
    """Return the ids of all living processes below `root`, without it."""
    children: dict[int, list[int]] = {}
    for pid, fields in _stats():
        children.setdefault(int(fields[1]), []).append(pid)
    found: set[int] = set()
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        waiting += below
        found.update(below)
    return found


class Tree:
    """One server: the process that was started, and every process below it."""

    def __init__(self, root: int) -> None:
        self.root = root

    def pids(self) -> set[int]:
        """Return the living processes."""
        return {self.root} | descendants(self.root)

    def cpu_s(self) -> float:
        """Return the processor time, user and system, that the tree and its ended children have used, in seconds."""
        pids, ticks = self.pids(), 0
        for pid, fields in _stats():
            if pid in pids:
                ticks += sum(int(field) for field in fields[11:15])
        return ticks / TICKS_PER_S

    def pss_mb(self) -> float:
        """Return the proportional set size of all processes in MB: what they share is counted once."""
        return sum(pss_mb(pid) for pid in self.pids())

    def pin(self, cores: set[int]) -> None:
        """Keep every thread of every process on these cores; what they start later inherits it."""
        for pid in self.pids():
            with contextlib.suppress(OSError):  # a thread may end while it is looked at
                for task in Path(f"/proc/{pid}/task").iterdir():
                    os.sched_setaffinity(int(task.name), cores)

    def matching(self, words: str) -> list[int]:
        """Return the processes whose command line holds `words`."""
        return sorted(pid for pid in self.pids() if words in command_line(pid))

    def stop(self) -> None:
        """Ask the first process to end, then end whatever is left below it or was left to us."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.root, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < deadline and not _reaped(self.root):
            time.sleep(0.05)
        for pid in descendants(os.getpid()):  # one server runs at a time, so all that is below us was its own
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, 0)[0]:
                pass


def pss_mb(pid: int) -> float:
    """Return one process's proportional set size in MB, 0 where it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def command_line(pid: int) -> str:
    """Return a process's words, empty where it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    return ""


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _stats() -> list[tuple[int, list[str]]]:
    """Return every process's id and the fields of its `stat` from the state on: parent 1, times 11 to 14 (proc(5))."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                text = (place / "stat").read_text("utf-8", "replace")
                found.append((int(place.name), text.rpartition(")")[2].split()))
    return found
