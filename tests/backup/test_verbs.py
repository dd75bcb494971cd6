"""What the command line says of a backup and of a restore."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from datahall.app.cli.main import app
from datahall.app.cli.show import size
from datahall.app.settings import Settings, read_settings
from datahall.app.stores import open_witness
from datahall.backends.witness.file import FileWitness
from datahall.backends.witness.git import GitWitness
from datahall.core.canonical import digest_bytes
from datahall.core.errors import NotFoundError
from datahall.testing.catalogue import app as application
from datahall.testing.catalogue import declare


@pytest.fixture
def do(tmp_path):
    """Run a command with a state folder of its own; errors are raised."""

    def run(*words):
        environment = {"XDG_STATE_HOME": str(tmp_path / "state"), "COLUMNS": "300"}
        result = CliRunner().invoke(app, [str(word) for word in words], env=environment)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.stdout

    return run


@pytest.fixture
def witness(tmp_path):
    return FileWitness(tmp_path / "state" / "datahall" / "witness", lambda _old, _new: [])


def restored(do, hall, tmp_path, *options):
    return do("--hall", tmp_path / "back", "restore", tmp_path / "b.dhb", "--keys", hall.paths.keys, *options)


def test_a_backup_of_a_hall_that_nobody_holds_is_made_by_the_command_itself(hall, do, tmp_path):
    hall.close()
    said = do("--hall", hall.paths.root, "backup", tmp_path / "b.dhb")
    assert "point of recovery: 20" in said
    assert f"Keep a copy of {hall.paths.keys} elsewhere" in said
    assert (tmp_path / "b.dhb").exists()


def test_a_restore_names_the_moment_and_the_way_on(hall, do, witness, tmp_path):
    made = hall.back_up(tmp_path / "b.dhb")
    witness.publish(hall.origin, hall.integrate_note())
    said = restored(do, hall, tmp_path)
    assert f"point of recovery: {made.at}, {made.num_entries} entries, {made.num_signed} under" in said
    assert f"datahall --hall {tmp_path / 'back'} verify" in said
    assert "lost" not in said


def test_a_restore_names_what_a_witness_saw_and_the_command_that_accepts_the_loss(hall, do, witness, tmp_path):
    made = hall.back_up(tmp_path / "b.dhb")
    declare(hall.catalogue, application("later"))
    witness.publish(hall.origin, hall.integrate().note)
    said = restored(do, hall, tmp_path)
    assert f"lost: 1 entries ({made.num_entries} to {made.num_entries}) were witnessed" in said
    note = witness.path(hall.origin)
    assert f"mv {note} {note}.before-restore" in said


def test_a_witness_that_cannot_be_asked_keeps_nobody_from_their_hall(hall, do, witness, kit, tmp_path):
    hall.back_up(tmp_path / "b.dhb")
    witness.path(hall.origin).mkdir(parents=True)
    said = json.loads(restored(do, hall, tmp_path, "--json"))
    assert said["restored"]["lost"] is None
    assert "witness cannot be reached" in said["unasked"]


def test_a_witness_that_knows_nothing_is_no_proof_that_nothing_was_lost(hall, do, tmp_path):
    hall.back_up(tmp_path / "b.dhb")
    said = restored(do, hall, tmp_path)
    assert "whether anything was lost is not known: no witness that was reached knows this hall" in said


@pytest.mark.parametrize("spoilt", [b"\xff\xfe", b"rubbish"])
def test_a_garbled_note_keeps_nobody_from_their_hall(hall, do, witness, tmp_path, spoilt):
    hall.back_up(tmp_path / "b.dhb")
    witness.folder.mkdir(parents=True)
    witness.path(hall.origin).write_bytes(spoilt)
    assert "whether anything was lost is not known: " in restored(do, hall, tmp_path)


def name_witnesses(hall, *texts):
    hall.paths.settings.touch(mode=0o600)
    hall.paths.settings.write_text(f"cache_bytes = 5\nblobs = 's3://old/place'\nwitness = {list(texts)}\n")


def test_a_hall_put_in_the_place_of_another_asks_the_same_witnesses_and_names_what_was_lost(hall, do, tmp_path):
    hall.back_up(tmp_path / "b.dhb")
    declare(hall.catalogue, application("later"))
    GitWitness(tmp_path / "heads", lambda _old, _new: []).publish(hall.origin, hall.integrate_note())
    hall.close()
    names = (f"git:{tmp_path}/heads", f"file:{tmp_path}/notes")
    name_witnesses(hall, *names)
    said = do("--hall", hall.paths.root, "restore", tmp_path / "b.dhb", "--keys", hall.paths.keys, "--force")
    assert "lost: 1 entries" in said
    assert f"delete the branch datahall/{digest_bytes(hall.origin.encode())[:32]} in {tmp_path}/heads" in said
    assert "mv " not in said, "there is no note in the folder"
    assert read_settings(hall.paths) == Settings(witness=names), "database and objects are its own"
    assert hall.paths.settings.stat().st_mode & 0o077 == 0
    open_witness(read_settings(hall.paths), hall.paths, lambda _old, _new: [], hall.clock).newest(hall.origin)


def test_the_command_names_a_folder_as_it_is(hall, do, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    hall.back_up(tmp_path / "b.dhb")
    declare(hall.catalogue, application("later"))
    seen = FileWitness(tmp_path / "w", lambda _old, _new: [])
    seen.publish(hall.origin, hall.integrate_note())
    hall.close()
    name_witnesses(hall, "file:~/w")
    said = do("--hall", hall.paths.root, "restore", tmp_path / "b.dhb", "--keys", hall.paths.keys, "--force")
    assert f"mv {seen.path(hall.origin)} " in said


def test_a_backup_that_is_not_there_is_said_to_be_missing(hall, do, tmp_path):
    with pytest.raises(NotFoundError, match="no such backup"):
        restored(do, hall, tmp_path)


@pytest.mark.parametrize(
    ("num_bytes", "words"), [(0, "0 bytes"), (999, "999 bytes"), (1_500, "1.5 kB"), (2 * 10**9, "2.0 GB")]
)
def test_a_size_is_said_as_people_do(num_bytes, words):
    assert size(num_bytes) == words
