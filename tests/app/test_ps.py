"""`datahall ps` has a line for each gateway that ought to run, whether it does or not."""

from __future__ import annotations

import pytest

from datahall.app.cli.verbs.ps import _NONE, _given_again, _line
from datahall.app.gateways import GatewayState
from datahall.serve.cache import CacheStats
from datahall.serve.counters import Counters

READY = {"gateway": "g1", "pid": 7, "started_at": 1.0, "port": 7400, "revision": 3, "draining": False, "problem": ""}


@pytest.mark.parametrize(
    ("changes", "state"),
    [({}, "ready"), ({"draining": True}, "draining"), ({"port": 0, "revision": -1}, "starting")],
)
def test_a_gateway_that_lives_says_how_it_is(changes, state):
    line = _line("g1", GatewayState(**READY | changes), None)
    assert (line["id"], line["state"], line["pid"]) == ("g1", state, 7)
    assert line["draining"] == READY["draining"] | changes.get("draining", False)


def test_one_that_does_not_run_is_shown_too():
    line = _line("g2", _NONE, None)
    assert (line["id"], line["state"], line["pid"], line["port"]) == ("g2", "not running", None, None)


def test_its_problem_is_shown():
    assert _line("g1", GatewayState(**READY | {"problem": "the newest route table is refused"}), None)["problem"]


def counters(num_hits, num_misses, num_bytes):
    stats = dict.fromkeys(CacheStats.__struct_fields__, 0)
    cache = CacheStats(**stats | {"num_hits": num_hits, "num_misses": num_misses, "num_bytes": num_bytes})
    return Counters(pid=7, cache=cache, decisions=None)


def test_the_caches_of_all_gateways_are_one_line():
    lines = [
        _line("g1", GatewayState(**READY), counters(1500, 20, 1000)),
        _line("g2", GatewayState(**READY), counters(3, 4, 5000)),
        _line("g3", _NONE, None),
    ]
    assert _given_again(lines) == "response cache: 1,503 hits, 24 misses; it holds 6.0 kB"
    assert lines[0]["cache"].num_hits == 1500


def test_a_cache_that_nobody_asked_is_not_shown():
    assert _given_again([_line("g1", GatewayState(**READY), counters(0, 0, 0))]) == ""
    assert _given_again([_line("g1", GatewayState(**READY), None)]) == ""
