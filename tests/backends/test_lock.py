"""One process at a time holds a hall, and a dead one does not."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from datahall.backends.db.lock import HallLock
from datahall.core.errors import HallBusyError

HOLD = """
import sys
from pathlib import Path
from datahall.backends.db.lock import HallLock
HallLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hall.lock"


def test_a_second_holder_is_refused_with_the_first_one_s_pid(path):
    with HallLock(path) as first:
        assert first.held
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert HallLock(path).holder() == os.getpid()
        with pytest.raises(HallBusyError, match=f"process {os.getpid()} holds this hall"):
            HallLock(path).acquire()
    assert not first.held
    assert first.holder() is None
    with HallLock(path):
        pass


def test_a_killed_holder_holds_nothing(path):
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(HallBusyError, match=f"process {child.pid}"):
            HallLock(path).acquire()
        child.kill()
        child.wait(10)
    with HallLock(path) as lock:
        assert lock.holder() == os.getpid()


def test_a_child_started_meanwhile_does_not_inherit_the_lock(path):
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    lock = HallLock(path)
    lock.acquire()
    with subprocess.Popen(command, stdin=subprocess.PIPE, close_fds=False) as child:
        lock.release()
        with HallLock(path):
            pass
        child.kill()


def test_release_twice_and_a_file_without_a_pid(path):
    lock = HallLock(path)
    assert lock.holder() is None
    lock.release()
    path.write_text("not a pid")
    assert lock.holder() is None
    with lock, pytest.raises(AssertionError):
        lock.acquire()
