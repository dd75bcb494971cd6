"""Answers from the cache through a real gateway: the same result, an id and a record of its own, and never another's."""

from __future__ import annotations

import json
import os

import msgspec
import pytest

from datahall.app.replay import Replayer
from datahall.core.errors import UserError
from datahall.core.records import Answer
from datahall.serve.cached import AnswerCache
from datahall.serve.config import GatewayLimits
from datahall.serve.counters import Counters, CountersFile, read_counters
from datahall.serve.decisions import decision_files, read_decision_file
from datahall.serve.recording import salted_digest
from datahall.serve.routes import HOT_ROUTES

ROW = {"petal length": 2.0, "petal width": 1.0}
PATH = "/predict/flowers"
TENSORS = {"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP64", "data": [2.0, 1.0]}], "id": "mine"}


@pytest.fixture
def predictor(kit):
    return kit.TinyPredictor(kit.manifest(), fail=UserError("the model does not take this"))


@pytest.fixture
def cached(world, predictor):
    """A gateway that keeps what this predictor answers for ten minutes."""
    world.deploy(predictor, cache_seconds=600.0)
    world.publish()
    return world.start()


def is_hit(reply):
    assert reply.status == 200, reply
    return reply.headers.get("datahall-cache") == "hit"


def record_of(world, kit, reply):
    return kit.record_of(world.folder / "answers", reply.headers["datahall-answer-id"])


def without_id(reply):
    return {name: value for name, value in reply.json().items() if name != "id"}


@pytest.mark.parametrize(("path", "body"), [(PATH, {"rows": [ROW, ROW]}), ("/v2/models/flowers/infer", TENSORS)])
def test_a_hit_is_what_a_miss_gave_with_an_id_and_a_record_of_its_own(cached, kit, predictor, path, body):
    miss, hit = cached.ask("POST", path, body), cached.ask("POST", path, body)
    assert (is_hit(miss), is_hit(hit)) == (False, True)
    assert len(predictor.batches) == 1
    assert without_id(hit) == without_id(miss)
    first, second = record_of(cached, kit, miss), record_of(cached, kit, hit)
    assert first.id != second.id == hit.headers["datahall-answer-id"]
    assert second.sequence == first.sequence + 1
    assert (first.cached_from, second.cached_from) == ("", first.id)
    assert (second.replica, second.bundle, second.num_rows) == (first.replica, first.bundle, first.num_rows)
    assert second.output_digest == salted_digest(second.salt, hit.body)
    assert second.input_digest == salted_digest(second.salt, json.dumps(body).encode())
    assert second.salt != first.salt


def test_plain_json_carries_the_new_id_in_its_body(cached):
    replies = [cached.ask("POST", PATH, ROW) for _ in range(2)]
    assert [reply.json()["id"] for reply in replies] == [reply.headers["datahall-answer-id"] for reply in replies]


def test_labels_and_intervals_of_every_task_come_back_alike(world, kit):
    world.deploy(kit.TinyPredictor(kit.manifest(app="mixed", features=kit.MIXED)), app="mixed", cache_seconds=600.0)
    interval = {"interval": {"confidence": 0.9, "half_width": 1.0}}
    price = kit.TinyPredictor(kit.manifest(app="price", task="regression", engine_settings=interval))
    world.deploy(price, app="price", cache_seconds=600.0)
    world.publish()
    world.start()
    mixed = {"rows": [{"age": 1, "town": "Köln", "member": True}, {"age": -1, "town": None, "member": False}]}
    for path, body in (("/predict/mixed", mixed), ("/predict/price", ROW)):
        miss, hit = world.ask("POST", path, body), world.ask("POST", path, body)
        assert (is_hit(miss), is_hit(hit)) == (False, True)
        assert without_id(hit) == without_id(miss)


def test_without_cache_seconds_every_answer_is_worked_out(world, kit, predictor):
    world.deploy(predictor)
    world.publish()
    world.start()
    assert not any(is_hit(world.ask("POST", PATH, ROW)) for _ in range(3))
    assert len(predictor.batches) == 3
    assert world.gateway._cache.stats().num_misses == 0


def test_without_room_there_is_no_cache(world, predictor):
    world.deploy(predictor, cache_seconds=600.0)
    world.publish()
    world.start(cache_bytes=0)
    assert not any(is_hit(world.ask("POST", PATH, ROW)) for _ in range(3))
    assert world.gateway._cache.stats().num_misses == 0


@pytest.mark.parametrize(
    "headers",
    [
        ["Cache-Control: no-cache"],
        ["Cache-Control: No-Store"],
        ["Cache-Control: max-age=5, no-cache"],
        ["Cache-Control: max-age=5", "Cache-Control: no-cache"],
        ['Cache-Control: no-cache="Set-Cookie"'],
    ],
)
def test_a_client_can_ask_for_an_answer_of_its_own(cached, predictor, headers):
    with cached.client() as client:
        for _ in range(2):  # neither kept nor given
            assert not is_hit(client.ask("POST", PATH, ROW, headers=headers))
        assert not is_hit(client.ask("POST", PATH, ROW))
        assert is_hit(client.ask("POST", PATH, ROW, headers=["Cache-Control: max-age=5"]))
        assert not is_hit(client.ask("POST", PATH, ROW, headers=headers))
    assert len(predictor.batches) == 4


def ask_as_two_teams(world, kit):
    """The same model for two teams, and the same question from both; say whether the second got a hit."""
    predictor = kit.TinyPredictor(kit.manifest())
    for team in ("lab", "ward"):
        world.deploy(predictor, team=team, cache_seconds=600.0)
        world.grant(f"dh_{team}", scopes=("predict",), team=team)
    world.publish()
    world.start()
    first, second = (world.ask("POST", PATH, ROW, key=f"dh_{team}") for team in ("lab", "ward"))
    assert without_id(first) == without_id(second)
    return is_hit(second)


