"""An auditor who has Python and `cryptography` but no Datahall checks a hall with the kit."""

import shlex
import sqlite3
import subprocess
import sys

import pytest

from datahall.app.audit import write_kit
from datahall.app.owner import ensure_owner
from datahall.app.wiring import open_hall
from datahall.core.errors import UserError
from datahall.core.hall import HallPaths


@pytest.fixture
def kit(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    paths = HallPaths(tmp_path / "hall")
    with open_hall(paths) as hall:
        ensure_owner(hall.catalogue, hall.keys, hall.clock)
        checkpoint = hall.sequencer.flush()
        public_key = hall.keys.signer.public_key
    return paths, write_kit(tmp_path / "a kit", paths, public_key, checkpoint.note)


def run_alone(command):
    # -I and an empty folder: nothing of this checkout can be imported, so the kit really stands alone
    arguments = [sys.executable, "-I", *shlex.split(command)[1:]]
    return subprocess.run(arguments, capture_output=True, text=True, cwd="/", env={}, check=False, timeout=60)


def test_the_kit_verifies_without_datahall(kit):
    done = run_alone(kit[1])
    assert (done.returncode, done.stderr) == (0, "")
    assert "every entry lies under a checkpoint that you hold" in done.stdout


def test_the_kit_sees_a_change(kit):
    paths, command = kit
    with sqlite3.connect(paths.db) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")  # they stop accidents; whoever owns the file can drop them
        connection.execute("UPDATE entries SET body = CAST(replace(body, 'owner', 'other') AS BLOB) WHERE seq = 0")
    connection.close()
    done = run_alone(command)
    assert done.returncode == 1
    assert "CHANGED" in done.stdout


def test_a_kit_that_cannot_be_written_is_refused_in_words(tmp_path, kit):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write the kit"):
        write_kit(tmp_path / "file" / "kit", kit[0], bytes(32), None)
