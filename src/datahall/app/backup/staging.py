"""The folder in which a hall is put together before it takes its place: whole and durable, or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from datahall.app.backup.form import parts_of
from datahall.backends.blobs.local import LocalBlobStore
from datahall.core.durable import rename, step, sync_file, sync_folder, write_atomic
from datahall.core.errors import ConflictError
from datahall.core.hall import HallPaths
from datahall.security.keys import ANSWER_FILE, MASTER_FILE, OWNER_FILE, SIGNING_FILE


class Staging:
    """`DIR.restoring` beside the hall that is to be: on its disk, so that one rename puts it in place."""

    def __init__(self, root: Path) -> None:
        self.paths = HallPaths(root)
        self._blobs = LocalBlobStore(self.paths.blobs)

    @classmethod
    @contextmanager
    def beside(cls, root: Path) -> Iterator[Staging]:
        """Yield an empty staging folder that nobody else uses; what is still there at the end is removed.

        Raises ConflictError where another restore goes on there.
        """
        folder = root.with_name(f"{root.name}.restoring")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not _locked(descriptor) or not _is(folder, descriptor):
                raise ConflictError(
                    "another restore goes on there", where=str(folder), hint="try again when it is through"
                )
            try:
                _clear(folder)  # of a restore that was killed
                folder.chmod(0o700)
                yield cls(folder)
            finally:
                if _is(folder, descriptor):  # else it has become the hall
                    _clear(folder)
                    folder.rmdir()
        finally:
            os.close(descriptor)

    def put(self, name: str, chunks: Iterable[bytes]) -> Path:
        """Write one member of a backup, mode 0600, and make it survive power loss; return its place."""
        path = self._place(name)
        self._make_folder(path.parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            sync_file(file.fileno(), at="restore.file")
        return path

    def put_keys(self, folder: Path) -> None:
        """Copy the keys that a hall starts with; their modes were checked when they were read."""
        for name in (MASTER_FILE, SIGNING_FILE, ANSWER_FILE, OWNER_FILE):
            write_atomic(self.paths.keys / name, (folder / name).read_bytes(), at="restore.keys")

    def put_witnesses(self, witnesses: Sequence[str]) -> None:
        """Let the hall ask the witnesses of the one whose place it takes.

        No more of that one's settings: a hall out of a backup has database and objects in its own folder.
        """
        if witnesses:
            texts = ", ".join(json.dumps(text, ensure_ascii=False) for text in witnesses)  # a JSON text is one of TOML
            write_atomic(self.paths.settings, f"witness = [{texts}]\n".encode(), at="restore.settings")

    def become(self, root: Path, aside: Path | None) -> None:
        """Take the place of `root`; what is there is moved to `aside` first, and back where this one cannot follow."""
        for folder, _, _ in os.walk(self.paths.root):
            sync_folder(Path(folder), at="restore.staged")
        if aside is not None:
            rename(root, aside, at="restore.aside")
        try:
            rename(self.paths.root, root, at="restore.place")
        except BaseException:  # nobody is to be left without a hall, not even by a Ctrl-C
            if aside is not None and not root.exists():
                rename(aside, root, at="restore.back")
            raise
        sync_folder(root.parent, at="restore.place")

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            self._make_folder(folder.parent)  # one by one: what `parents` makes is open to others
            folder.mkdir(mode=0o700)

    def _place(self, name: str) -> Path:
        parts = parts_of(name)
        if parts[0] == "blobs":
            return self._blobs.path(parts[2], team=parts[1])
        return self.paths.root.joinpath(*parts)


def _clear(folder: Path) -> None:
    def work() -> None:
        for found in folder.iterdir():
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)
            else:
                found.unlink()

    step("restore.clear", work)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(folder: Path, descriptor: int) -> bool:
    """Whether `folder` still names the open folder."""
    try:
        return os.path.samestat(folder.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
