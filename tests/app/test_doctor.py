"""What the doctor finds, that it finds nothing in a sound hall, and that looking changes nothing."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import msgspec
import pytest
from typer.testing import CliRunner

from datahall.app import doctor as looks
from datahall.app.cli.verbs import doctor
from datahall.app.control import Control
from datahall.app.doctor import examine
from datahall.app.origin import origin_of
from datahall.app.wiring import open_hall
from datahall.backends.db.lock import HallLock
from datahall.backends.db.migrate import migrate_sqlite
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.backends.db.unfinished import marker_of
from datahall.backends.witness.file import FileWitness, default_folder
from datahall.core.errors import HallBusyError, NotFoundError, UserError
from datahall.core.hall import HallPaths
from datahall.security.keys import KeyRing
from datahall.testing.catalogue import app, declare
from datahall.testing.clock import AutoClock
from tests.backends.object_server import OPTIONS, Server
from tests.postgres import name_of

CHECKS = ["schema", "migration", "lock", "keys", "database", "free space", "witness", "blobs"]


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    paths = HallPaths(tmp_path / "hall")
    paths.create()
    keys = KeyRing.open(paths.keys, create=True)
    catalogue = SqliteCatalogue(paths.db, AutoClock(), entry_key=keys.entry_key)
    declare(catalogue, app())
    catalogue.close()
    return paths


def bad(paths):
    return {one.check: one for one in examine(paths) if not one.ok}


def test_a_sound_hall_is_left_alone_and_nothing_is_found(paths):
    before = {file: file.stat().st_mtime_ns for file in paths.root.rglob("*") if file != paths.lock and file.is_file()}
    findings = examine(paths)
    assert [one.check for one in findings] == CHECKS
    assert [one for one in findings if not one.ok] == []
    assert {file: file.stat().st_mtime_ns for file in before} == before


def spoil_schema(paths):
    migrate_sqlite(paths.db, "0001", entry_key=KeyRing.open(paths.keys).entry_key)


def spoil_newer(paths):
    with closing(sqlite3.connect(paths.db)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")


def spoil_page(paths):
    data = bytearray(paths.db.read_bytes())
    for start in range(4096, len(data), 4096):
        data[start : start + 100] = b"\xff" * 100
    paths.db.write_bytes(data)


@pytest.mark.parametrize(
    ("check", "spoil", "run"),
    [
        ("schema", spoil_schema, "datahall doctor --migrate"),
        ("schema", spoil_newer, "pip install --upgrade datahall"),
        (
            "migration",
            lambda paths: marker_of(paths.db).write_text('{"source": "0001", "target": "0002", "snapshot": "x"}'),
            "datahall doctor --migrate --to 0002",
        ),
        ("migration", lambda paths: marker_of(paths.db).write_bytes(b"\xff{"), "restore a backup"),
        ("keys", lambda paths: (paths.keys / "signing.key").chmod(0o644), "chmod 600"),
        ("keys", lambda paths: paths.keys.chmod(0o755), "chmod 700"),
        ("keys", lambda paths: (paths.keys / "master.key").unlink(), "restore the keys folder"),
        ("database", spoil_page, "restore"),
        ("blobs", lambda paths: paths.blobs.chmod(0o755), "chmod 700"),
        ("blobs", lambda paths: paths.blobs.rmdir(), "restore it from a backup"),
    ],
)
def test_what_is_not_well_is_found_with_the_command_to_run(paths, check, spoil, run):
    assert bad(paths) == {}
    spoil(paths)
    found = bad(paths)
    assert check in found
    assert run in found[check].run or "datahall verify" in found[check].run


def test_little_room_and_a_witness_out_of_reach_are_found(paths, monkeypatch, tmp_path):
    monkeypatch.setattr(looks, "MIN_FREE_BYTES", 1 << 62)
    assert "du -sh" in bad(paths)["free space"].run
    (tmp_path / "state").write_text("a file where a folder should be")
    assert "witness" in bad(paths)


def test_who_holds_the_hall_is_told(paths):
    with HallLock(paths.lock):
        lock = next(one for one in examine(paths) if one.check == "lock")
    assert lock.ok
    assert "holds the hall" in lock.said


def do(paths, *arguments):
    result = CliRunner().invoke(doctor.command, list(arguments), obj=paths)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_command_says_so_in_its_exit_code_and_as_json(paths):
    result = do(paths)
    assert (result.exit_code, "fail" in result.output) == (0, False)
    spoil_schema(paths)
    result = do(paths, "--json")
    assert result.exit_code == 1
    assert {one["check"]: one["ok"] for one in json.loads(result.output)}["schema"] is False


def test_the_command_migrates_there_and_back(paths):
    assert "has schema 0001 now" in do(paths, "--migrate", "--to", "0001", "--yes").output
    assert do(paths).exit_code == 1
    said = json.loads(do(paths, "--migrate", "-y", "--json").output)
    assert said == {"schema": "0002", "snapshot": str(paths.root / "hall.db.before-0002")}
    assert do(paths).exit_code == 0
    assert "already" in do(paths, "--migrate", "--yes").output


def test_it_migrates_no_hall_that_is_up_nor_without_being_told_to(paths, tmp_path):
    with HallLock(paths.lock), pytest.raises(HallBusyError, match="holds this hall"):
        do(paths, "--migrate", "--to", "0001", "--yes")
    with pytest.raises(UserError, match="changes the hall's database"):
        do(paths, "--migrate", "--to", "0001")
    with pytest.raises(NotFoundError):
        do(HallPaths(tmp_path / "none"))
    assert bad(paths) == {}


def test_a_hall_in_postgres_is_looked_over_too(paths, postgres, postgres_url):
    paths.db.unlink()
    paths.settings.write_text(f'database = "{postgres_url}"\n')
    assert bad(paths) == {}
    with pytest.raises(UserError, match="began with schema"):
        do(paths, "--migrate", "--yes")
    empty = postgres.fresh()
    paths.settings.write_text(f'database = "{empty}"\n')
    assert bad(paths).keys() == {"schema", "database"}
    assert postgres.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", database=name_of(empty)) == [(0,)]
    postgres.drop(empty)
    assert "check that the server runs" in bad(paths)["database"].run


@pytest.mark.parametrize("note", [b"", b"\xff\xfe", b"one line", b"a\nb\nc\n"])
def test_a_note_that_is_garbled_is_found(paths, note):
    witness = FileWitness(default_folder(), lambda _old, _new: [])
    witness.folder.mkdir(parents=True)
    witness.path(origin_of(KeyRing.open(paths.keys).signer)).write_bytes(note)
    assert "not a checkpoint" in bad(paths)["witness"].said


def test_a_bucket_is_asked_and_its_cache_is_shown(paths, monkeypatch):
    server = Server()
    monkeypatch.setenv("HALL_SECRET", OPTIONS["secret_access_key"])
    text = (
        f"[objects]\nendpoint = 'http://{server.host}:{server.port}'\nregion = '{OPTIONS['region']}'\n"
        f"access_key_id = '{OPTIONS['access_key_id']}'\nsecret_access_key_env = 'HALL_SECRET'\n"
    )
    paths.settings.touch(mode=0o600)
    paths.settings.write_text(f"blobs = 's3://{server.bucket()}/hall'\n{text}")
    assert bad(paths) == {}
    (found,) = [one for one in examine(paths) if one.check == "blobs"]
    assert "answers" in found.said
    with open_hall(paths) as hall:
        hall.vault.store("main", b"data", "text/plain")
        assert Control(hall).status().cache.misses == 0
        assert "hits" in json.loads(msgspec.json.encode(Control(hall).status()))["cache"]
    paths.settings.write_text(f"blobs = 's3://no-such-bucket/hall'\n{text}")
    assert bad(paths).keys() == {"blobs"}, "the control"
    assert "s3://no-such-bucket/hall: the object store does not answer" in bad(paths)["blobs"].said
    server.close()
