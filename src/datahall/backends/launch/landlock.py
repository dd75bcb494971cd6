"""Lets a process give up every file, TCP port and foreign process that it was not given (Linux Landlock).

Sources: Linux Documentation/userspace-api/landlock.rst; include/uapi/linux/landlock.h. Works with every ABI from 1 on
and uses what the kernel has: TCP rules from ABI 4, signals and abstract Unix sockets from ABI 6. Not covered by any
of these, but by `seccomp.py`: what is said about a file (its mode, owner, times), UDP, and Unix sockets with a path.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # one number on every architecture
_VERSION: Final = 1
_PATH_BENEATH: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 9
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_READ: Final = _READ_FILE | _READ_DIR
_RUN: Final = _READ | _EXECUTE
# No links, FIFOs or devices: a folder that a job may write is later read by somebody who trusts it more.
_WRITE: Final = (
    _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _REFER | _TRUNCATE
)
_ON_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_NUM_FS_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15}  # 16 from ABI 5 on (ioctl on devices)
_TCP_BIND_AND_CONNECT: Final = 0b11
_SCOPE_ABSTRACT_UNIX_AND_SIGNAL: Final = 0b11


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """Return the kernel's Landlock version, 0 where there is none."""
    try:
        return _syscall(_CREATE_RULESET, None, 0, _VERSION)
    except OSError:
        return 0


def no_new_privileges() -> None:
    """Make sure that no program started from here on gains rights (setuid). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")


def restrict(*, runnable: Iterable[Path], readable: Iterable[Path], writable: Iterable[Path], network: bool) -> None:
    """Confine this thread and all that it will start, for good, to the paths given.

    It must be the process's only thread, since others would stay free. `runnable` paths that do not exist are passed
    over; for the others that is FileNotFoundError. Raises OSError where the kernel refuses.
    """
    version = abi()
    handled = (1 << _NUM_FS_RIGHTS.get(version, 16)) - 1
    rules = _Ruleset(
        fs=handled,
        net=_TCP_BIND_AND_CONNECT if version >= 4 and not network else 0,
        scoped=_SCOPE_ABSTRACT_UNIX_AND_SIGNAL if version >= 6 else 0,
    )
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _syscall(_CREATE_RULESET, ctypes.byref(rules), size, 0)
    try:
        for path in runnable:
            if path.exists():
                _allow(ruleset, path, _RUN & handled)
        for path in readable:
            _allow(ruleset, path, _READ & handled)
        for path in writable:
            _allow(ruleset, path, _WRITE & handled)
        no_new_privileges()
        _syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _ON_FILES
        rule = _PathBeneath(allowed=rights, parent=descriptor)
        _syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(descriptor)


def _syscall(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    wide = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *wide))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock system call {number}: {os.strerror(code)}")
    return result


def python_paths() -> Iterator[Path]:
    """Yield what an interpreter with its libraries reads: itself, shared libraries, time zones, the CPU's shape."""
    import sys  # noqa: PLC0415  read at the moment of the call: a virtual environment changes it

    package = Path(__file__).resolve().parents[2]
    for folder in {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, str(package)}:
        yield Path(folder)
    yield from map(Path, _SYSTEM)


def network_paths() -> Iterator[Path]:
    """Yield what name look-ups and TLS read."""
    yield from map(Path, _NETWORK)


DEVICES: Final = (Path("/dev/null"), Path("/dev/zero"), Path("/dev/full"))
"""What may be written by anybody without effect."""

_SYSTEM: Final = (
    "/usr",
    "/bin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/timezone",
    "/dev/random",
    "/dev/urandom",
    # Single files: /proc/self/net would show every socket of the machine. `fd` to list what is open.
    "/proc/self/auxv",
    "/proc/self/cgroup",
    "/proc/self/cmdline",
    "/proc/self/fd",
    "/proc/self/maps",
    "/proc/self/mountinfo",
    "/proc/self/stat",
    "/proc/self/statm",
    "/proc/self/status",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/loadavg",
    "/proc/filesystems",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices",
    "/sys/bus/pci",
    "/sys/class/drm",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
)
_NETWORK: Final = (
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
)
