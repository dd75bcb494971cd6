"""What is backed up comes back: the ledger, every object, the answers up to the last whole one."""

from __future__ import annotations

import shutil
import threading

import pytest

from datahall.app.backup.make import Backups
from datahall.app.backup.mark import BackupMark
from datahall.app.backup.reader import Archive
from datahall.app.events import StepEnded
from datahall.app.jobs import Cancel
from datahall.app.sealing import Sealer
from datahall.app.vault import Vault
from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.blobs.memory import MemoryBlobStore
from datahall.backends.db.lock import HallLock
from datahall.backends.db.snapshot import snapshot
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.errors import (
    ConflictError,
    HallBusyError,
    IntegrityError,
    UnavailableError,
    UserError,
)
from datahall.core.records import App, Artifact
from datahall.ledger.checkpoint import read_note, sign_checkpoint
from datahall.security.signing import Ed25519Signer
from datahall.serve.segments import AnswerLog, read_segment, segment_files
from datahall.testing.catalogue import app, declare


def test_a_hall_comes_back_whole_on_another_place(hall, kit, tmp_path):
    said = hall.back_up(tmp_path / "b.dhb")
    before = hall.catalogue.entries()
    answers = {
        path.name: read_segment(path, hall.keys.answer_key).answers for path in segment_files(hall.paths.answers)
    }
    restored, paths = kit.restore(tmp_path / "b.dhb", hall.paths.keys, tmp_path / "other" / "hall")
    entries, checkpoint = kit.assert_whole(paths)
    assert entries == before
    assert (restored.num_entries, restored.at) == (said.num_entries, said.at) == (len(before), said.at)
    assert checkpoint == hall.catalogue.checkpoint()
    assert restored.num_signed == said.num_signed == checkpoint.size
    assert {
        path.name: read_segment(path, hall.keys.answer_key).answers for path in segment_files(paths.answers)
    } == answers
    assert (paths.reports / "tumours.html").read_bytes() == kit.CANARY * 3
    assert said.size_bytes == (tmp_path / "b.dhb").stat().st_size
    assert {path.stat().st_mode & 0o077 for path in [paths.root, *paths.root.rglob("*")]} == {0}
    assert sorted(path.name for path in paths.root.parent.iterdir()) == ["hall"]


def test_nothing_of_the_hall_can_be_read_in_the_file_and_no_key_is_in_it(hall, kit, tmp_path):
    hall.back_up(tmp_path / "b.dhb")
    data = (tmp_path / "b.dhb").read_bytes()
    secrets = [path.read_bytes().strip() for path in hall.paths.keys.iterdir()]
    assert len(secrets) == 4
    plain = [kit.CANARY, b"ward", b"tumours.html", b"SQLite format 3", *secrets]
    assert [word for word in plain if word in data] == []
    stored = b"".join(path.read_bytes() for path in hall.paths.root.glob("hall.db*"))
    assert kit.CANARY in stored, "the control: the hall's own files do hold it"
    with Archive.open(tmp_path / "b.dhb", hall.keys) as archive:
        names = [member.name for member in archive.manifest.members]
        everything = b"".join(b"".join(archive.read(number)) for number in range(len(names)))
    assert not any("key" in name for name in names)
    assert [secret for secret in secrets if secret in everything] == [], "not even behind the encryption"
    assert kit.CANARY in everything


def test_the_end_of_an_answer_that_was_never_whole_stays_behind(hall, kit, tmp_path):
    (path,) = [path for path in segment_files(hall.paths.answers) if path.suffix == ".open"]
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(b"\0\0\1\0torn")
    hall.back_up(tmp_path / "b.dhb")
    _, paths = kit.restore(tmp_path / "b.dhb", hall.paths.keys, tmp_path / "back")
    assert (paths.answers / path.name).read_bytes() == whole


