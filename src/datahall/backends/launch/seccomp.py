"""Takes away the system calls with which a process could leave its group or talk to a network.

Source: Linux Documentation/userspace-api/seccomp_filter.rst. It closes what Landlock leaves open: UDP and raw sockets,
and leaving the process group, which is how a hall ends everything that a job has started.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
from typing import Final

_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000  # with an errno in the low 16 bits
_KILL: Final = 0x80000000
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data (little-endian)
_X32_BIT: Final = 0x40000000

# Architecture's audit number, and its own numbers of: socket, setpgid, setsid, ptrace, io_uring_setup.
_MACHINES: Final = {
    "x86_64": (0xC000003E, {"socket": 41, "setpgid": 109, "setsid": 112, "ptrace": 101, "io_uring_setup": 425}),
    "aarch64": (0xC00000B7, {"socket": 198, "setpgid": 154, "setsid": 157, "ptrace": 117, "io_uring_setup": 425}),
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def supported() -> bool:
    """Return whether this machine's system calls are known here."""
    return platform.machine() in _MACHINES


def restrict(*, network: bool) -> None:
    """Refuse, from here on and in all that is started: leaving the group, tracing, io_uring, and without `network`
    every socket that is not a Unix one. Needs no-new-privileges. Does nothing on unknown architectures.

    Raises OSError where the kernel refuses the filter.
    """
    if not supported():
        return
    code = _program(platform.machine(), network=network)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(length=len(code) // 8, filter=ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        code_number = ctypes.get_errno()
        raise OSError(code_number, f"seccomp filter: {os.strerror(code_number)}")


def _program(machine: str, *, network: bool) -> bytes:
    architecture, numbers = _MACHINES[machine]
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),  # another architecture's numbers would mean other calls
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_AT_LEAST, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _REFUSE | errno.ENOSYS),
    ]
    for name, refusal in (
        ("setsid", errno.EPERM),
        ("setpgid", errno.EPERM),
        ("ptrace", errno.EPERM),
        ("io_uring_setup", errno.ENOSYS),  # its sockets would pass by this filter
    ):
        lines += [(_JUMP_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, _REFUSE | refusal)]
    if not network:
        lines += [
            (_JUMP_EQUAL, 0, 3, numbers["socket"]),
            (_LOAD, 0, 0, _FIRST_ARGUMENT),
            (_JUMP_EQUAL, 1, 0, socket.AF_UNIX),
            (_RETURN, 0, 0, _REFUSE | errno.EACCES),
        ]
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
