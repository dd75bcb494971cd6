"""What a folder of sealed objects holds: files under `<team>/<first two digits>/<object>`, and nothing that poses as one."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from datahall.core.durable import sync_folder
from datahall.core.errors import IntegrityError, NotFoundError
from datahall.security.sealing import check_object, check_team, is_object_name, is_team_name


def path_of(folder: Path, object_name: str, *, team: str) -> Path:
    """Return the file of one object, whether it exists or not. Raises UserError for an impossible name."""
    return folder / check_team(team) / check_object(object_name)[:2] / object_name


def open_object(path: Path) -> int:
    """Open an object's file and return its descriptor. Raises NotFoundError, or IntegrityError for what is no file."""
    try:
        # O_NONBLOCK: a FIFO planted under an object's name must not hang its reader.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise NotFoundError("there is no such object, or not for this process", where=path.name) from error
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENXIO}:
            raise
        raise IntegrityError("a link or device lies where the object should be", where=path.name) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IntegrityError("what lies there is not the object", where=path.name)
    return descriptor


def make_shard(folder: Path, shard: Path, *, at: str) -> None:
    """Make the folder of an object durable, with those above it up to the store's own."""
    missing = [parent for parent in (shard, shard.parent, folder) if not parent.is_dir()]
    for parent in reversed(missing):
        parent.mkdir(mode=0o700, parents=parent == folder, exist_ok=True)
        sync_folder(parent.parent, at=at)


def teams_in(folder: Path) -> Iterator[Path]:
    """Yield the real folders of teams."""
    return filter(lambda found: is_team_name(found.name), _folders(folder))


def objects_in(team_folder: Path) -> Iterator[Path]:
    """Yield the regular files that carry an object's name and lie in its place."""
    return (path for path in files_in(team_folder) if is_in_place(path))


def files_in(team_folder: Path) -> Iterator[Path]:
    """Yield whatever lies in a team's shards and is no folder."""
    for shard in _folders(team_folder):
        with os.scandir(shard) as found:
            yield from (Path(item.path) for item in found if not item.is_dir(follow_symlinks=False))


def is_in_place(path: Path) -> bool:
    """Return whether a path is a regular file under an object's name in its place."""
    shard = path.parent.name
    return (
        is_object_name(path.name)
        and len(shard) == 2
        and path.name.startswith(shard)
        and stat.S_ISREG(path.lstat().st_mode)
    )


def is_temporary(path: Path) -> bool:
    """Return whether a name is that of a copy under way: `.<object>.<process>.<random>`."""
    return path.name.startswith(".") and is_object_name(path.name[1:33]) and path.name[33:34] == "."


def _folders(folder: Path) -> Iterator[Path]:
    """Yield the real folders inside `folder`, none if it is missing."""
    if folder.is_dir():
        with os.scandir(folder) as found:
            yield from (Path(item.path) for item in found if item.is_dir(follow_symlinks=False))
