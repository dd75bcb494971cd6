"""Killed at any step, or out of disk at any step: there is a whole backup or none, a whole hall or none."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from datahall.app.backup.reader import Archive
from datahall.core.errors import ConflictError, DatahallError, StorageFullError
from datahall.core.failpoints import armed
from datahall.core.hall import HallPaths

BACKUP = [
    "backup.file/sync:before",
    "backup.file/sync:after",
    "backup.place/link:before",
    "backup.place/link:after",
    "backup.part/remove:before",
    "backup.part/remove:after",
    "backup.place/folder:before",
    "backup.place/folder:after",
]
REPLACE = ["backup.replace/rename:before", "backup.replace/rename:after"]
STALE = ["backup.stale/remove:before", "backup.stale/remove:after"]
RESTORE = [
    "restore.clear:before",
    "restore.clear:after",
    "restore.file/sync:before",
    "restore.file/sync:after",
    "restore.keys/sync:before",
    "restore.keys/sync:after",
    "restore.keys/rename:before",
    "restore.keys/rename:after",
    "restore.keys/folder:before",
    "restore.keys/folder:after",
    "restore.staged/folder:before",
    "restore.staged/folder:after",
    "restore.place/rename:before",
    "restore.place/rename:after",
    "restore.place/folder:before",
    "restore.place/folder:after",
]
ASIDE = ["restore.aside/rename:before", "restore.aside/rename:after"]


def reached(work):
    """Return the names of backup and restore steps that `work` reaches, each once, in order."""
    names = []
    with armed(names.append):
        work()
    return list(dict.fromkeys(name for name in names if name.startswith(("backup.", "restore."))))


def killed_at(name, work):
    """Run `work` in a process of its own that is killed with SIGKILL when it reaches `name`."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a child that hangs must not outlive the test

        def hook(place):
            if place == name:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            with armed(hook):
                work()
        finally:
            os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"{name} was never reached"
    assert os.WTERMSIG(status) == signal.SIGKILL


SETTINGS = [f"restore.settings/{step}:{when}" for step in ("sync", "rename", "folder") for when in ("before", "after")]


def full_at(name):
    def hook(place):
        if place == name:
            raise OSError(errno.ENOSPC, "No space left on device")

    return armed(hook)


@pytest.fixture
def rested(hall):
    """A hall that nobody has open: a fork must not inherit a database."""
    hall.close()
    return hall


def whole(file, keys):
    with Archive.open(file, keys) as archive:
        return len(list(archive.check()))


def test_these_are_the_steps(rested, kit, tmp_path):
    file = tmp_path / "b.dhb"
    assert reached(lambda: rested.back_up(file)) == BACKUP
    (tmp_path / "b.dhb.part").touch()
    assert reached(lambda: rested.back_up(file, replace=True)) == [*STALE, *BACKUP[:2], *REPLACE, *BACKUP[-2:]]
    assert reached(lambda: kit.restore(file, rested.paths.keys, tmp_path / "back")) == RESTORE
    again = reached(lambda: kit.restore(file, rested.paths.keys, tmp_path / "back", replace=True))
    assert again == [*RESTORE[:-4], *ASIDE, *RESTORE[-4:]]


@pytest.mark.parametrize("name", BACKUP)
def test_a_backup_that_is_killed_leaves_a_part_or_is_whole(rested, kit, tmp_path, name):
    file = tmp_path / "b.dhb"
    killed_at(name, lambda: rested.back_up(file))
    placed = file.exists()
    assert placed == (BACKUP.index(name) > BACKUP.index("backup.place/link:before"))
    assert {path.name for path in tmp_path.iterdir()} <= {"hall", "b.dhb", "b.dhb.part"}
    if placed:
        before = file.read_bytes()
        assert whole(file, rested.keys)
        with pytest.raises(DatahallError, match="already"):
            rested.back_up(file)
        assert file.read_bytes() == before
    rested.back_up(file, replace=placed)
    assert {path.name for path in tmp_path.iterdir()} == {"hall", "b.dhb"}
    assert whole(file, rested.keys)
    kit.assert_whole(rested.paths)
    assert list(rested.paths.work.iterdir()) == []


def test_the_other_name_of_a_finished_backup_is_never_written_over(rested, tmp_path):
    """Killed between its two names, a backup has both: the next one has to begin a file of its own."""
    file = tmp_path / "b.dhb"
    killed_at("backup.part/remove:before", lambda: rested.back_up(file))
    assert file.stat().st_nlink == 2
    before = file.read_bytes()
    killed_at("backup.file/sync:before", lambda: rested.back_up(file, replace=True))
    assert file.read_bytes() == before


@pytest.mark.parametrize("name", [*STALE, *BACKUP[:2], *REPLACE])
def test_a_backup_that_replaces_one_leaves_the_old_or_the_new(rested, tmp_path, name):
    file = tmp_path / "b.dhb"
    first = rested.back_up(file)
    (tmp_path / "b.dhb.part").touch()
    killed_at(name, lambda: rested.back_up(file, replace=True))
    with Archive.open(file, rested.keys) as archive:
        assert len(list(archive.check())) > 0
        assert (archive.header.id == first.id) == (name != "backup.replace/rename:after")


def test_a_part_that_is_no_backup_is_somebody_s_and_stays(rested, tmp_path):
    part = tmp_path / "thesis.part"
    part.write_bytes(b"my thesis")
    with pytest.raises(ConflictError, match="not a part of a backup"):
        rested.back_up(tmp_path / "thesis")
    assert part.read_bytes() == b"my thesis"
    for left in (b"", b"DHBACKUP1\nhalf"):  # the control: what a killed backup leaves goes
        part.write_bytes(left)
        rested.back_up(tmp_path / "thesis", replace=True)
        assert not part.exists()


