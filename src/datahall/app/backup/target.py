"""The file that a backup is written to: `FILE.part` until it has been read back, then FILE, at once and for good."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from datahall.app.backup.form import MAGIC
from datahall.app.backup.reader import Archive
from datahall.core.durable import link, remove, rename, sync_file, sync_folder
from datahall.core.errors import ConflictError, IntegrityError, StorageFullError, UserError
from datahall.security.keys import KeyRing

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EMLINK})


class Target:
    """Where a backup goes. `replace` allows to put it in the place of an older backup, never of anything else.

    Raises UserError for a name that no file can have.
    """

    def __init__(self, path: Path, *, replace: bool = False) -> None:
        if not _is_possible(path):
            raise UserError("no file can have this name", where=ascii(str(path))[:200])
        self.path = path.absolute()
        self.part = self.path.with_name(f"{self.path.name}.part")
        self._replace = replace

    @contextmanager
    def written(self) -> Iterator[BinaryIO]:
        """Yield the open part file, mode 0600; whatever stops the block, no part of a backup is left.

        Raises ConflictError where there is a FILE that must not be replaced, or somebody else writes the part;
        UserError where there is no folder; StorageFullError where the disk does not take it.
        """
        self._check()
        with said_plainly(self.path.parent):
            file = self._open_part()
            try:
                yield file
            except BaseException:  # half a backup must not outlive even a Ctrl-C
                file.close()
                with suppress(OSError):
                    remove(self.part, at="backup.discard")
                raise
            file.close()

    def sync(self, file: BinaryIO) -> None:
        """Make what was written survive power loss."""
        file.flush()
        sync_file(file.fileno(), at="backup.file")

    def check_no_better(self, keys: KeyRing, lacks: tuple[str, ...]) -> None:
        """Raise ConflictError where a backup that is whole would be replaced by one that `lacks` objects."""
        if not self._replace or not self.path.exists():
            return
        try:
            with Archive.open(self.path, keys) as old:
                is_worse = bool(old.manifest.damaged)
        except IntegrityError:  # nobody can restore it anyway
            is_worse = True
        except UserError:  # of other keys, so nobody here can tell
            is_worse = False
        if not is_worse:
            raise ConflictError(
                f"the new backup would lack {len(lacks)} objects, so the one that is there is not replaced: {lacks[0]}",
                where=str(self.path),
                hint="see what is damaged with: datahall verify --objects; give the new backup another name",
            )

    def place(self) -> None:
        """Give the part file its name. Raises ConflictError where a FILE has come up meanwhile."""
        if self._replace:
            rename(self.part, self.path, at="backup.replace")
        else:
            self._link()
        sync_folder(self.path.parent, at="backup.place")

    def _link(self) -> None:
        # A link fails where there is a file already; a rename would replace it.
        try:
            link(self.part, self.path, at="backup.place")
        except FileExistsError as error:
            raise self._exists() from error
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._check()  # a file system without links: as close to it as there is
            rename(self.part, self.path, at="backup.place")
        else:
            remove(self.part, at="backup.part")

    def _check(self) -> None:
        if not self.path.parent.is_dir():
            raise UserError("there is no such folder", where=str(self.path.parent), hint="make it first")
        if not os.path.lexists(self.path):
            return
        if not self._replace:
            raise self._exists()
        if self.path.is_symlink() or not self.path.is_file() or not _is_backup(self.path):
            raise ConflictError(
                "this is not a backup, so it is not replaced by one",
                where=str(self.path),
                hint="choose another name",
            )

    def _exists(self) -> ConflictError:
        return ConflictError(
            "there is a file of that name already", where=str(self.path), hint="choose another, or replace it: --force"
        )

    def _open_part(self) -> BinaryIO:
        """Return a new part file that nobody else writes; one that a dead backup left behind is removed first."""
        busy = ConflictError("another backup is written there", where=str(self.part), hint="try again when it is done")
        with suppress(FileNotFoundError):
            stale = os.open(self.part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if not _locked(stale) or not _is(self.part, stale):
                    raise busy
                if os.pread(stale, len(MAGIC), 0) not in {b"", MAGIC}:
                    raise ConflictError(
                        "there is a file that is not a part of a backup",
                        where=str(self.part),
                        hint="choose another name for the backup, or move that file",
                    )
                # Removed, not written over: killed at the wrong moment, it may be the finished backup's other name.
                remove(self.part, at="backup.stale")
            finally:
                os.close(stale)
        try:
            descriptor = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise busy from error
        if not _locked(descriptor):
            os.close(descriptor)
            raise busy
        return os.fdopen(descriptor, "w+b")


@contextmanager
def said_plainly(where: Path) -> Iterator[None]:
    """Turn a disk that is full, that fails, or that is not ours to write, into words."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise UserError(f"cannot use it: {error.strerror}", where=str(error.filename or where)) from error
        raise StorageFullError(
            f"the disk did not take it: {error.strerror}",
            where=str(where),
            hint="free some space or choose another disk, then try again",
        ) from error


def _is_possible(path: Path) -> bool:
    try:
        return bool(path.name) and b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def _is_backup(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _locked(descriptor: int) -> bool:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(path: Path, descriptor: int) -> bool:
    """Whether `path` still names the open file."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
