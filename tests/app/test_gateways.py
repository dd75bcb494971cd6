"""A revision counts as followed when every gateway that lives follows it: dead ones are passed over, new ones counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from datahall.app.gateways import acknowledged, living, name_of
from datahall.app.processes import started_at


@pytest.fixture
def dead():
    """The pid of a process that is gone, and when it started."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        return process.pid, started_at(process.pid)


def tell(folder, gateway, revision, *, pid=None, started=None, **more):
    pid = os.getpid() if pid is None else pid
    state = {
        "gateway": gateway,
        "pid": pid,
        "started_at": started_at(pid) if started is None else started,
        "port": 7400,
        "revision": revision,
        "draining": False,
        "problem": "",
        "at_ns": 1,
        **more,
    }
    (folder / f"gateway-{gateway}.json").write_text(json.dumps(state))


def test_the_slowest_of_the_living_counts(tmp_path):
    assert acknowledged(tmp_path) == 0, "where none lives nothing is followed"
    tell(tmp_path, "g1", 5)
    assert acknowledged(tmp_path) == 5
    tell(tmp_path, "g2", 4)
    assert acknowledged(tmp_path) == 4
    tell(tmp_path, "g10", 9)
    assert [state.gateway for state in living(tmp_path)] == ["g1", "g2", "g10"]


def test_what_a_dead_gateway_left_holds_up_nobody(tmp_path, dead):
    tell(tmp_path, "g1", 5)
    tell(tmp_path, "g2", 2, pid=dead[0], started=dead[1])
    assert acknowledged(tmp_path) == 5


def test_a_pid_that_was_given_out_again_is_not_the_gateway(tmp_path):
    tell(tmp_path, "g1", 5)
    tell(tmp_path, "g2", 2, started=started_at(os.getpid()) - 1)
    assert acknowledged(tmp_path) == 5


def test_control_the_same_gateway_alive_holds_it_up(tmp_path):
    tell(tmp_path, "g1", 5)
    tell(tmp_path, "g2", 2)
    assert acknowledged(tmp_path) == 2


def test_one_that_starts_counts_before_it_has_a_table(tmp_path):
    tell(tmp_path, "g1", 5)
    tell(tmp_path, "g2", -1, port=0)
    assert acknowledged(tmp_path) == -1


def test_what_is_no_state_is_passed_over(tmp_path):
    tell(tmp_path, "g1", 5)
    (tmp_path / "gateway-g2.json").write_text("{")
    (tmp_path / "gateway-g3.json").write_text("{}")
    assert acknowledged(tmp_path) == 5


def test_places_have_names_that_stay():
    assert [name_of(place) for place in range(3)] == ["g1", "g2", "g3"]