def moved_meanwhile(hall, kit, num_before, num_after):
    """Return how to copy the database after answers came, were sealed and moved since the segments were copied."""
    for _ in range(num_before):
        hall.log.append([kit.answer(hall.log)])

    def copy(target, told):
        for _ in range(num_after):
            hall.log.append([kit.answer(hall.log)])
        hall.log.rotate(0, force=True)
        hall.sealer().seal()
        hall.integrate()
        snapshot(hall.paths.db, target, told)

    return Backups(hall.paths, hall.keys, hall.blobs, hall.clock, copy)


@pytest.mark.parametrize(("num_before", "num_after"), [(2, 3), (0, 3), (2, 0), (0, 0)])
def test_answers_that_move_while_a_backup_is_made_do_not_stick_in_the_restored_hall(
    hall, kit, tmp_path, num_before, num_after
):
    work = moved_meanwhile(hall, kit, num_before, num_after)
    work.make(tmp_path / "b.dhb", replace=False, notify=lambda _: None, cancel=Cancel())
    _, paths = kit.restore(tmp_path / "b.dhb", hall.paths.keys, tmp_path / "back")
    log = AnswerLog(paths.answers, "g1", hall.keys.answer_key, now_ns=0)
    assert log.next_sequence == hall.log.next_sequence, "no number is given out twice"
    back = SqliteCatalogue(paths.db, hall.clock, entry_key=hall.keys.entry_key)
    sealer = Sealer(
        back, Vault(back, LocalBlobStore(paths.blobs), hall.keys), paths.answers, hall.keys.answer_key, hall.clock
    )
    for _ in range(2):
        log.append([kit.answer(log)])
        log.rotate(0, force=True)
        assert (sealer.seal(), sealer.problems) == (1, ())
    assert segment_files(paths.answers) == []
    back.close()


def test_a_file_that_is_there_is_never_replaced_unasked(hall, tmp_path):
    file = tmp_path / "b.dhb"
    file.write_text("a letter")
    for replace, match in ((False, "already"), (True, "not a backup")):
        with pytest.raises(ConflictError, match=match):
            hall.back_up(file, replace=replace)
    assert file.read_text() == "a letter"
    file.unlink()
    first = hall.back_up(file)
    with pytest.raises(ConflictError, match="already"):
        hall.back_up(file)
    second = hall.back_up(file, replace=True)
    assert first.id != second.id
    with Archive.open(file, hall.keys) as archive:
        assert archive.header.id == second.id
    with pytest.raises(UserError, match="no such folder"):
        hall.back_up(tmp_path / "nowhere" / "b.dhb")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.dhb", "hall"]


def test_a_hall_that_is_there_is_never_replaced_unasked(kept, kit, tmp_path):
    root = tmp_path / "hall"
    root.mkdir()
    (root / "letter").write_text("dear")
    with pytest.raises(ConflictError, match="nothing is restored"):
        kit.restore(kept.file, kept.paths.keys, root)
    assert (root / "letter").read_text() == "dear"
    said, paths = kit.restore(kept.file, kept.paths.keys, root, replace=True)
    kit.assert_whole(paths)
    (aside,) = [path for path in tmp_path.iterdir() if path != root]
    assert (str(aside), (aside / "letter").read_text()) == (said.aside, "dear")
    empty = tmp_path / "empty"
    empty.mkdir()
    kit.restore(kept.file, kept.paths.keys, empty)


def test_a_hall_that_somebody_holds_is_not_moved_aside(hall, kit, tmp_path):
    hall.back_up(tmp_path / "b.dhb")
    with HallLock(hall.paths.lock), pytest.raises(HallBusyError):
        kit.restore(tmp_path / "b.dhb", hall.paths.keys, hall.paths.root, replace=True)
    assert hall.paths.exists


def test_the_keys_of_another_hall_are_refused_by_name(kept, kit, tmp_path):
    other = kit.Built(tmp_path / "other")
    other.close()
    with pytest.raises(UserError, match="not the keys of this backup") as caught:
        kit.restore(kept.file, other.paths.keys, tmp_path / "back")
    assert kept.origin in str(caught.value)
    assert other.origin in str(caught.value)
    assert "--keys" in caught.value.hint
    assert not (tmp_path / "back").exists()


