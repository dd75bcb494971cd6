"""Mutating calls with an idempotency key: one effect and one answer, however often and from how many sides they come."""

import asyncio
import json
from types import SimpleNamespace

import httpx
import pytest

from datahall.app.calls import Calls, once_of
from datahall.app.control import Control
from datahall.app.http.api import ROUTES, make_api
from datahall.app.owner import ensure_owner
from datahall.app.vault import Vault
from datahall.backends.blobs.memory import MemoryBlobStore
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.errors import ConflictError, UserError
from datahall.core.hall import HallPaths
from datahall.core.records import Act, ApiKey, Artifact
from datahall.security.keys import KeyRing
from datahall.testing.clock import AutoClock

BODY = {"name": "ci", "scopes": ["predict"]}


@pytest.fixture
def hall(tmp_path):
    clock = AutoClock(1_700_000_000_000_000_000)
    keys = KeyRing.open(tmp_path / "keys", create=True)
    catalogue = SqliteCatalogue(tmp_path / "hall.db", clock, entry_key=keys.entry_key)
    ensure_owner(catalogue, keys, clock)
    vault = Vault(catalogue, MemoryBlobStore(), keys)
    paths = HallPaths(tmp_path)
    yield SimpleNamespace(catalogue=catalogue, clock=clock, keys=keys, vault=vault, paths=paths)
    catalogue.close()


@pytest.fixture
def ask(hall):
    """Send requests `(method, path, key, body)` at once and return what was answered."""
    api = make_api(Control(hall), hall.catalogue, hall.clock)

    async def go(requests, owner):
        transport = httpx.ASGITransport(app=api)
        headers = {"Authorization": f"Bearer {owner}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://control", headers=headers) as client:
            return await asyncio.gather(*(
                client.request(method, path, json=body, headers={"Idempotency-Key": key} if key else {})
                for method, path, key, body in requests
            ))  # fmt: skip

    return lambda *requests, owner=hall.keys.owner_key: asyncio.run(go(requests, owner))


def issued(hall):
    return [key for key in hall.catalogue.find(ApiKey) if key.name == "ci"]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_call_sent_three_times_with_one_key_has_one_effect_and_one_answer(hall, ask, at_once):
    call = ("POST", "/api/v1/keys", "k-1", BODY)
    said = ask(call, call, call) if at_once else [*ask(call), *ask(call), *ask(call)]
    assert [each.status_code for each in said] == [201] * 3
    assert len({each.content for each in said}) == 1
    assert sorted(each.headers.get("Idempotency-Replayed", "false") for each in said) == ["false", "true", "true"]
    (key,) = issued(hall)
    revoke = ("DELETE", f"/api/v1/keys/{key.id}", "k-2", None)
    said = ask(revoke, revoke, revoke)
    assert {each.status_code for each in said} == {200}
    assert len({each.content for each in said}) == 1
    assert [entry.kind for entry in hall.catalogue.entries()] == ["hall.created", "key.issued", "key.revoked"]


def test_without_a_key_every_call_counts(hall, ask):
    """The control: the same three calls."""
    call = ("POST", "/api/v1/keys", None, BODY)
    assert {each.status_code for each in ask(call, call, call)} == {201}
    assert len(issued(hall)) == 3


def test_a_key_used_for_another_request_is_refused(hall, ask):
    ask(("POST", "/api/v1/keys", "k-1", BODY))
    (other,) = ask(("POST", "/api/v1/keys", "k-1", {**BODY, "name": "cd"}))
    assert (other.status_code, "another request" in other.json()["error"]) == (409, True)
    assert len(issued(hall)) == 1


def test_a_call_that_was_refused_can_be_made_again(hall, ask):
    wrong = ("POST", "/api/v1/keys", "k-1", {**BODY, "scopes": ["fly"]})
    assert [each.status_code for each in (*ask(wrong), *ask(wrong))] == [400, 400]
    assert issued(hall) == []


