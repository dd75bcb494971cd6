"""Whether a hall is up is asked of the system, never of a file alone."""

import os
import subprocess
import sys

import msgspec
import pytest

from datahall.app.processes import is_running, started_at
from datahall.app.supervision import SupervisorState, read_state, stop
from datahall.app.supervisor import Child, supervise
from datahall.backends.db.lock import HallLock
from datahall.core.clock import SystemClock
from datahall.core.errors import HallBusyError
from datahall.core.hall import HallPaths


@pytest.fixture
def paths(tmp_path):
    made = HallPaths(tmp_path / "hall")
    made.create()
    return made


def told(paths, pid, started):
    state = SupervisorState(pid=pid, started_at=started, host="127.0.0.1", port=1, url="http://127.0.0.1:1")
    paths.state.write_bytes(msgspec.json.encode(state))


def test_a_living_supervisor_is_believed(paths):
    told(paths, os.getpid(), started_at(os.getpid()))
    assert read_state(paths).pid == os.getpid()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff" * 100])
def test_a_damaged_file_means_that_nothing_is_up(paths, content):
    paths.state.write_bytes(content)
    assert read_state(paths) is None


def test_a_pid_that_went_to_somebody_else_is_nobody_and_is_not_killed(paths):
    told(paths, os.getpid(), started_at(os.getpid()) - 1)
    assert read_state(paths) is None
    assert stop(paths, SystemClock()) is False, "we are still here to say so"


def test_a_process_that_has_ended_is_not_running_even_before_it_is_reaped():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        began = started_at(process.pid)
        assert is_running(process.pid, began)
        process.stdin.close()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_running(process.pid, began)
    assert not is_running(process.pid, began)


def test_where_one_supervisor_runs_a_second_one_does_not_start(paths):
    with HallLock(paths.supervisor_lock), pytest.raises(HallBusyError):
        supervise(paths, "127.0.0.1", 7400, started=lambda _: pytest.fail("it started"))
    assert not paths.state.exists()


class Counted(Child):
    """A child that dies as soon as it is started unless it `lives`, and says when it was."""

    lives = False

    def __init__(self, paths):
        super().__init__("counted", paths, b"", ())
        self.starts = []

    def start(self):
        self.starts.append(self.now)
        self._process = self

    def poll(self):
        return None if self.lives else 1

    def keep(self, now):
        self.now = now
        super().keep(now)


def test_what_dies_on_starting_is_started_again_at_growing_distances(paths):
    child = Counted(paths)
    for eighth in range(480):
        child.keep(eighth / 8)
    gaps = [after - before for before, after in zip(child.starts, child.starts[1:], strict=False)]
    assert gaps == sorted(gaps)
    assert gaps[0] < 1
    assert 9.9 < gaps[-1] < 11


def test_what_ran_steadily_is_started_again_at_once(paths):
    child = Counted(paths)
    for eighth in range(480):
        child.keep(eighth / 8)
    child.lives = True
    child.keep(70.0)
    num_starts = len(child.starts)
    child.keep(200.0)
    child.lives = False
    child.keep(200.25)
    child.keep(200.5)
    assert child.starts[num_starts:] == [200.5]