def test_keys_from_before_the_master_key_changed_are_refused_and_newer_ones_open_old_backups(hall, kit, tmp_path):
    old = tmp_path / "old-keys"
    old.mkdir(mode=0o700)
    for path in hall.paths.keys.iterdir():
        (old / path.name).touch(mode=0o600)
        (old / path.name).write_bytes(path.read_bytes())
    hall.back_up(tmp_path / "before.dhb")
    hall.keys.rotate()
    hall.back_up(tmp_path / "after.dhb")
    with pytest.raises(UserError, match="another master key since"):
        kit.restore(tmp_path / "after.dhb", old, tmp_path / "back")
    kit.restore(tmp_path / "before.dhb", hall.paths.keys, tmp_path / "back")


def test_what_a_witness_saw_and_the_backup_lacks_is_named(hall, kit, tmp_path):
    hall.back_up(tmp_path / "b.dhb")
    has = len(hall.catalogue.entries())
    restored, _ = kit.restore(tmp_path / "b.dhb", hall.paths.keys, tmp_path / "a", witnessed=hall.integrate_note())
    assert restored.lost is None
    for number in range(3):
        declare(hall.catalogue, app(f"later-{number}"))
    newest = hall.integrate()
    restored, _ = kit.restore(tmp_path / "b.dhb", hall.paths.keys, tmp_path / "b", witnessed=newest.note)
    assert restored.lost == (has, has + 3) == (has, read_note(newest.note).size)


def test_a_backup_that_does_not_extend_what_was_witnessed_is_refused(hall, kit, tmp_path):
    hall.back_up(tmp_path / "b.dhb")
    size = hall.catalogue.checkpoint().size
    forked = sign_checkpoint(hall.origin, size, b"f" * 32, hall.keys.signer).note
    with pytest.raises(IntegrityError, match=f"held checkpoint {size}"):
        kit.restore(tmp_path / "b.dhb", hall.paths.keys, tmp_path / "back", witnessed=forked)
    assert not (tmp_path / "back").exists()
    # The control: what is not signed by the hall proves nothing against it.
    stranger = sign_checkpoint(hall.origin, size, b"f" * 32, Ed25519Signer.generate()).note
    said, _ = kit.restore(tmp_path / "b.dhb", hall.paths.keys, tmp_path / "back", witnessed=stranger)
    assert (said.lost, "cannot be believed" in said.unknown) == (None, True)


def test_a_second_backup_and_a_collection_wait_for_the_first(hall, tmp_path):
    mark = BackupMark(hall.paths.backup_lock)
    asked = []

    def notify(event):
        if isinstance(event, StepEnded) and event.name == "database":
            with mark.collecting() as free:
                asked.append(free)
            with pytest.raises(ConflictError, match="another backup"):
                hall.back_up(tmp_path / "second.dhb")

    hall.back_up(tmp_path / "first.dhb", notify=notify)
    assert asked == [False]
    with mark.collecting() as free:
        assert free
        with pytest.raises(ConflictError, match="collection"):
            hall.back_up(tmp_path / "third.dhb")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.dhb", "hall"]


def test_two_halls_do_not_write_into_one_file(hall, kit, tmp_path):
    other = kit.Built(tmp_path / "other")

    def notify(event):
        if isinstance(event, StepEnded) and event.name == "copy":
            with pytest.raises(ConflictError, match="another backup is written there"):
                other.back_up(tmp_path / "b.dhb")

    said = hall.back_up(tmp_path / "b.dhb", notify=notify)
    other.close()
    with Archive.open(tmp_path / "b.dhb", hall.keys) as archive:
        assert archive.header.id == said.id
        assert len(list(archive.check())) > 0