def test_another_team_never_gets_what_one_team_asked_for(world, kit):
    assert not ask_as_two_teams(world, kit)


def test_the_control_for_teams(world, kit, monkeypatch):
    """Without the scope in the key, the second team would be told what the first one asked for."""
    monkeypatch.setattr(AnswerCache, "scope_of", lambda self, *_: self.scope("all"))
    assert ask_as_two_teams(world, kit)


def test_a_failed_answer_is_not_kept(cached, predictor):
    bad = ROW | {"petal length": -666}
    assert [cached.ask("POST", PATH, bad).status for _ in range(2)] == [400, 400]
    assert cached.gateway._cache.stats().num_entries == 0
    assert cached.ask("POST", PATH, {"rows": [{}]}).status == 400
    assert cached.gateway._cache.stats().num_entries == 0


def test_a_new_version_answers_itself_and_the_old_answers_go(cached, kit):
    assert not is_hit(cached.ask("POST", PATH, ROW))
    newer = kit.TinyPredictor(kit.manifest(threshold=0.5))
    cached.deploy(newer, version="2.0.0", cache_seconds=600.0)
    cached.publish()
    cached.until(lambda: cached.gateway._follower.revision == cached.revision)
    assert cached.gateway._cache.stats().num_entries == 0
    reply = cached.ask("POST", PATH, ROW)
    assert not is_hit(reply)
    assert reply.json()["version"] == "2.0.0"


def test_a_hit_that_cannot_be_recorded_is_not_given(world, predictor):
    world.deploy(predictor, cache_seconds=600.0)
    world.publish()
    world.start(limits=GatewayLimits(max_spool_bytes=1))
    assert not is_hit(world.ask("POST", PATH, ROW))
    assert world.ask("POST", PATH, ROW).status == 507


def test_the_log_lost_under_a_hit_is_a_refusal_too(cached, monkeypatch):
    assert not is_hit(cached.ask("POST", PATH, ROW))
    log = cached.gateway._recorder._log
    monkeypatch.setattr(log, "_write", _full)
    reply = cached.ask("POST", PATH, ROW)
    assert (reply.status, "datahall-cache" in reply.headers) == (507, False)


def _full(_):
    raise OSError(28, "No space left on device")


def test_a_record_without_the_field_reads_and_a_computed_answer_is_written_without_it(cached, kit):
    record = record_of(cached, kit, cached.ask("POST", PATH, ROW))
    written = msgspec.msgpack.encode(record)
    assert b"cached_from" not in written
    assert msgspec.msgpack.decode(written, type=Answer) == record


def test_hits_are_told_to_whoever_runs_the_hall_and_to_nobody_else(cached):
    for _ in range(3):
        cached.ask("POST", PATH, ROW)
    cached.until(lambda: counted(cached, num_hits=2) is not None)
    told = counted(cached, num_hits=2)
    assert (told.cache.num_misses, told.cache.num_entries, told.decisions) == (1, 1, None)
    assert told.cache.num_bytes > 0
    for public in (route for route in HOT_ROUTES if route.permission == "public"):
        said = cached.ask("GET", public.path, key=None)
        assert said.status == 200
        assert b"num_" not in said.body, public.path


def counted(world, *, num_hits):
    """Return the gateway's counters once they have so many hits."""
    told = read_counters(world.folder / "run", world.gateway.config.gateway, os.getpid())
    return told if told is not None and told.cache.num_hits == num_hits else None


def test_counters_of_a_process_that_has_died_are_not_its_successors(tmp_path, cached):
    cached.ask("POST", PATH, ROW)
    stats = cached.gateway._cache.stats()
    CountersFile(tmp_path, "g1").tell(Counters(pid=7, cache=stats, decisions=None))()
    assert read_counters(tmp_path, "g1", 7).cache == stats
    assert read_counters(tmp_path, "g1", 8) is None
    assert read_counters(tmp_path, "g2", 7) is None
    (tmp_path / "counters-g1.json").write_text("{")
    assert read_counters(tmp_path, "g1", 7) is None


def test_counters_are_written_when_they_change_and_a_disk_that_fails_stops_nobody(tmp_path, cached):
    counters = Counters(pid=7, cache=cached.gateway._cache.stats(), decisions=None)
    file = CountersFile(tmp_path / "gone", "g1")
    file.tell(counters)()
    assert file.tell(counters) is None
    assert file.tell(msgspec.structs.replace(counters, pid=8)) is not None


def test_decisions_of_a_gateway_are_logged_and_come_out_the_same_again(world, predictor, tmp_path):
    (tmp_path / "decisions").mkdir()
    world.deploy(predictor, cache_seconds=600.0)
    world.publish()
    world.start(decisions=str(tmp_path / "decisions"), cache_bytes=20_000)
    with world.client() as client:
        for number in range(300):
            assert client.ask("POST", PATH, ROW | {"petal length": number}).status == 200
    stats = world.gateway._cache.stats()
    assert stats.num_bytes <= 20_000
    world.stop()
    [path] = decision_files(tmp_path / "decisions")
    replayer = Replayer()
    replayer.take(read_decision_file(path).decisions, "msgpack", path.name)
    done = replayer.replayed
    assert done.num_same == done.num_decisions
    assert done.num_by_policy["cache"] == (stats.num_admitted + stats.num_rejected) // 100 > 0
    assert done.num_by_policy["admit"] == 3
