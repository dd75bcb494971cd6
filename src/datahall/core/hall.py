"""Where a hall keeps its things: one folder, and a short one for its sockets."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from datahall.core.canonical import digest_bytes
from datahall.core.errors import UserError

DEFAULT_FOLDER = ".datahall"
HOME_VARIABLE = "DATAHALL_HOME"


class HallPaths:
    """The layout of one hall's folder; nothing is created until `create` is called."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        self._runtime: Path | None = None
        self.db = self.root / "hall.db"
        self.lock = self.root / "hall.lock"
        self.supervisor_lock = self.root / "supervisor.lock"
        self.blobs = self.root / "blobs"
        self.keys = self.root / "keys"
        self.answers = self.root / "answers"
        self.logs = self.root / "logs"
        self.work = self.root / "work"
        self.reports = self.root / "reports"
        self.routes = self.root / "routes.json"
        self.state = self.root / "supervisor.json"
        self.owner_key = self.keys / "owner.key"

    @classmethod
    def choose(cls, folder: Path | None) -> HallPaths:
        """Return the hall that `--hall`, then DATAHALL_HOME, then `./.datahall` names."""
        return cls(folder or Path(os.environ.get(HOME_VARIABLE) or DEFAULT_FOLDER))

    @property
    def exists(self) -> bool:
        """Whether a hall has been created here."""
        return self.db.exists()

    def create(self) -> None:
        """Create the folders with mode 0700.

        Raises UserError where a folder cannot be made or belongs to somebody else.
        """
        for folder in (self.root, self.blobs, self.keys, self.answers, self.logs, self.work, self.reports):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.chmod(0o700)
            except OSError as error:
                raise UserError(
                    f"cannot use {folder}: {error.strerror}", hint="choose another with --hall DIR"
                ) from error

    def runtime(self) -> Path:
        """Return (and create, mode 0700) the folder of this hall's Unix sockets.

        A socket's path may have 107 bytes at most (sun_path, unix(7)), so it cannot lie under the hall's own folder.
        """
        base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
        folder = base / f"datahall-{os.getuid()}-{digest_bytes(os.fsencode(self.root))[:12]}"
        if len(os.fsencode(folder)) > 70:  # leave room for the socket's own name
            folder = Path("/tmp") / folder.name  # noqa: S108  (0700, ours, and checked below)
        self._runtime = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if status.st_uid != os.getuid() or status.st_mode & 0o077 or folder.is_symlink():
            raise UserError(f"{folder} is not a private folder of yours", hint=f"remove it: rm -r {folder}")
        return folder

    def drop_runtime(self) -> None:
        """Remove the folder of the sockets if nobody has one there any more."""
        if self._runtime is not None:
            with contextlib.suppress(OSError):  # somebody of this hall still listens, or it is gone already
                self._runtime.rmdir()

    def control_socket(self) -> Path:
        """Return where the process that holds this hall listens, if it does."""
        return self.runtime() / "control.sock"
