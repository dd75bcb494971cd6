"""Negative controls: with one guard taken away, what the other tests forbid happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import httptools
import pytest

from datahall.serve import answers, http
from datahall.serve.segment_files import read_segment, segment_files

ROW = {"petal length": 1, "petal width": 1}


def test_a_lenient_parser_would_answer_a_smuggled_request(flowers, monkeypatch):
    strict = httptools.HttpRequestParser

    def lenient(protocol):
        parser = strict(protocol)
        parser.set_dangerous_leniencies(lenient_chunked_length=True)
        return parser

    monkeypatch.setattr(http.httptools, "HttpRequestParser", lenient)
    with flowers.client() as client:
        client.send(
            b"POST /predict/flowers HTTP/1.1\r\nHost: h\r\nX-API-Key: dh_owner\r\nContent-Length: 4\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
        )
        assert client.reply().status == 400
        assert client.reply().status == 200, "the smuggled request is answered"


def test_without_the_mac_a_forged_id_would_be_believed(monkeypatch):
    parts = answers.AnswerIdParts(gateway="g1", sequence=1, route_revision=1, at_ns=0)
    forged = answers.make_answer_id(parts, b"somebody else's!")
    monkeypatch.setattr(answers.hmac, "compare_digest", lambda *_: True)
    assert answers.open_answer_id(forged, b"the hall's own key") == parts


def test_without_its_own_memory_an_older_table_would_be_followed(flowers):
    flowers.publish(revision=5)
    flowers.until(lambda: flowers.gateway._follower.revision == 5)
    flowers.gateway._follower._source._revision = -1
    flowers.publish(revision=4)
    flowers.until(lambda: flowers.gateway._follower.revision == 4)


def test_without_a_retry_a_lost_replica_would_cost_an_answer(world, kit, monkeypatch):
    monkeypatch.setattr("datahall.policy.retry.MAX_ATTEMPTS", 1)
    predictor = kit.TinyPredictor(kit.manifest())
    first, _ = world.deploy(predictor, num_replicas=2)
    world.publish()
    world.start()
    predictor.hold.clear()
    with world.client() as client:
        client.send(kit.request("POST", "/predict/flowers", ROW))
        assert predictor.entered.wait(10)
        first.kill()
        predictor.hold.set()
        assert client.reply().status == 503


LATE_WRITER = """
    import sys
    from pathlib import Path
    from datahall.serve.segments import AnswerLog
    from datahall.testing.answers import some_answer
    log = AnswerLog(Path(sys.argv[1]), "g1", b"0123456789abcdef", now_ns=0)
    late = []
    for sequence in range(10_000_000):
        late.append(some_answer(sequence))
        print(sequence, flush=True)
        if len(late) == 1000:
            log.append(late)
            late = []
"""


def test_records_written_after_the_answer_would_be_lost(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(LATE_WRITER), str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        given_out = [int(process.stdout.readline()) for _ in range(50)]
        os.kill(process.pid, signal.SIGKILL)
        process.stdout.read()
    kept = {one.sequence for path in segment_files(tmp_path) for one in read_segment(path, b"0123456789abcdef").answers}
    assert not set(given_out) <= kept


def test_without_the_order_of_slots_answers_would_overtake_each_other(flowers, kit, monkeypatch):
    def hasty(slot, response):
        slot.connection._slots.remove(slot)
        slot.connection._slots.appendleft(slot)
        slot.response = response
        slot.connection.flush()

    monkeypatch.setattr(http.Slot, "respond", hasty)
    with flowers.client() as client:
        client.send(kit.request("POST", "/predict/flowers", ROW) + kit.request("GET", "/healthz"))
        assert "live" in client.reply().json()


@pytest.mark.parametrize("limit", [100, 60])
def test_the_limit_and_nothing_else_refuses_a_body(world, kit, limit):
    world.deploy(kit.TinyPredictor(kit.manifest()))
    world.publish()
    world.start(limits=http.GatewayLimits(max_body_bytes=limit))
    body = b'{"petal length": 1, "petal width": 1}'.ljust(80)
    assert world.ask("POST", "/predict/flowers", body).status == (200 if limit == 100 else 413)
