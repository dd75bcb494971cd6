"""A layer between SQLite and the disk that notes every write and sync, and fails when it is told to.

It is registered as a VFS (https://www.sqlite.org/vfs.html) in the very library that Python's `sqlite3` runs, so that
production code is tested as it is. It wraps SQLite's own unix VFS: of each file that is opened, writing, truncating,
syncing and closing go through this module; reads, locks and shared memory stay SQLite's own.
"""

from __future__ import annotations

import _sqlite3
import contextlib
import ctypes
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Final, Literal

import msgspec

from datahall.core.errors import UnavailableError
from datahall.testing.vfs_abi import CREATING, SYNCS_FOLDER, FileMethods, Vfs

OK: Final = 0
FULL: Final = 13
"""SQLITE_FULL: no room (ENOSPC)."""
IOERR: Final = 10
IOERR_WRITE: Final = 778
"""SQLITE_IOERR_WRITE: the disk did not take a write (EIO)."""
IOERR_FSYNC: Final = 1034
"""SQLITE_IOERR_FSYNC: the disk did not keep what it had taken."""

Kind = Literal["open", "write", "truncate", "sync", "delete", "close", "folder"]
_library_guard = threading.Lock()
_kept: list[object] = []
"""What C code may still point to; a connection can outlive the block that it was opened in."""


class Operation(msgspec.Struct, frozen=True, gc=False):
    """One thing done to the disk; `folder` is the sync of the folder `path`."""

    kind: Kind
    path: str
    offset: int = 0
    """Of a write its first byte, of a truncation the new size."""
    data: bytes = b""
    is_new: bool = False
    """Whether an open made the file."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Which operation fails: the `nth` (from 0) of `kind` on a path that ends in `suffix`, counted from `fail`."""

    kind: Kind
    nth: int
    code: int
    suffix: str = ""
    lasts: bool = False
    """Whether all that come after it fail too, until `heal`."""