def test_two_restores_do_not_build_one_hall(kept, kit, tmp_path):
    def notify(event):
        if isinstance(event, StepEnded) and event.name == "extract":
            with pytest.raises(ConflictError, match="another restore goes on"):
                kit.restore(kept.file, kept.paths.keys, tmp_path / "back")

    _, paths = kit.restore(kept.file, kept.paths.keys, tmp_path / "back", notify=notify)
    kit.assert_whole(paths)


def test_objects_of_a_store_that_has_no_files_are_backed_up_too(hall, kit, tmp_path):
    elsewhere = MemoryBlobStore()
    for artifact in hall.catalogue.find(Artifact):
        stored = hall.blobs.read_stored(artifact.object, team=artifact.team)
        elsewhere.write_stored(artifact.object, stored, team=artifact.team)
        hall.blobs.delete(artifact.object, team=artifact.team)
    hall.blobs = elsewhere
    hall.back_up(tmp_path / "b.dhb")
    _, paths = kit.restore(tmp_path / "b.dhb", hall.paths.keys, tmp_path / "back")
    kit.assert_whole(paths)


def test_whoever_leaves_stops_it(hall, tmp_path):
    cancel = Cancel()

    def notify(event):
        if isinstance(event, StepEnded):
            cancel.ask()

    with pytest.raises(UnavailableError, match="stopped"):
        hall.back_up(tmp_path / "b.dhb", notify=notify, cancel=cancel)
    assert [path.name for path in tmp_path.iterdir()] == ["hall"]
    assert list(hall.paths.work.iterdir()) == []


def test_a_plain_copy_of_the_database_would_lose_what_was_acknowledged(hall, tmp_path):
    """The control: copied as a file, the database lacks what still lies in its log, and the count shows it."""

    def copy(target, _told):
        shutil.copyfile(hall.paths.db, target)

    naive = Backups(hall.paths, hall.keys, hall.blobs, hall.clock, copy)
    said = naive.make(tmp_path / "naive.dhb", replace=False, notify=lambda _: None, cancel=Cancel())
    assert said.num_entries < hall.back_up(tmp_path / "b.dhb").num_entries == len(hall.catalogue.entries())


def test_twenty_backups_under_writes_hold_all_that_was_acknowledged_before(hall, kit, tmp_path):
    acknowledged, ending = [], threading.Event()

    def write():
        number = 0
        while not ending.is_set():
            declare(hall.catalogue, app(f"app-{number}"))
            acknowledged.append(f"app-{number}")
            if number % 10 == 0:
                hall.store(500)
            if number % 7 == 0:
                hall.integrate()
            if number % 3 == 0:
                hall.log.append([kit.answer(hall.log)])
                hall.log.rotate(0, force=number % 60 == 0)
            number += 1
            ending.wait(0.01)  # a busy hall, not a race for this machine's disk

    writer = threading.Thread(target=write)
    writer.start()
    moved = []
    try:
        for number in range(20):
            wanted = len(acknowledged) + hall.draw.randrange(10)
            while len(acknowledged) < wanted:
                assert writer.is_alive(), "the writer broke"
                ending.wait(0.001)
            before = set(acknowledged)
            hall.back_up(tmp_path / "b.dhb", replace=True)
            moved.append(len(acknowledged) - len(before))
            with Archive.open(tmp_path / "b.dhb", hall.keys) as archive:
                manifest = archive.manifest
            _, paths = kit.restore(tmp_path / "b.dhb", hall.paths.keys, tmp_path / f"back-{number}")
            entries, checkpoint = kit.assert_whole(paths)
            assert checkpoint.note == manifest.checkpoint
            assert len(entries) == manifest.num_entries
            there = {entry.app for entry in entries if entry.kind == "app.declared"}
            assert before <= there, f"lost: {sorted(before - there)}"
    finally:
        ending.set()
        writer.join(30)
    assert sum(moved) > 0, "it wrote while backups went on"
    assert len(hall.catalogue.find(App)) > 20
