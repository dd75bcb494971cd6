"""Takes away the system calls with which a process could reach past what Landlock holds.

Sources: Linux Documentation/userspace-api/seccomp_filter.rst; clone(2); unix(7). Landlock leaves open: the modes, owners,
times and attributes of every file of the user; limits and turns of foreign processes; memory and queues that all of one
user share; UDP, raw and Unix sockets; and leaving the process group, which is how a hall ends all that a job started.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
from typing import Final

from datahall.backends.launch import syscalls

_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000  # with an errno in the low 16 bits
_KILL: Final = 0x80000000
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24  # offsets in struct seccomp_data (little-endian)
_X32_BIT: Final = 0x40000000
_NEW_NAMESPACES: Final = 0x7E020000  # every CLONE_NEW flag that clone(2) takes
_SOCKET_TYPE: Final = 0xF  # the rest of the second argument are flags

_Line = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def supported() -> bool:
    """Return whether this machine's system calls are known here."""
    return platform.machine() in syscalls.PROCESSORS


def restrict(*, network: bool, connects: bool) -> None:
    """Refuse, from here on and in all that is started, what `syscalls` lists.

    Without `network` also every socket but Unix streams, and then without `connects` every connection: such a process
    can only accept. Needs no-new-privileges. Does nothing on unknown processors.

    Raises OSError where the kernel refuses the filter.
    """
    if not supported():
        return
    code = _program(platform.machine(), network=network, connects=connects)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(length=len(code) // 8, filter=ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        code_number = ctypes.get_errno()
        raise OSError(code_number, f"seccomp filter: {os.strerror(code_number)}")


def _program(machine: str, *, network: bool, connects: bool) -> bytes:
    lines: list[_Line] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, syscalls.AUDIT[machine]),
        (_RETURN, 0, 0, _KILL),  # another processor's numbers would mean other calls
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_AT_LEAST, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _REFUSE | errno.ENOSYS),
    ]
    refused = syscalls.METADATA | syscalls.PROCESSES | syscalls.SHARED | syscalls.KERNEL
    for number in syscalls.of_processor(machine, refused).values():
        lines += _refuse(number, errno.EPERM)
    for number in syscalls.of_processor(machine, syscalls.ABSENT).values():
        lines += _refuse(number, errno.ENOSYS)
    for number in syscalls.of_processor(machine, syscalls.OWN_ONLY).values():
        lines += _unless(number, [(_LOAD, 0, 0, _FIRST), (_JUMP_EQUAL, 1, 0, 0)])
    known = syscalls.of_processor(machine, syscalls.LOOKED_INTO)
    lines += _unless(known["clone"], [(_LOAD, 0, 0, _FIRST), (_JUMP_ANY_BIT, 0, 1, _NEW_NAMESPACES)])
    if not network:
        for name in ("socket", "socketpair"):
            lines += _unless(known[name], [(_LOAD, 0, 0, _FIRST), (_JUMP_EQUAL, 1, 0, socket.AF_UNIX)])
            # A datagram reaches any socket that has a path, without a connection.
            kind = [(_LOAD, 0, 0, _SECOND), (_AND, 0, 0, _SOCKET_TYPE), (_JUMP_EQUAL, 1, 0, int(socket.SOCK_STREAM))]
            lines += _unless(known[name], kind)
    if not (network or connects):
        lines += _refuse(known["connect"], errno.EPERM)
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _refuse(number: int, error: int) -> list[_Line]:
    return [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE | error)]


def _unless(number: int, test: list[_Line]) -> list[_Line]:
    """Return code that refuses call `number` unless `test` jumps over one line."""
    length = len(test)
    return [
        (_JUMP_EQUAL, 0, length + 2, number),
        *test,
        (_RETURN, 0, 0, _REFUSE | errno.EPERM),
        (_LOAD, 0, 0, _NUMBER),  # the next comparison is of numbers again
    ]
