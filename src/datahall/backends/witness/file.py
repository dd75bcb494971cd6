"""A witness in a folder outside the hall, so that restoring an old copy of the hall's folder does not go unseen."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from datahall.core.canonical import digest_bytes
from datahall.core.durable import write_atomic
from datahall.core.errors import UnavailableError
from datahall.ledger.witnessing import Prove, check_head, out_of_reach


def default_folder() -> Path:
    """Return the user's own place for state: $XDG_STATE_HOME/datahall/witness (XDG base directories)."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "datahall" / "witness"


class FileWitness:
    """Remembers each hall's newest tree head, one file an origin. Several processes may share a folder."""

    def __init__(self, folder: Path, prove: Prove) -> None:
        self.folder = folder
        self._prove = prove

    def newest(self, origin: str) -> str | None:
        """Return the newest checkpoint note seen of `origin`, None if there is none. Raises UnavailableError."""
        try:
            return self.path(origin).read_text("utf-8", errors="replace")  # a garbled note is refused when it is read
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._out_of_reach(error) from error

    def publish(self, origin: str, note: str) -> None:
        """Remember `note` as the newest of `origin`.

        Raises IntegrityError, and remembers nothing, where `check_head` does. Raises UnavailableError where the folder
        cannot be used.
        """
        where = str(self.path(origin))
        check_head(origin, None, note, self._prove, where=where, forget="")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._alone(origin):
                seen, forget = self.newest(origin), "remove the file named above"
                check_head(origin, seen, note, self._prove, where=where, forget=forget)
                write_atomic(self.path(origin), note.encode(), at="witness.note")
        except OSError as error:
            raise self._out_of_reach(error) from error

    def _out_of_reach(self, error: OSError) -> UnavailableError:
        return out_of_reach(error.strerror or str(error), str(self.folder))

    def path(self, origin: str) -> Path:
        """Return the file that holds the newest note of `origin`, whether there is one or not."""
        # Named by digest: an origin may hold slashes.
        return self.folder / f"{digest_bytes(origin.encode())[:32]}.note"

    @contextmanager
    def _alone(self, origin: str) -> Iterator[None]:
        descriptor = os.open(self.path(origin).with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


if TYPE_CHECKING:
    from datahall.core.ports import Witness

    _: Witness = FileWitness(Path(), lambda _old, _new: [])