def test_keys_of_two_callers_never_meet(hall, ask):
    (made,) = ask(("POST", "/api/v1/keys", "k-0", {"name": "other", "scopes": ["admin"]}))
    call = ("POST", "/api/v1/keys", "k-1", BODY)
    mine, theirs = *ask(call), *ask(call, owner=made.json()["key"])
    assert mine.json()["key"] != theirs.json()["key"]


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 201])
def test_a_key_that_is_none_is_refused(hall, ask, key):
    with pytest.raises(UserError):
        once_of(key, "me", "POST", "/", b"")


def test_what_is_kept_says_nothing_and_fits_nowhere_else(hall):
    calls = Calls(hall.catalogue, hall.keys.call_key)
    one, two = (once_of(key, "me", "POST", "/", b"{}") for key in ("1", "2"))
    kept = calls.call(one, {"secret": "canary"})
    assert b"canary" not in kept.reply
    hall.catalogue.act(Act(kind="run.answered", actor="t", call=kept))
    assert calls.answered(one) == b'{"secret":"canary"}'
    assert calls.answered(two) is None
    with pytest.raises(ConflictError):
        calls.answered(once_of("1", "me", "POST", "/", b"{} "))


@pytest.mark.parametrize("retire", [True, False])
def test_rotations_at_once_with_one_key_are_one_and_all_is_readable_afterwards(hall, ask, retire):
    changes = [hall.vault.store("main", b"%d" % number, "text/plain")[1] for number in range(20)]
    hall.catalogue.act(Act(kind="step.completed", actor="t", changes=tuple(one for (one,) in changes)))
    call = ("POST", "/api/v1/master-keys", "k-1", {"retire": retire})
    said = ask(call, call, call)
    assert {each.status_code for each in said} == {200}
    assert len({each.content for each in said}) == 1
    assert sorted(each.headers.get("Idempotency-Replayed", "false") for each in said) == ["false", "true", "true"]
    fresh = KeyRing.open(hall.paths.keys)
    assert fresh.num_masters == 2 - retire
    for artifact in hall.catalogue.find(Artifact):
        fresh.unwrap(artifact.wrapped_key, team=artifact.team, object=artifact.object)
    assert [entry.kind for entry in hall.catalogue.entries()].count("keys.rotated") == 1


def test_a_key_that_is_revoked_again_was_revoked_when_it_was(hall, ask):
    (made,) = ask(("POST", "/api/v1/keys", None, BODY))
    call = ("DELETE", f"/api/v1/keys/{made.json()['status']['id']}", None, None)
    first = ask(call)
    (before,) = issued(hall)
    hall.clock.advance(60)
    again = ask(call)
    assert [said.json()["state"] for said in (*first, *again)] == ["revoked", "revoked"]
    assert issued(hall) == [before]


def test_a_backup_takes_no_key_and_says_so(hall, ask, tmp_path):
    file = tmp_path / "b.dhb"
    (said,) = ask(("POST", "/api/v1/backups", "k-1", {"file": str(file)}))
    assert (said.status_code, "takes no Idempotency-Key" in said.json()["error"]) == (400, True)
    assert not file.exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_mistake_of_ours_ends_a_stream_with_words(hall, ask, tmp_path, monkeypatch):
    def fail(*_args):
        raise ZeroDivisionError("Erika, 34")

    monkeypatch.setattr(Control, "backup", fail)
    (said,) = ask(("POST", "/api/v1/backups", None, {"file": str(tmp_path / "b.dhb")}))
    last = json.loads(said.content.splitlines()[-1])
    assert (last["event"], last["hint"]) == ("broke", "see: datahall logs control")
    assert "Erika" not in said.text


def test_without_a_key_each_rotation_counts(hall, ask):
    """The control: three calls, three master keys, one after another."""
    call = ("POST", "/api/v1/master-keys", None, {})
    assert sorted(each.json()["num_masters"] for each in ask(call, call, call)) == [2, 3, 4]
    assert KeyRing.open(hall.paths.keys).num_masters == 4


def test_every_route_that_changes_something_honours_a_key():
    in_the_hall_nothing = {("POST", "/api/v1/plan"), ("POST", "/api/v1/backups")}
    changing = {(route.method, route.path) for route in ROUTES if route.method != "GET"} - in_the_hall_nothing
    assert {(route.method, route.path) for route in ROUTES if route.mutates} == changing
