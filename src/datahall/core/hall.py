"""Where a hall keeps its things: one folder, and a short one for its sockets."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from pathlib import Path

from datahall.core.canonical import digest_bytes
from datahall.core.durable import remove, write_atomic
from datahall.core.errors import UserError

DEFAULT_FOLDER = ".datahall"
HOME_VARIABLE = "DATAHALL_HOME"


_LEFTOVER = re.compile(r"\..+\.([1-9][0-9]{0,8})\.[0-9a-f]{8}")
"""What `core/durable.py` calls a copy under way: `.<name>.<process>.<random>`."""


class HallPaths:
    """The layout of one hall's folder; nothing is created until `create` is called."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        self.db = self.root / "hall.db"
        self.telemetry = self.root / "telemetry.db"
        self.lock = self.root / "hall.lock"
        self.supervisor_lock = self.root / "supervisor.lock"
        self.blobs = self.root / "blobs"
        self.cache = self.root / "cache"
        self.keys = self.root / "keys"
        self.answers = self.root / "answers"
        self.decisions = self.root / "decisions"
        self.logs = self.root / "logs"
        self.work = self.root / "work"
        self.reports = self.root / "reports"
        self.runtime_path = self.root / "runtime.path"
        self.routes = self.root / "routes.json"
        self.state = self.root / "supervisor.json"
        self.owner_key = self.keys / "owner.key"
        self.settings = self.root / "hall.toml"
        self.backup_lock = self.root / "backup.lock"

    @classmethod
    def choose(cls, folder: Path | None) -> HallPaths:
        """Return the hall that `--hall`, then DATAHALL_HOME, then `./.datahall` names."""
        return cls(folder or Path(os.environ.get(HOME_VARIABLE) or DEFAULT_FOLDER))

    @property
    def exists(self) -> bool:
        """Whether a hall has been created here."""
        return self.db.exists() or self.owner_key.exists()  # without a file of its own, the catalogue is elsewhere

    def create(self) -> None:
        """Create the folders with mode 0700.

        Raises UserError where a folder cannot be made or belongs to somebody else.
        """
        private = (self.root, self.blobs, self.keys, self.answers, self.decisions, self.logs, self.work, self.reports)
        for folder in private:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.chmod(0o700)
            except OSError as error:
                raise UserError(
                    f"cannot use {folder}: {error.strerror}", hint="choose another with --hall DIR"
                ) from error

    def clear_leftovers(self) -> None:
        """Remove the half-written copies that killed processes left beside the hall's files; only under the hall's lock."""
        for folder in (self.root, self.keys, self.answers, self.work, self.reports):
            for path in folder.iterdir() if folder.is_dir() else ():
                name = _LEFTOVER.fullmatch(path.name)
                if name and not path.is_dir() and not _is_alive(int(name[1])):
                    with contextlib.suppress(FileNotFoundError):
                        remove(path, at="hall.leftover")

    def runtime(self) -> Path:
        """Return (and create, mode 0700) the folder of this hall's Unix sockets.

        A socket's path may have 107 bytes at most (sun_path, unix(7)), so it cannot lie under the hall's own folder.
        The hall remembers which folder it is: whoever calls later may have another XDG_RUNTIME_DIR, as under cron.
        """
        name = f"datahall-{os.getuid()}-{digest_bytes(os.fsencode(self.root))[:12]}"
        with contextlib.suppress(OSError):
            remembered = Path(self.runtime_path.read_text("utf-8"))
            # A copy of a hall lies elsewhere, so its name is another: the two must not share sockets.
            if remembered.name.startswith(name) and _is_private(remembered):
                return remembered
        folder = _runtime_base() / name
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        if not _is_private(folder):  # somebody else made it first: take one whose name nobody can foresee
            folder = folder.with_name(f"{name}-{os.urandom(6).hex()}")
            folder.mkdir(mode=0o700)
        if self.root.is_dir():
            write_atomic(self.runtime_path, os.fsencode(folder), at="hall.runtime")
        return folder

    def drop_runtime(self) -> None:
        """Remove the folder of the sockets if nobody has one there any more."""
        with contextlib.suppress(OSError):  # somebody of this hall still listens, or it is gone already
            Path(self.runtime_path.read_text("utf-8")).rmdir()
            self.runtime_path.unlink()

    def control_socket(self) -> Path:
        """Return where the process that holds this hall listens, if it does."""
        return self.runtime() / "control.sock"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _runtime_base() -> Path:
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    # leave room for the names of the folder, of a replica's own folder, and of its socket
    return base if base.is_dir() and len(os.fsencode(base)) <= 26 else Path("/tmp")  # noqa: S108  (0700 inside, checked)


def _is_private(folder: Path) -> bool:
    """Whether `folder` is a folder of ours that nobody else can enter; raises OSError where it is not there."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