@pytest.mark.parametrize("name", BACKUP)
def test_a_backup_without_room_leaves_no_file_and_says_so(rested, tmp_path, name):
    file = tmp_path / "b.dhb"
    with full_at(name), pytest.raises(StorageFullError, match="No space left") as caught:
        rested.back_up(file)
    assert "try again" in caught.value.hint
    if BACKUP.index(name) <= BACKUP.index("backup.place/link:before"):
        assert [path.name for path in tmp_path.iterdir()] == ["hall"]
    rested.back_up(file, replace=True)
    assert whole(file, rested.keys)


def test_a_file_system_without_links_takes_a_backup_too(rested, tmp_path):
    def hook(place):
        if place == "backup.place/link:before":
            raise OSError(errno.EPERM, "Operation not permitted")

    with armed(hook):
        rested.back_up(tmp_path / "b.dhb")
    assert {path.name for path in tmp_path.iterdir()} == {"hall", "b.dhb"}
    assert whole(tmp_path / "b.dhb", rested.keys)


def test_a_file_that_comes_up_meanwhile_is_not_replaced(rested, tmp_path):
    def hook(place):
        if place == "backup.place/link:before":
            (tmp_path / "b.dhb").write_text("a letter")

    with armed(hook), pytest.raises(ConflictError, match="already"):
        rested.back_up(tmp_path / "b.dhb")
    assert (tmp_path / "b.dhb").read_text() == "a letter"
    assert {path.name for path in tmp_path.iterdir()} == {"hall", "b.dhb"}


@pytest.fixture(scope="module")
def saved(kit, tmp_path_factory):
    """A backup, and the keys to it; nobody has its hall open."""
    root = tmp_path_factory.mktemp("saved")
    made = kit.Built(root / "hall")
    made.close()
    made.file = root / "b.dhb"
    made.back_up(made.file)
    return made


@pytest.mark.parametrize("name", RESTORE)
def test_a_restore_that_is_killed_leaves_no_hall_or_a_whole_one_and_can_be_repeated(saved, kit, tmp_path, name):
    root = tmp_path / "back"
    killed_at(name, lambda: kit.restore(saved.file, saved.paths.keys, root))
    assert root.exists() == (RESTORE.index(name) > RESTORE.index("restore.place/rename:before"))
    if not root.exists():
        kit.restore(saved.file, saved.paths.keys, root)
    assert [path.name for path in tmp_path.iterdir()] == ["back"]
    kit.assert_whole(HallPaths(root))


@pytest.mark.parametrize("name", [*ASIDE, *RESTORE[-4:]])
def test_a_restore_that_replaces_a_hall_never_loses_it(saved, kit, tmp_path, name):
    root = tmp_path / "back"
    kit.restore(saved.file, saved.paths.keys, root)
    (root / "mark").touch()
    killed_at(name, lambda: kit.restore(saved.file, saved.paths.keys, root, replace=True))
    kept = [path for path in tmp_path.iterdir() if (path / "mark").exists()]
    assert len(kept) == 1
    kit.assert_whole(HallPaths(kept[0]))
    if not root.exists():
        kit.restore(saved.file, saved.paths.keys, root)
    kit.assert_whole(HallPaths(root))


@pytest.mark.parametrize("name", [*ASIDE[:1], "restore.place/rename:before"])
def test_a_restore_that_cannot_take_the_place_leaves_the_hall_that_was_there(saved, kit, tmp_path, name):
    root = tmp_path / "back"
    kit.restore(saved.file, saved.paths.keys, root)
    (root / "mark").touch()
    with full_at(name), pytest.raises(StorageFullError, match="No space left"):
        kit.restore(saved.file, saved.paths.keys, root, replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["back"]
    assert (root / "mark").exists()
    kit.assert_whole(HallPaths(root))


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_it_puts_the_old_hall_back_it_has_lost_none(saved, kit, tmp_path, when):
    root = tmp_path / "back"
    kit.restore(saved.file, saved.paths.keys, root)
    (root / "mark").touch()

    def hook(place):
        if place == "restore.place/rename:before":
            raise OSError(errno.ENOSPC, "No space left on device")
        if place == f"restore.back/rename:{when}":
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            with armed(hook):
                kit.restore(saved.file, saved.paths.keys, root, replace=True)
        finally:
            os._exit(7)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    (kept,) = [path for path in tmp_path.iterdir() if (path / "mark").exists()]
    kit.assert_whole(HallPaths(kept))


@pytest.mark.parametrize("name", SETTINGS)
def test_killed_while_it_takes_the_witnesses_over_it_leaves_the_hall_that_was_there(saved, kit, tmp_path, name):
    root = tmp_path / "back"
    kit.restore(saved.file, saved.paths.keys, root)
    (root / "hall.toml").touch(mode=0o600)
    (root / "hall.toml").write_text("witness = ['file:/w']")
    killed_at(name, lambda: kit.restore(saved.file, saved.paths.keys, root, replace=True))
    assert (root / "hall.toml").read_text() == "witness = ['file:/w']"
    kit.restore(saved.file, saved.paths.keys, root, replace=True)
    assert (root / "hall.toml").read_text() == 'witness = ["file:/w"]\n'


@pytest.mark.parametrize("name", RESTORE[:-2])
def test_a_restore_without_room_leaves_nothing(saved, kit, tmp_path, name):
    if name == "restore.place/rename:after":
        return  # the hall is in place by then
    with full_at(name), pytest.raises(StorageFullError, match="No space left"):
        kit.restore(saved.file, saved.paths.keys, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    kit.restore(saved.file, saved.paths.keys, tmp_path / "back")
