"""A witness in a folder outside the hall, so that restoring an old copy of the hall's folder does not go unseen."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from datahall.core.canonical import digest_bytes
from datahall.core.durable import write_atomic
from datahall.core.errors import IntegrityError, UnavailableError
from datahall.ledger.checkpoint import read_note
from datahall.ledger.tree import verify_consistency

Prove = Callable[[int, int], Sequence[bytes]]
"""Returns the consistency proof between two sizes, such as `partial(consistency_proof, read=store.nodes)`."""


def default_folder() -> Path:
    """Return the user's own place for state: $XDG_STATE_HOME/datahall/witness (XDG base directories)."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "datahall" / "witness"


class FileWitness:
    """Remembers each hall's newest tree head, and takes another only with a proof that it extends the old one.

    The proof comes from the hall (`prove`) but cannot be forged: it must lead from the remembered root to the new one.
    So the newest head stands for all before it, and one file an origin suffices. Several processes may share it.
    """

    def __init__(self, folder: Path, prove: Prove) -> None:
        self.folder = folder
        self._prove = prove

    def newest(self, origin: str) -> str | None:
        """Return the newest checkpoint note seen of `origin`, None if there is none. Raises UnavailableError."""
        try:
            return self.path(origin).read_text("utf-8")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._out_of_reach(error) from error

    def publish(self, origin: str, note: str) -> None:
        """Remember `note` as the newest of `origin`.

        Raises IntegrityError, and remembers nothing, for a note of another origin, one with fewer entries than
        were seen, and one whose tree does not extend the tree that was seen. Raises UnavailableError where the folder
        cannot be used.
        """
        new = read_note(note)
        if new.origin != origin:
            raise IntegrityError(f"a checkpoint of '{new.origin}' was published as one of '{origin}'")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._alone(origin):
                seen = self.newest(origin)
                if seen is not None:
                    self._check_extends(origin, seen, note)
                write_atomic(self.path(origin), note.encode(), at="witness.note")
        except OSError as error:
            raise self._out_of_reach(error) from error

    def _check_extends(self, origin: str, seen_note: str, note: str) -> None:
        seen, new = read_note(seen_note), read_note(note)
        where = str(self.path(origin))
        if new.size < seen.size:
            raise IntegrityError(
                f"the ledger has {new.size} entries, but {seen.size} were witnessed: it was cut off or rolled back",
                where=where,
                hint="restore the newer copy of the hall; to accept the loss, remove the file named above",
            )
        if not verify_consistency(seen.size, seen.root, new.size, new.root, self._prove(seen.size, new.size)):
            raise IntegrityError(
                f"the ledger does not extend the {seen.size} entries that were witnessed: it was rewritten",
                where=where,
                hint="compare it with a copy you trust: datahall verify",
            )

    def _out_of_reach(self, error: OSError) -> UnavailableError:
        return UnavailableError(
            f"the witness cannot be reached: {error.strerror}",
            where=str(self.folder),
            hint="until it can, a hall that is rolled back to an old copy would not be noticed",
        )

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
