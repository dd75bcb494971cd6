"""The tutorial is executed as it stands; so is every other page with console blocks that asks for it."""

import importlib.util
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from consoles import USUAL_ADDRESS, Command, Console, File, curl, steps_of

ROOT = Path(__file__).resolve().parent.parent


def pages(name):
    """Return the steps of a capability's page, which go on where the tutorial is."""
    steps = steps_of((ROOT / "docs" / "capabilities" / f"{name}.md").read_text(encoding="utf-8"))
    assert any(isinstance(step, Command) for step in steps), name
    return steps


@pytest.mark.skipif(not importlib.util.find_spec("datahall.app.cli.main"), reason="the command line is not built yet")
@pytest.mark.timeout(600)  # nine pages, each command a process of its own, one after another in one hall
def test_the_tutorial_does_what_it_says(tmp_path):
    steps = steps_of((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    # the examples of the HTTP page ask the hall of the tutorial, while it is up
    examples = steps_of((ROOT / "docs" / "reference" / "http.md").read_text(encoding="utf-8"))
    assert [type(step) for step in examples].count(Command) >= 5
    stop = next(index for index, step in enumerate(steps) if getattr(step, "text", "") == "datahall stop")
    up = ("13-traceability", "21-storage", "11-low-latency", "15-inference", "25-throughput", "18-load")
    steps[stop:stop] = [*examples, *(step for name in up for step in pages(name))]
    steps += pages("26-reliability")
    console = Console(tmp_path, tmp_path / "tumours" / ".datahall")  # where a reader's would be
    wrong = []
    try:
        for step in steps:
            wrong += console.run(step)
            if wrong:
                break
    finally:
        left = console.run(Command(0, "datahall stop", ()))
    assert not wrong, "\n".join(wrong)
    assert not left, "\n".join(left)
    assert len(steps) >= 10


def test_a_page_is_read_step_by_step():
    page = "# T\n```console\n$ echo one\none\n$ echo two\n```\n```yaml\n$ not: this\n```\n```json rows.json\n[1,\n2]\n```\n"
    assert steps_of(page) == [
        Command(3, "echo one", ("one",)),
        Command(5, "echo two", ()),
        File(10, "rows.json", "[1,\n2]\n"),
    ]


@pytest.mark.parametrize(
    ("shown", "printed", "wrong"),
    [
        ("took 1.5 s", "took   2.75 s", []),
        ("version 1.0.0 is live", "version 12.3.4 is live", []),
        ("accuracy ... pass", "accuracy  0.95 >= 0.9 pass", []),
        ("digest 0123456789abcdef", "digest fedcba9876543210", []),
        ("gate: pass", "gate: fail", ["gate: pass"]),
        ("a word", "", ["a word"]),
        ("verified: 13 of 13 links", "verified: 15 of 15 links", []),
        ("verified: 1 of 1 links", "verified: 15 of 15 links", ["verified: 1 of 1 links"]),
        ("verified: 13 of 13 links", "verified: 1 of 13 links", ["verified: 13 of 13 links"]),
        ("2 candidate(s)", "3 candidate(s)", ["2 candidate(s)"]),
        ("took 2 s", "took 2.75 s", ["took 2 s"]),
    ],
)
def test_output_is_compared_loosely_but_not_blindly(tmp_path, shown, printed, wrong):
    assert Console(tmp_path, tmp_path).compare((shown,), [printed]) == wrong


def test_a_word_in_capitals_takes_its_value_from_the_output(tmp_path):
    console = Console(tmp_path, tmp_path)
    assert console.run(Command(1, "echo answer ans_42", ("answer ANSWER_ID",))) == []
    assert console.values == {"ANSWER_ID": "ans_42"}
    assert console.run(Command(2, "echo got ANSWER_ID", ("got ans_42",))) == []


def test_a_command_that_fails_or_says_something_else_is_reported(tmp_path):
    console = Console(tmp_path, tmp_path)
    assert "ended with 1" in console.run(Command(7, "false", ()))[0]
    assert "did not print 'two'" in console.run(Command(8, "echo one", ("two",)))[0]
    assert "no folder" in console.run(Command(9, "cd nowhere", ()))[0]


def test_a_variable_takes_what_a_command_printed(tmp_path):
    console = Console(tmp_path, tmp_path)
    assert console.run(Command(1, 'export PATH="$PWD/.venv/bin:$PATH"', ())) == []
    assert console.run(Command(2, "KEY=$(echo dh_1)", ())) == []
    assert console.run(Command(3, 'echo "key: $KEY"', ("key: dh_1",))) == []


def test_a_page_speaks_to_the_port_that_the_hall_took(tmp_path):
    console = Console(tmp_path, tmp_path)
    assert console.run(Command(1, "echo Serving at http://127.0.0.1:7403/predict/a", ())) == []
    assert console.run(Command(2, f"echo {USUAL_ADDRESS}/v2", ("http://127.0.0.1:7403/v2",))) == []


class Echo(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.send_response(200)
        self.send_header("Kind", "test")
        self.end_headers()
        self.wfile.write(f"{self.path} {self.headers['X-API-Key']} {body}".encode())

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("flags", ["-s", "-si"])
def test_without_curl_the_same_is_asked_through_httpx(tmp_path, flags):
    (tmp_path / "rows.json").write_text('{"rows": []}')
    with HTTPServer(("127.0.0.1", 0), Echo) as server:
        Thread(target=server.handle_request, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/predict/a"
        done = curl(["curl", flags, "-H", "X-API-Key: dh_1", "-d", "@rows.json", address], tmp_path)
    lines = done.stdout.splitlines()
    assert lines[-1] == '/predict/a dh_1 {"rows": []}'
    assert ("HTTP/1.1 200 OK" in lines, "Kind: test" in lines) == (flags == "-si", flags == "-si")


def test_a_process_is_killed_as_a_shell_does_it(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert Console(tmp_path, tmp_path).run(Command(1, f"kill -9 {child.pid}", ())) == []
        assert child.wait(60) == -9
