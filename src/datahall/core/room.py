"""A disk that takes no more, told as what it is: nothing was acknowledged, and a later try may succeed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from datahall.core.errors import StorageFullError

_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
Chunk = TypeVar("Chunk")


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Turn a disk's refusal to take what the block writes into StorageFullError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise StorageFullError(
            f"there is no room, or the disk does not take what it is given: {os.strerror(error.errno or 0)}",
            where=str(folder),
            hint="free some space on this disk, or look at its health, and run it again",
        ) from error


class SourceError(Exception):
    """Carries an error of the source's own past `room_in`: a source that fails is not a full disk."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def own_errors(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks; an OSError of theirs becomes a SourceError."""
    try:
        yield from chunks
    except OSError as error:
        raise SourceError(error) from error
