"""The only door to the disk's promises: every sync, rename, link, removal, cut and commit of the house, each with a name.

`at` names the step for the failpoints before and after it (`core/failpoints.py`), as `<room>.<what>`; no two calls
share one. A test scans the code: no other file makes one of these system calls itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from datahall.core.failpoints import reach


def write_atomic(path: Path, data: bytes | memoryview, *, at: str, mode: int = 0o600) -> None:
    """Replace `path` by `data` so that a crash leaves the old bytes or the new ones, and power loss too."""
    write_pieces(path, (data,), at=at, mode=mode)


def write_pieces(path: Path, pieces: Iterable[bytes | bytearray | memoryview], *, at: str, mode: int = 0o600) -> None:
    """As `write_atomic`, for bytes that come in pieces; where `pieces` raises, nothing is left behind.

    The copy under way is locked, so that whoever clears up can tell it from one that a killed writer left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for piece in pieces:
                file.write(piece)
            file.flush()
            sync_file(file.fileno(), at=at)
        rename(temporary, path, at=at)
    except BaseException:  # the half-written copy must not outlive even a Ctrl-C
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent, at=at)


def sync_file(descriptor: int, *, at: str) -> None:
    """Make the bytes and the size of an open file survive power loss (fsync(2))."""
    step(f"{at}/sync", lambda: os.fsync(descriptor))


def sync_data(descriptor: int, *, at: str) -> None:
    """As `sync_file`, without times that nobody reads (fdatasync(2))."""
    step(f"{at}/sync", lambda: os.fdatasync(descriptor))


def sync_folder(folder: Path, *, at: str) -> None:
    """Make the names in `folder` survive power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        step(f"{at}/folder", lambda: os.fsync(descriptor))
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path, *, at: str) -> None:
    """Put `source` in the place of `target`, whether there was one or not; durable after `sync_folder`."""
    step(f"{at}/rename", lambda: source.replace(target))


def link(source: Path, target: Path, *, at: str) -> None:
    """Give `source` a second name. Raises FileExistsError where there is a file of that name."""
    step(f"{at}/link", lambda: os.link(source, target, follow_symlinks=False))


def remove(path: Path, *, at: str) -> None:
    """Remove a file for good. Raises FileNotFoundError where there is none; durable after `sync_folder`."""
    step(f"{at}/remove", path.unlink)


def cut(path: Path, num_bytes: int, *, at: str) -> None:
    """Cut a file behind its first bytes (truncate(2)); durable after `sync_file`."""
    step(f"{at}/cut", lambda: os.truncate(path, num_bytes))


def step(name: str, work: Callable[[], object]) -> None:
    """Do one durable step, a database's commit for example, between its two failpoints."""
    reach(f"{name}:before")
    work()
    reach(f"{name}:after")
