"""The benchmark of the gateway may not flatter: what it counts, compares and calls fulfilled."""

import json
import os
import subprocess
import sys
import time
from xml.etree import ElementTree as ET

import msgspec
import pytest

from benchmarks.serving import demands, duties, install, machine, report
from benchmarks.serving.cases import DIGITS, Row, answer, ask
from benchmarks.serving.drive import Level
from benchmarks.serving.results import Crowd, Results, Sample
from benchmarks.serving.servers import ECHOES, PEERS, Target, WrongAnswerError
from datahall.app.kinds import KINDS
from datahall.spec.load import load

ROW = Row([1.0, 2.5], frozenset(("0", "malignant")))


def level(num_connections=64, **changes):
    values = {
        "num_connections": num_connections,
        "num_answers": 2000,
        "num_refused": 0,
        "num_failed": 0,
        "num_late": 0,
        "seconds": 2.0,
        "latency_ms_p50": 1.0,
        "latency_ms_p99": 2.0,
        "latency_ms_max": 3.0,
        "cpu_us_per_answer": 10.0,
    }
    return Level(**values | changes)


def sample(server, *levels, model="digits", round=1, **changes):
    values = {"cold_start_s": 1.0, "pss_mb": 50.0, "num_processes": 1}
    return Sample(server=server, model=model, round=round, levels=levels, **values | changes)


def found(results, what):
    (line,) = [line for line in demands.lines(results) if line.what == what]
    return line


def test_every_duty_names_functions_that_are_there():
    for names in duties.DUTIES.values():
        for name in names:
            owner, last = duties.resolve(name)
            assert callable(getattr(owner, last))


def test_a_function_that_has_gone_is_named():
    with pytest.raises(LookupError, match=r"serve.http:Connection.gone is gone"):
        duties.resolve("datahall.serve.http:Connection.gone")
    with pytest.raises(LookupError, match="is gone"):
        duties.resolve("datahall.serve.http:Gone.data_received")


def burn(milliseconds):
    until = time.thread_time_ns() + milliseconds * 1_000_000
    while time.thread_time_ns() < until:
        pass


def test_a_clock_counts_a_functions_own_time_only():
    clocks = duties.Clocks()
    inner = clocks.around(lambda: burn(20), "inner")

    def both():
        burn(5)
        inner()

    clocks.around(both, "outer")()
    spent_ms = {duty: spent / 1e6 for duty, spent in clocks.spent_ns.items()}
    assert spent_ms["inner"] >= 19.9
    assert 4.9 <= spent_ms["outer"] < spent_ms["inner"]
    assert clocks.num_calls == {"inner": 1, "outer": 1}


def test_a_clock_is_taken_off_when_the_function_raises():
    clocks = duties.Clocks()

    def fails():
        raise KeyError

    with pytest.raises(KeyError):
        clocks.around(fails, "inner")()
    clocks.around(lambda: burn(5), "after")()
    assert clocks.spent_ns["after"] >= 4.9e6


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_pins_what_it_runs_on(name):
    packages = install.dependencies(install.PEERS / f"{name}_server.py")
    assert "scikit-learn==1.9.1" in packages
    assert all("==" in package for package in packages)


@pytest.mark.parametrize("name", ECHOES)
def test_every_echo_has_its_file(name):
    assert (install.PEERS / f"{name}_server.py").is_file()


@pytest.mark.parametrize(
    ("form", "answered"),
    [
        ("rows", {"predictions": [0]}),
        ("rows", ["malignant"]),
        ("mlflow", {"predictions": [0]}),
        ("v2", {"outputs": [{"name": "label", "data": ["malignant"]}, {"name": "probability", "data": [1, 0]}]}),
    ],
)
def test_a_right_answer_is_known_and_a_wrong_one_is_not(form, answered):
    assert json.loads(ask(form, ROW))
    body = json.dumps(answered).encode()
    assert answer(form, body) in ROW.right
    target = Target(1, "/", b"", {}, form, ROW)
    target.check(body)
    for bad in (body.replace(b"malignant", b"benign").replace(b"[0]", b"[1]"), b"{}", b"[]", b"what"):
        with pytest.raises(WrongAnswerError):
            target.check(bad)


def test_the_application_file_is_one_that_datahall_reads(tmp_path):
    path = DIGITS.write(tmp_path, limits="rate_per_s: 10")
    spec = load(path, KINDS).spec
    assert (spec.name, spec.serve.limits.rate_per_s, len(spec.data.columns)) == ("digits", 10, 64)


def test_a_tree_is_whoever_descends_from_its_root():
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        tree = machine.Tree(process.pid)
        while len(tree.pids()) < 2 or not tree.matching("input()"):
            assert process.poll() is None
        assert os.getpid() not in tree.pids()
        assert tree.pss_mb() > machine.pss_mb(process.pid) > 0
        process.stdin.close()
    assert tree.pss_mb() == 0


def test_ratios_are_of_medians_and_against_the_best_peer():
    results = Results(
        samples=[
            *(sample("datahall", level(num_answers=n), round=r) for r, n in enumerate((1, 30_000, 24_000))),
            *(sample("fastapi", level(num_answers=n), round=r) for r, n in enumerate((1000, 2000, 9000))),
            *(sample("ray", level(num_answers=n), round=r) for r, n in enumerate((10, 20, 99_999))),
        ]
    )
    line = found(results, "answers/s at 64 connections over the best peer's, net")
    assert (line.seen, line.holds) == (12.0, True)
    slower = msgspec.structs.replace(results, samples=results.samples[:1] + results.samples[3:])
    assert found(slower, "answers/s at 64 connections over the best peer's, net").holds is False


def test_a_refusal_is_no_answer():
    results = Results(samples=[sample("datahall", level(num_answers=2, num_refused=100_000))])
    assert results.median("datahall", "digits", 64, "answers_per_s") == 1.0
    assert "!100000" in report.text(results)


def test_what_was_not_measured_is_not_called_fulfilled():
    assert [line.what for line in demands.lines(Results()) if line.holds is not None] == []
    missing = Results(missing={"mlserver": "not installed: no network"})
    assert "mlserver: not installed: no network" in report.text(missing)
    assert "  ok " not in report.text(missing)


def test_a_failed_request_in_the_crowd_misses_the_demand():
    def crowd(**changes):
        seen = level(1500, **changes)
        return Results(crowds=[Crowd(server="datahall", level=seen, recovery_s=0.01, growth_mb=1.0)])

    what = "1,500 connections: failed or late"
    assert found(crowd(num_refused=10), what).holds is True
    assert found(crowd(num_failed=1), what).holds is False
    assert found(crowd(num_late=1), what).holds is False


def test_a_replica_that_aims_at_dear_batches_misses_the_demand():
    def seen(cap):
        results = Results(rows_us={"digits": {1: 50.0, 64: 1.05, 256: 1.0}}, caps={"digits": cap})
        return found(results, "cost of a row at the batch a replica aims at, over the cheapest, net")

    assert (seen(64).holds, seen(1).holds) == (True, False)


def test_the_drawing_is_xml_with_a_bar_a_server():
    results = Results(samples=[sample("datahall", level()), sample("a<b", level(num_answers=10))])
    drawn = ET.fromstring(report.svg(results))  # noqa: S314  (our own)
    assert len(drawn.findall("{*}rect")) == 3
