"""A hall that is up: whatever of it dies is replaced, what it leaves is nothing, and halls do not meet."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import threading
from collections import Counter
from pathlib import Path

import httpx
import pytest

BODY = json.dumps({"petal": 3, "sepal": 2, "colour": "red"}).encode()


@pytest.fixture(scope="module")
def sturdy(released, tmp_path_factory):
    """A hall that answers, whose processes are killed one by one."""
    made = released.copy(tmp_path_factory.mktemp("u"))
    try:
        yield made.up()
    finally:
        made.close()


def only(place, main):
    (pid,) = place.processes(f"mains {main}")
    return pid


def test_a_killed_supervisor_takes_every_process_with_it(rested, kit):
    rested.up()
    supervisor = only(rested, "supervisor")
    assert len(rested.processes()) >= 4, "supervisor, gateway, control and a replica"
    os.kill(supervisor, signal.SIGKILL)
    kit.eventually(lambda: not rested.processes(), what="every process gone")
    assert rested.ask("stop") == {"was_up": False, "up": False}
    assert rested.up().ask("ps")["status"]["apps"][0]["num_ready"] == 1, "and it starts again"


def test_a_killed_control_is_replaced_while_answers_keep_coming(sturdy, kit):
    control, replica, gateway = only(sturdy, "control"), only(sturdy, "replica"), only(sturdy, "gateway")
    with kit.Poll(sturdy) as poll:
        os.kill(control, signal.SIGKILL)
        kit.eventually(lambda: sturdy.processes("mains control") not in ([], [control]), what="another control")
        status = kit.eventually(lambda: sturdy.ask("ps")["status"])
    assert poll.failures == []
    assert set(poll.versions) == {"flowers@1.0.0"}
    assert (only(sturdy, "replica"), only(sturdy, "gateway")) == (replica, gateway)
    assert [line["pid"] for line in status["replicas"]] == [replica], "the new control adopted what it found"


class Issuer:
    """Issues keys without a pause, each call repeated with its idempotency key until it is answered."""

    def __init__(self, place, number):
        self.keys, self.problems = {}, []
        self._client, self._number = place.client(), number
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._issue, daemon=True)

    def _issue(self):
        for count in itertools.count():
            name, said = f"issued {self._number} {count}", None
            while not self._ending.is_set() and said is None:
                said = self._ask(name)
            if self._ending.is_set():
                return
            self.keys[name] = said["key"]

    def _ask(self, name):
        body, headers = {"name": name, "scopes": ["predict"]}, {"Idempotency-Key": name.replace(" ", "-")}
        try:
            said = self._client.post("/api/v1/keys", json=body, headers=headers)
        except httpx.HTTPError:  # the gateway itself never goes away here, but a spliced answer may be cut off
            return None
        if said.status_code == 201:
            return said.json()
        if said.status_code not in {502, 503}:
            self.problems.append(said.text)
        self._ending.wait(0.02)
        return None

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ending.set()
        self._thread.join(60)
        self._client.close()


@pytest.mark.parametrize("num_kills", [2, pytest.param(10, marks=pytest.mark.torture)])
def test_keys_issued_while_control_is_killed_are_there_once_and_answers_go_on(sturdy, kit, num_kills):
    with kit.Poll(sturdy) as poll, Issuer(sturdy, num_kills) as one, Issuer(sturdy, -num_kills) as other:
        for _ in range(num_kills):
            before = len(one.keys), len(other.keys)
            kit.eventually(lambda: len(one.keys) > before[0] + 1 and len(other.keys) > before[1] + 1, what="keys")  # noqa: B023  (called at once)
            os.kill(only(sturdy, "control"), signal.SIGKILL)
        before = len(one.keys)
        kit.eventually(lambda: len(one.keys) > before, what="a key after the last kill")
    issued = {**one.keys, **other.keys}
    assert (poll.failures, one.problems + other.problems) == ([], [])
    with sturdy.client() as client:
        listed = Counter(key["name"] for key in client.get("/api/v1/keys").json())
    assert {name: listed[name] for name in issued} == dict.fromkeys(issued, 1)
    assert not [name for name, number in listed.items() if number > 1], "nor was one issued twice that nobody heard of"
    with sturdy.client(issued.popitem()[1]) as client:
        assert client.post("/predict/flowers", content=BODY).status_code == 200


def test_while_control_is_away_answers_go_on_and_the_rest_waits_in_words(sturdy, kit):
    supervisor, control = only(sturdy, "supervisor"), only(sturdy, "control")
    os.kill(supervisor, signal.SIGSTOP)  # nobody starts another control now
    try:
        os.kill(control, signal.SIGKILL)
        kit.eventually(lambda: control not in sturdy.processes("mains control"), what="control gone")
        with sturdy.client() as client:
            away = client.get("/api/v1/status")
            assert (away.status_code, "Retry-After" in away.headers, bool(away.json()["error"])) == (503, True, True)
            assert client.post("/predict/flowers", content=BODY).status_code == 200
    finally:
        os.kill(supervisor, signal.SIGCONT)
    kit.eventually(lambda: sturdy.tell("ps").returncode == 0, what="another control")


def test_a_killed_gateway_comes_back_on_the_same_port(sturdy, kit):
    gateway, before = only(sturdy, "gateway"), sturdy.state()
    os.kill(gateway, signal.SIGKILL)
    kit.eventually(lambda: sturdy.processes("mains gateway") not in ([], [gateway]), what="another gateway")
    kit.eventually(sturdy.answers, what="an answer")
    assert sturdy.state() == before


def test_answers_given_before_a_gateway_was_killed_keep_their_origins(sturdy, kit):
    with sturdy.client() as client:
        given = client.post("/predict/flowers", content=BODY).json()["id"]
    gateway = only(sturdy, "gateway")
    os.kill(gateway, signal.SIGKILL)
    kit.eventually(lambda: sturdy.processes("mains gateway") not in ([], [gateway]), what="another gateway")
    kit.eventually(sturdy.answers, what="an answer")
    kit.eventually(lambda: sturdy.ask("provenance", given)["sealed"], what="the segment in the blob store")
    found = sturdy.ask("provenance", given)
    assert (found["verified"], found["record"]) == (True, "kept")
    kit.eventually(lambda: not list((sturdy.hall / "answers").glob("*.sealed")), what="the segment's file gone")


def test_a_killed_replica_is_replaced(sturdy, kit):
    replica = only(sturdy, "replica")
    os.kill(replica, signal.SIGKILL)
    kit.eventually(lambda: sturdy.processes("mains replica") not in ([], [replica]), what="another replica")
    kit.eventually(sturdy.answers, what="an answer")
    states = kit.eventually(lambda: sturdy.ask("ps")["status"]["replicas"])
    assert replica not in [line["pid"] for line in states]


def test_stop_answers_what_is_in_flight(rested, kit):
    state = rested.up().state()
    key = (rested.hall / "keys" / "owner.key").read_text().strip()
    head = f"POST /predict/flowers HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(BODY)}\r\n\r\n"
    with socket.create_connection((state.host, state.port), timeout=kit.BOUND) as client:
        client.sendall(head.encode() + BODY[:5])
        told = next(Path((rested.hall / "runtime.path").read_text()).glob("gateway-*.json"))
        stopping = rested.start("stop", "--json")
        kit.eventually(lambda: json.loads(told.read_bytes())["draining"], what="the gateway draining")
        client.sendall(BODY[5:])
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert b'"tulip"' in answer
    assert stopping.end() == 0
    assert json.loads(stopping.out) == {"was_up": True, "up": False}
    assert rested.processes() == []
    assert rested.ask("stop") == {"was_up": False, "up": False}, "stopping twice is no error"


def test_two_halls_live_side_by_side_and_know_nothing_of_each_other(sturdy, rested):
    rested.up("--port", str(sturdy.state().port))
    assert rested.state().port != sturdy.state().port, "a busy port means the next free one"
    with rested.client() as mine, sturdy.client() as theirs:
        mine_id = mine.post("/predict/flowers", content=BODY).json()["id"]
        assert theirs.post("/predict/flowers", content=BODY).status_code == 200
    # Both are copies of one hall and share its keys: what tells them apart here is what they have answered.
    assert rested.ask("provenance", mine_id)["links"][0]["id"] == mine_id
    rested.do("stop")
    assert sturdy.answers(), "one stops, the other goes on"


def test_up_twice_is_one_hall(sturdy):
    before = sturdy.state()
    again = sturdy.ask("up", "-d")
    assert (again["pid"], again["url"]) == (before.pid, before.url)
    assert len(sturdy.processes("mains supervisor")) == 1


def test_up_by_four_commands_at_once_is_one_hall(rested, kit):
    talks = [rested.start("up", "-d", "--json") for _ in range(4)]
    assert [talk.end() for talk in talks] == [0] * 4, [talk.said for talk in talks]
    assert {json.loads(talk.out)["pid"] for talk in talks} == {only(rested, "supervisor")}
    kit.eventually(rested.answers, what="an answer")
    assert rested.ask("stop")["was_up"] is True
    assert rested.processes() == []


def test_up_in_the_foreground_ends_with_ctrl_c(rested, kit):
    talk = rested.start("up")
    kit.eventually(rested.answers, what="an answer")
    talk.signal(signal.SIGINT)
    assert talk.end() == 0
    assert "is up; Ctrl-C stops it" in talk.out
    assert rested.processes() == []


def test_the_checks_would_see_a_process_that_was_left(sturdy):
    with pytest.raises(AssertionError):
        assert sturdy.processes() == []
