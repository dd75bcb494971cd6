"""The gateway as a process of its own: takes a bound socket, tells its port, drains on SIGTERM, survives kill -9."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap

import msgspec
import pytest

from datahall.serve.answers import open_answer_id
from datahall.serve.segment_files import read_segment, segment_files

MAIN = """
    import sys, msgspec
    from datahall.backends.transport.unix import UnixTransport
    from datahall.core.clock import SystemClock
    from datahall.serve.config import GatewayConfig
    from datahall.serve.gateway import serve
    config = msgspec.json.decode(sys.stdin.buffer.read(), type=GatewayConfig)
    sys.exit(serve(config, transport=UnixTransport(), clock=SystemClock(), listening=lambda port: print(port, flush=True)))
"""
ROW = {"petal length": 1, "petal width": 1}


class Running:
    def __init__(self, world, **changes):
        config = msgspec.json.encode(world.config(**changes))
        descriptor = changes.get("listen_fd")
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(MAIN)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=() if descriptor is None else (descriptor,),
        )
        self.process.stdin.write(config)
        self.process.stdin.close()
        self.port = int(self.process.stdout.readline())

    def end(self, number):
        os.kill(self.process.pid, number)
        status = self.process.wait(10)
        self.process.stdout.close()
        return status


@pytest.fixture
def hall(world, kit):
    world.deploy(kit.TinyPredictor(kit.manifest()))
    world.publish()
    return world


def ask_until_ready(kit, port):
    """The first answers may be 503 while the gateway still connects to its replica."""
    for _ in range(10_000):
        with kit.Client(port) as client:
            reply = client.ask("POST", "/predict/flowers", ROW)
        if reply.status != 503:
            return reply
    raise AssertionError(reply)


def test_sigterm_drains_and_a_bound_socket_outlives_the_process(hall, kit):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        first = Running(hall, listen_fd=listener.fileno())
        assert first.port == port
        one = ask_until_ready(kit, port)
        assert first.end(signal.SIGTERM) == 0
        second = Running(hall, listen_fd=listener.fileno())
        two = ask_until_ready(kit, port)
        assert second.end(signal.SIGINT) == 0
    ids = [open_answer_id(reply.json()["id"], kit.ANSWER_KEY) for reply in (one, two)]
    assert [parts.sequence for parts in ids] == [0, 1]
    assert {path.suffix for path in segment_files(hall.folder / "answers")} == {".sealed"}


def test_kill_9_loses_no_answer_and_the_next_start_goes_on(hall, kit):
    running = Running(hall)
    ask_until_ready(kit, running.port)
    given = []
    with kit.Client(running.port) as client:
        given += [client.ask("POST", "/predict/flowers", ROW).json()["id"] for _ in range(50)]
    assert running.end(signal.SIGKILL) == -signal.SIGKILL
    for text in given:
        assert kit.record_of(hall.folder / "answers", text).id == text
    again = Running(hall)
    reply = ask_until_ready(kit, again.port)
    assert open_answer_id(reply.json()["id"], kit.ANSWER_KEY).sequence == 51
    assert again.end(signal.SIGTERM) == 0
    assert sum(len(read_segment(path, kit.ANSWER_KEY).answers) for path in segment_files(hall.folder / "answers")) == 52


def test_a_torn_end_of_the_log_is_reported(hall, kit, capfd):
    running = Running(hall)
    ask_until_ready(kit, running.port)
    assert running.end(signal.SIGKILL) == -signal.SIGKILL
    (path,) = segment_files(hall.folder / "answers")
    os.truncate(path, path.stat().st_size - 3)
    again = Running(hall)
    assert again.end(signal.SIGTERM) == 0
    assert "bytes that are no record" in capfd.readouterr().err


def test_the_state_file_tells_port_and_revision(hall):
    running = Running(hall)
    state = json.loads((hall.folder / "run" / "gateway-g1.json").read_text())
    assert (state["port"], state["revision"], state["pid"]) == (running.port, 1, running.process.pid)
    assert running.end(signal.SIGTERM) == 0
    assert not (hall.folder / "run" / "gateway-g1.json").exists()
