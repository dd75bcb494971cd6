"""Two gateways on one port: whatever dies, the living one answers on, and no answer that a client got is without its record."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import signal
import sqlite3
import threading
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from datahall.app.gateways import living
from datahall.app.vault import Vault
from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.clock import SystemClock
from datahall.core.ids import HALL_TEAM
from datahall.core.records import AnswerSegment
from datahall.security.keys import KeyRing
from datahall.serve.answers import AnswerIdParts, make_answer_id, open_answer_id
from datahall.serve.segment_files import read_segment, segment_files
from datahall.serve.stored import decode_segment
from datahall.serve.table import FileRouteSource

BODY = json.dumps({"petal": 3, "sepal": 2, "colour": "red"})


class Duo:
    """A hall with two gateways that answers."""

    def __init__(self, place, kit):
        self.place, self.kit = place, kit
        self.keys = KeyRing.open(place.hall / "keys")
        self.key = (place.hall / "keys" / "owner.key").read_text().strip()
        self.runtime = Path((place.hall / "runtime.path").read_text())

    def gateway_of(self, answer_id):
        return open_answer_id(answer_id, self.keys.answer_key).gateway

    def living(self):
        """Return the gateways that take requests, by name."""
        return {state.gateway: state for state in living(self.runtime) if state.port and state.revision >= 0}

    def both(self):
        """Wait until both gateways take requests; return them."""
        self.kit.eventually(lambda: len(self.living()) == 2, what="two gateways")
        return self.living()

    def replaced(self, name, pid):
        """Wait until another process is that gateway."""
        return self.kit.eventually(
            lambda: self.living().get(name) if self.living().get(name, _NOBODY).pid not in (0, pid) else None,
            what=f"another {name}",
        )

    def lost(self, answer_ids):
        """Return those of the answers that are in no log, neither on this disk nor in the blob store."""
        kept = set()
        for path in segment_files(self.place.hall / "answers"):
            with contextlib.suppress(FileNotFoundError):  # it moved this moment, and is recorded as moved
                kept |= {answer.id for answer in read_segment(path, self.keys.answer_key).answers}
        return sorted(set(answer_ids) - kept - self._moved())

    def _moved(self):
        """Return the answers in the blob store, by a copy of the database: control goes on meanwhile."""
        copy = self.place.root / "copy.db"
        copy.unlink(missing_ok=True)
        with (
            contextlib.closing(sqlite3.connect(self.place.hall / "hall.db")) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        with contextlib.closing(SqliteCatalogue(copy, SystemClock(), entry_key=self.keys.entry_key)) as catalogue:
            vault = Vault(catalogue, LocalBlobStore(self.place.hall / "blobs"), self.keys)
            found = [
                decode_segment(vault.read(HALL_TEAM, segment.digest), segment.id)
                for segment in catalogue.find(AnswerSegment)
            ]
        return {stored.answer(index).id for stored in found for index in range(len(stored.records))}


_NOBODY = SimpleNamespace(pid=0)


class Crowd:
    """Clients that ask without an end; each keeps its connection for 20 requests, and reconnects when it is cut."""

    def __init__(self, duo, num_clients=6, *, keep_alive=True):
        self._duo, self._keep_alive = duo, keep_alive
        self.ids, self.failures, self.cut = [], [], []
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on, daemon=True) for _ in range(num_clients)]

    def _ask_on(self):
        state, at = self._duo.place.state(), "?"
        every = 20 if self._keep_alive else 1
        client = http.client.HTTPConnection(state.host, state.port, timeout=self._duo.kit.BOUND)
        for num_asked in itertools.count(1):
            if self._ending.wait(0.01):
                break
            headers = {"Authorization": f"Bearer {self._duo.key}"}
            if num_asked % every == 0:
                headers["Connection"] = "close"
            try:
                client.request("POST", "/predict/flowers", BODY, headers)
                said = client.getresponse()
                body = said.read()
            except (OSError, http.client.HTTPException) as error:
                self.cut.append((at, repr(error)))
                client.close()
                continue
            if said.status != 200:
                self.failures.append(body)
                continue
            self.ids.append(json.loads(body)["id"])
            at = self._duo.gateway_of(self.ids[-1])
        client.close()

    def more(self, num_answers=30, of=None):
        """Wait for that many answers more, of one gateway or of any."""

        def count():
            return sum(of is None or self._duo.gateway_of(each) == of for each in tuple(self.ids))

        wanted = count() + num_answers
        self._duo.kit.eventually(lambda: count() >= wanted, what=f"{num_answers} answers more of {of or 'any'}")

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        self.more()
        return self

    def __exit__(self, *_):
        self._ending.set()
        for thread in self._threads:
            thread.join(self._duo.kit.BOUND)


@pytest.fixture(scope="module")
def duo(released, kit, tmp_path_factory):
    place = released.copy(tmp_path_factory.mktemp("g"))
    try:
        place.up("--gateways", "2")
        made = Duo(place, kit)
        made.both()
        yield made
    finally:
        place.close()


def test_both_take_their_share_and_ps_shows_each(duo):
    with Crowd(duo) as crowd:
        crowd.more(of="g1")
        crowd.more(of="g2")
    assert (crowd.failures, crowd.cut) == ([], [])
    shown = {line["id"]: line for line in duo.place.ask("ps")["gateways"]}
    states = duo.both()
    for name in ("g1", "g2"):
        line = shown[name]
        assert (line["state"], line["pid"], line["port"]) == ("ready", states[name].pid, duo.place.state().port)
        assert (line["draining"], line["problem"], line["revision"]) == (False, "", states[name].revision)
    assert all(name in duo.place.do("ps") for name in ("g1", "g2"))
    duo.kit.eventually(
        lambda: all(line["cache"] and line["decisions"] for line in duo.place.ask("ps")["gateways"]),
        what="the counters of both",
    )


def test_a_killed_gateway_costs_only_what_it_was_answering_and_no_record(duo):
    victim = duo.both()["g1"].pid
    with Crowd(duo) as crowd:
        crowd.more(of="g1")
        os.kill(victim, signal.SIGKILL)
        crowd.more()
        duo.replaced("g1", victim)
        crowd.more()
    assert crowd.failures == []
    assert {at for at, _ in crowd.cut} <= {"g1", "?"}, crowd.cut
    assert len(crowd.cut) <= 6, "each of six connections is cut once at most"
    assert duo.lost(crowd.ids) == []


def test_control_the_checks_see_a_cut_connection_and_a_lost_record(duo):
    states = duo.both()
    with Crowd(duo) as crowd:
        crowd.more(of="g2")
        for state in states.values():
            os.kill(state.pid, signal.SIGKILL)
        for name, state in states.items():
            duo.replaced(name, state.pid)
        crowd.more()
    assert "g2" in {at for at, _ in crowd.cut}
    parts = AnswerIdParts(gateway="g2", sequence=10**9, route_revision=1, at_ns=1_700_000_000_000_000_000)
    never = make_answer_id(parts, duo.keys.answer_key)
    assert duo.lost([*crowd.ids, never]) == [never]


def test_while_control_and_its_database_are_away_a_gateway_starts_with_the_last_table(duo, kit):
    hall, victim = duo.place.hall, duo.both()["g1"].pid
    with Crowd(duo) as crowd:
        _take_away(duo)
        try:
            os.kill(victim, signal.SIGKILL)
            duo.replaced("g1", victim)
            crowd.more(of="g2")
            with Crowd(duo, 4) as late:
                late.more(of="g1")
            assert duo.place.processes("mains control") == [] or not (hall / "hall.db").is_file()
        finally:
            _bring_back(duo)
        kit.eventually(lambda: duo.place.tell("ps").returncode == 0, what="another control")
        crowd.more()
    assert (crowd.failures, late.failures, late.cut) == ([], [], [])
    assert {at for at, _ in crowd.cut} <= {"g1", "?"}
    assert duo.lost([*crowd.ids, *late.ids]) == []


def test_control_without_the_last_table_a_gateway_that_starts_answers_nobody(duo, kit):
    routes, victim = duo.place.hall / "routes.json", duo.both()["g1"].pid
    _take_away(duo)
    kept = routes.read_bytes()
    try:
        routes.unlink()
        os.kill(victim, signal.SIGKILL)
        kit.eventually(
            lambda: any(s.gateway == "g1" and s.pid != victim and s.port for s in living(duo.runtime)),
            what="another g1",
        )
        with Crowd(duo, 4) as crowd:
            kit.eventually(lambda: crowd.failures, what="a refusal")
        assert b"no route table" in crowd.failures[0]
    finally:
        routes.write_bytes(kept)
        _bring_back(duo)
    kit.eventually(lambda: duo.place.tell("ps").returncode == 0, what="another control")
    duo.both()


def _take_away(duo):
    """Kill control, and put a folder where its database was, so that none can start."""
    hall, database = duo.place.hall, duo.place.hall / "hall.db"
    (control,) = duo.place.processes("mains control")
    (supervisor,) = duo.place.processes("mains supervisor")
    os.kill(supervisor, signal.SIGSTOP)  # or the next control might open the database before it is away
    os.kill(control, signal.SIGKILL)
    duo.kit.eventually(lambda: control not in duo.place.processes("mains control"), what="control gone")
    database.rename(hall / "away.db")
    database.mkdir()
    os.kill(supervisor, signal.SIGCONT)


def _bring_back(duo):
    (duo.place.hall / "hall.db").rmdir()
    (duo.place.hall / "away.db").rename(duo.place.hall / "hall.db")


def test_sigterm_to_one_gateway_fails_nobody(duo):
    with Crowd(duo) as kept, Crowd(duo, 3, keep_alive=False) as fresh:
        for name in ("g1", "g2"):
            pid = duo.both()[name].pid
            os.kill(pid, signal.SIGTERM)
            duo.replaced(name, pid)
            fresh.more()
    assert (kept.failures, kept.cut, fresh.failures, fresh.cut) == ([], [], [], [])
    assert duo.lost(kept.ids + fresh.ids) == []


def test_sigterm_answers_what_a_gateway_has_begun_to_hear(duo, kit):
    state, states = duo.place.state(), duo.both()
    head = f"POST /predict/flowers HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {duo.key}\r\n"
    head += f"Content-Length: {len(BODY)}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        clients, at = [], []
        for _ in range(4):
            client = http.client.HTTPConnection(state.host, state.port, timeout=kit.BOUND)
            stack.callback(client.close)
            client.request("POST", "/predict/flowers", BODY, {"Authorization": f"Bearer {duo.key}"})
            at.append(duo.gateway_of(json.loads(client.getresponse().read())["id"]))
            client.sock.sendall(head.encode() + BODY[:5].encode())
            clients.append(client)
        victim, told = states[at[0]].pid, duo.runtime / f"gateway-{at[0]}.json"
        os.kill(victim, signal.SIGTERM)
        kit.eventually(lambda: json.loads(told.read_bytes())["draining"], what="it drains")
        given = []
        for client in clients:
            client.sock.sendall(BODY[5:].encode())
            answer = http.client.HTTPResponse(client.sock)
            stack.callback(answer.close)
            answer.begin()
            assert answer.status == 200
            given.append(json.loads(answer.read())["id"])
    assert [duo.gateway_of(each) for each in given] == at
    duo.replaced(at[0], victim)
    assert duo.lost(given) == []


def test_teams_are_taken_up_while_the_hall_runs_and_a_wrong_file_is_a_problem(duo, kit):
    settings = duo.place.hall / "hall.toml"

    def told():
        keys = {duo.keys.signer.key_id: duo.keys.signer.public_key}
        return FileRouteSource(duo.place.hall / "routes.json", keys, duo.keys.routes_key).poll()

    assert told().num_gateways == 2
    settings.write_text("[teams.red]\nrate_per_s = 7\nweight = 2\n")
    settings.chmod(0o600)
    kit.eventually(lambda: "red" in told().teams, what="the rule of a team")
    assert (told().teams["red"].quota.rate_per_s, told().teams["red"].weight) == (7.0, 2.0)
    settings.write_text("[teams.red]\nrate_per_s = -7\n")
    kit.eventually(lambda: "hall.toml" in " ".join(duo.place.ask("ps")["status"]["problems"]), what="the problem")
    assert told().teams["red"].quota.rate_per_s == 7.0
    settings.unlink()
    kit.eventually(lambda: told().teams == {}, what="no rule")
    assert "hall.toml" not in " ".join(duo.place.ask("ps")["status"]["problems"])


def test_a_keys_priority_reaches_both_gateways_and_the_list(duo):
    made = duo.place.ask("key", "issue", "batch", "--scope", "predict", "--priority", "low")
    assert made["status"]["priority"] == "low"
    assert {key["name"]: key["priority"] for key in duo.place.ask("key", "list")}["batch"] == "low"
    with duo.place.client(made["key"]) as client:
        assert {client.post("/predict/flowers", content=BODY).status_code for _ in range(4)} == {200}
    refused = duo.place.tell("key", "issue", "x", "--scope", "predict", "--priority", "urgent")
    assert refused.returncode == 2
    duo.place.do("key", "revoke", made["status"]["id"])
    for _ in range(4):  # each on a connection of its own: both gateways know before the caller does
        with duo.place.client(made["key"]) as client:
            assert client.post("/predict/flowers", content=BODY).status_code == 401


def test_keys_that_control_does_not_confirm_in_time_are_not_taken(rested, kit):
    settings = rested.hall / "hall.toml"
    settings.write_text(
        "gateways = 2\nauth_stale_hours = 0.0001\n"
    )  # a third of a second, and control says it each minute
    settings.chmod(0o600)
    rested.start("up", "-d")

    def refused():
        try:
            with rested.client() as client:
                said = client.post("/predict/flowers", content=BODY)
                alive = client.get("/healthz")
        except (OSError, httpx.HTTPError):
            return None
        return (said, alive) if said.status_code == 503 and "confirmed" in said.text else None

    said, alive = kit.eventually(refused, what="a refusal")
    assert (alive.status_code, said.headers["Retry-After"], bool(said.json()["hint"])) == (200, "60", True)
    with rested.client() as client:
        assert client.get("/readyz").status_code == 503
    assert "confirmed" in kit.eventually(lambda: rested.ask("ps")["gateways"][0]["problem"])