class DiskLayer:
    """Everything that SQLite did to the disk while `installed`, in order.

    Threads: operations take turns, so that the order of the log is the order on the disk.
    """

    def __init__(self) -> None:
        self.log: list[Operation] = []
        self.problems: list[BaseException] = []
        """Errors of this module itself; a test must find none."""
        self.num_failed = 0
        """How many operations were made to fail."""
        self._guard = threading.RLock()
        self._fault: Fault | None = None
        self._num_seen = 0
        self._files: dict[int, _File] = {}
        self._tables: dict[int, tuple[FileMethods, _Real]] = {}
        self._library = library()
        self._real = Vfs.from_address(self._library.sqlite3_vfs_find(b"unix"))
        self._name = f"datahall-{id(self):x}"
        self._vfs = self._make_vfs()
        _kept.append(self)

    def fail(self, fault: Fault) -> None:
        """Let `fault` happen from now on; it replaces the one before."""
        with self._guard:
            self._fault, self._num_seen = fault, 0

    def heal(self) -> None:
        """Let nothing fail any more."""
        with self._guard:
            self._fault = None

    def note(self, operation: Operation) -> None:
        """Add what somebody else did to the disk, such as a sync of the folder by our own code."""
        with self._guard:
            self.log.append(operation)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Make every connection opened in the block go through this layer; one at a time in a process."""
        alone = _library_guard.acquire(blocking=False)
        assert alone, "one layer is installed at a time"
        try:
            self._register()
            yield
        finally:
            self._library.sqlite3_vfs_unregister(ctypes.byref(self._vfs))
            self._library.sqlite3_vfs_register(ctypes.byref(self._real), 1)
            _library_guard.release()

    def _register(self) -> None:
        assert self._library.sqlite3_vfs_register(ctypes.byref(self._vfs), 1) == OK
        try:
            with closing(sqlite3.connect(f"file::memory:?vfs={self._name}", uri=True)):
                pass
        except sqlite3.OperationalError as error:
            raise UnavailableError(f"the layer was not registered where Python's SQLite looks: {error}") from error

    def _make_vfs(self) -> Vfs:
        made = Vfs()
        ctypes.memmove(ctypes.byref(made), ctypes.byref(self._real), ctypes.sizeof(Vfs))
        made.name = self._name.encode()
        made.open = Vfs.OPEN(self._guarded(self._open))
        made.delete = Vfs.DELETE(self._guarded(self._delete))
        return made

    def _guarded(self, work: Callable[..., int]) -> Callable[..., int]:
        """Return `work` for C to call: one at a time, and never with an exception, which would be lost there."""

        def call(*arguments: Any) -> int:
            with self._guard:
                try:
                    return work(*arguments)
                except BaseException as error:  # noqa: BLE001  (there is no Python above that could take it)
                    self.problems.append(error)
                    return IOERR

        return call

    def _attempt(self, kind: Kind, path: str) -> int:
        """Return the code with which this operation is to fail, OK where it is not."""
        fault = self._fault
        if fault is None or fault.kind != kind or not path.endswith(fault.suffix):
            return OK
        number, self._num_seen = self._num_seen, self._num_seen + 1
        if number == fault.nth or (fault.lasts and number > fault.nth):
            self.num_failed += 1
            return fault.code
        return OK

    def _open(self, vfs: int, name: int | None, file: int, flags: int, out: Any) -> int:
        del vfs
        path = "" if not name else os.fsdecode(ctypes.string_at(name))
        is_new = bool(path) and not os.path.lexists(path)
        if path and (failed := self._attempt("open", path)):
            ctypes.c_void_p.from_address(file).value = None  # SQLite closes a file that has methods
            return failed
        code: int = self._real.open(ctypes.addressof(self._real), name, file, flags, out)
        if code == OK and path:
            self._adopt(file, path, syncs_folder=bool(flags & CREATING and flags & SYNCS_FOLDER))
            self.log.append(Operation("open", path, is_new=is_new))
        return code

    def _adopt(self, file: int, path: str, *, syncs_folder: bool) -> None:
        """Put our own table of methods in the place of the real one's, whose first field points to it."""
        head = ctypes.c_void_p.from_address(file)
        address = head.value
        assert address is not None, "an open file has methods"
        if address not in self._tables:
            self._tables[address] = self._make_table(FileMethods.from_address(address))
        ours, real = self._tables[address]
        self._files[file] = _File(path, real, syncs_folder)
        head.value = ctypes.addressof(ours)

    def _make_table(self, real: FileMethods) -> tuple[FileMethods, _Real]:
        ours = FileMethods()
        ctypes.memmove(ctypes.byref(ours), ctypes.byref(real), ctypes.sizeof(FileMethods))
        kept = _Real(real.close, real.write, real.truncate, real.sync)
        ours.close = FileMethods.CLOSE(self._guarded(self._close))
        ours.write = FileMethods.WRITE(self._guarded(self._write))
        ours.truncate = FileMethods.TRUNCATE(self._guarded(self._truncate))
        ours.sync = FileMethods.SYNC(self._guarded(self._sync))
        return ours, kept

    def _write(self, file: int, data: int, num_bytes: int, offset: int) -> int:
        mine = self._files[file]
        code = self._attempt("write", mine.path) or mine.real.write(file, data, num_bytes, offset)
        if code == OK:
            self.log.append(Operation("write", mine.path, offset, ctypes.string_at(data, num_bytes)))
        return code

    def _truncate(self, file: int, num_bytes: int) -> int:
        mine = self._files[file]
        code = self._attempt("truncate", mine.path) or mine.real.truncate(file, num_bytes)
        if code == OK:
            self.log.append(Operation("truncate", mine.path, num_bytes))
        return code

    def _sync(self, file: int, flags: int) -> int:
        mine = self._files[file]
        code = self._attempt("sync", mine.path) or mine.real.sync(file, flags)
        if code == OK:
            self.log.append(Operation("sync", mine.path))
            if mine.syncs_folder:
                self.log.append(Operation("folder", os.path.dirname(mine.path)))  # noqa: PTH120  (a name, no Path)
                mine.syncs_folder = False
        return code

    def _close(self, file: int) -> int:
        mine = self._files.pop(file)
        code: int = mine.real.close(file)
        self.log.append(Operation("close", mine.path))
        return code

    def _delete(self, vfs: int, name: int, sync_folder: int) -> int:
        del vfs
        path = os.fsdecode(ctypes.string_at(name))
        code = self._attempt("delete", path) or self._real.delete(ctypes.addressof(self._real), name, sync_folder)
        if code == OK:
            self.log.append(Operation("delete", path))
            if sync_folder:
                self.log.append(Operation("folder", os.path.dirname(path)))  # noqa: PTH120  (a name, no Path)
        return code


class _Real(msgspec.Struct, frozen=True):
    """The unix VFS's own functions behind one table of methods."""

    close: Callable[[int], int]
    write: Callable[[int, int, int, int], int]
    truncate: Callable[[int, int], int]
    sync: Callable[[int, int], int]


class _File(msgspec.Struct):
    """An open file; its first sync makes its name durable too where the unix VFS does so."""

    path: str
    real: _Real
    syncs_folder: bool


def library() -> ctypes.CDLL:
    """Return the SQLite that Python's own `sqlite3` module runs. Raises UnavailableError where it cannot be reached.

    Looking a symbol up in the extension module finds it there, or in the shared library that it was linked with.
    """
    try:
        found = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
        found.sqlite3_sourceid.restype = ctypes.c_char_p
        found.sqlite3_vfs_find.restype = ctypes.c_void_p
        found.sqlite3_vfs_register.argtypes = [ctypes.c_void_p, ctypes.c_int]
        found.sqlite3_vfs_unregister.argtypes = [ctypes.c_void_p]
        said = found.sqlite3_sourceid().decode()
    except (AttributeError, OSError) as error:
        raise UnavailableError(f"this Python's SQLite cannot be reached: {error}") from error
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        expected = connection.execute("SELECT sqlite_source_id()").fetchone()[0]
    if said != expected:
        raise UnavailableError(f"the SQLite that was found is '{said}', Python's own is '{expected}'")
    return found
