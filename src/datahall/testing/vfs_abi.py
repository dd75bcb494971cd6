"""SQLite's structures for a virtual file system, as `sqlite3.h` has laid them out since 3.7.6 (2011)."""

from __future__ import annotations

from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from typing import ClassVar, Final

CREATING: Final = 0x00000004
"""SQLITE_OPEN_CREATE."""
SYNCS_FOLDER: Final = 0x00000800 | 0x00004000 | 0x00080000
"""SQLITE_OPEN_MAIN_JOURNAL, _SUPER_JOURNAL and _WAL: the unix VFS syncs their folder with their first sync."""


class FileMethods(Structure):
    """`sqlite3_io_methods`, version 3; the functions that we leave alone are plain addresses."""

    CLOSE: ClassVar = CFUNCTYPE(c_int, c_void_p)
    WRITE: ClassVar = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
    TRUNCATE: ClassVar = CFUNCTYPE(c_int, c_void_p, c_int64)
    SYNC: ClassVar = CFUNCTYPE(c_int, c_void_p, c_int)

    _fields_: ClassVar = [
        ("version", c_int),
        ("close", CLOSE),
        ("read", c_void_p),
        ("write", WRITE),
        ("truncate", TRUNCATE),
        ("sync", SYNC),
        *((name, c_void_p) for name in ("file_size", "lock", "unlock", "check_reserved_lock", "file_control")),
        *((name, c_void_p) for name in ("sector_size", "device_characteristics")),
        *((name, c_void_p) for name in ("shm_map", "shm_lock", "shm_barrier", "shm_unmap", "fetch", "unfetch")),
    ]


class Vfs(Structure):
    """`sqlite3_vfs`, version 3."""

    OPEN: ClassVar = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))
    DELETE: ClassVar = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)

    _fields_: ClassVar = [
        ("version", c_int),
        ("file_bytes", c_int),
        ("max_pathname", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("app_data", c_void_p),
        ("open", OPEN),
        ("delete", DELETE),
        *((name, c_void_p) for name in ("access", "full_pathname", "dl_open", "dl_error", "dl_sym", "dl_close")),
        *((name, c_void_p) for name in ("randomness", "sleep", "current_time", "get_last_error")),
        *((name, c_void_p) for name in ("current_time_int64", "set_system_call", "get_system_call")),
        ("next_system_call", c_void_p),
    ]
