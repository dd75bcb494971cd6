"""`datahall ps` has a line for each gateway that ought to run, whether it does or not."""

from __future__ import annotations

import pytest

from datahall.app.cli.verbs.ps import _NONE, _line
from datahall.app.gateways import GatewayState

READY = {"gateway": "g1", "pid": 7, "started_at": 1.0, "port": 7400, "revision": 3, "draining": False, "problem": ""}


@pytest.mark.parametrize(
    ("changes", "state"),
    [({}, "ready"), ({"draining": True}, "draining"), ({"port": 0, "revision": -1}, "starting")],
)
def test_a_gateway_that_lives_says_how_it_is(changes, state):
    line = _line("g1", GatewayState(**READY | changes))
    assert (line["id"], line["state"], line["pid"]) == ("g1", state, 7)
    assert line["draining"] == READY["draining"] | changes.get("draining", False)


def test_one_that_does_not_run_is_shown_too():
    line = _line("g2", _NONE)
    assert (line["id"], line["state"], line["pid"], line["port"]) == ("g2", "not running", None, None)


def test_its_problem_is_shown():
    assert _line("g1", GatewayState(**READY | {"problem": "the newest route table is refused"}))["problem"]
