"""API keys against a hall that answers: what each may do, and how soon a revoked one may not."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from datahall.core.hall import HallPaths


def ask(kit, place, key):
    with place.client(key) as client:
        return client.post("/predict/flowers", json=kit.ROW)


def issue(place, *options):
    made = place.ask("key", "issue", "somebody", *options)
    return made["key"], made["status"]["id"]


def test_a_key_that_may_ask_can_do_nothing_else(serving, kit):
    key, _ = issue(serving, "--scope", "predict")
    kit.eventually(lambda: ask(kit, serving, key).status_code == 200, what="the gateway knows the key")
    with serving.client(key) as client:
        denied = client.get("/api/v1/status")
        assert denied.status_code == 403
        assert "read" in denied.json()["error"]
        for method, path in (("GET", "/api/v1/keys"), ("POST", "/api/v1/keys"), ("POST", "/api/v1/runs")):
            assert client.request(method, path, json={}).status_code == 403


def test_a_key_that_may_see_cannot_ask(serving, kit):
    key, _ = issue(serving, "--scope", "read")
    kit.eventually(lambda: ask(kit, serving, key).status_code == 403, what="the gateway knows the key")
    with serving.client(key) as client:
        assert client.get("/api/v1/status").json()["apps"][0]["app"] == "flowers"
        assert client.get("/api/v1/keys").status_code == 403


def test_a_key_for_one_application_reaches_no_other(serving, kit):
    good, _ = issue(serving, "--scope", "predict:flowers")
    other, _ = issue(serving, "--scope", "predict:trees")
    kit.eventually(lambda: ask(kit, serving, good).status_code == 200)
    kit.eventually(lambda: ask(kit, serving, other).status_code == 403)


def test_a_key_of_another_team_does_not_find_the_application(serving, kit):
    key, _ = issue(serving, "--scope", "predict", "--team", "others")
    kit.eventually(lambda: ask(kit, serving, key).status_code == 404)


@pytest.mark.parametrize("key", ["", "dh_" + "0" * 64, "dh_", "x" * 4000, "' or 1=1 --"])
def test_without_a_key_that_holds_nobody_is_answered(serving, kit, key):
    refused = ask(kit, serving, key)
    assert (refused.status_code, "key" in refused.json()["error"]) == (401, True)
    with serving.client(key) as client:
        assert client.get("/api/v1/status").status_code == 401


def test_a_revoked_key_is_refused_within_two_seconds(serving, kit):
    key, key_id = issue(serving, "--scope", "predict")
    kit.eventually(lambda: ask(kit, serving, key).status_code == 200)
    assert serving.ask("key", "revoke", key_id)["state"] == "revoked"
    kit.eventually(lambda: ask(kit, serving, key).status_code == 401, seconds=2.0, what="refused")
    with serving.client(key) as client:
        assert client.get("/api/v1/status").status_code == 401
    assert {line["id"]: line["state"] for line in serving.ask("key", "list")}[key_id] == "revoked"


def test_a_key_expires_by_itself(serving, kit):
    key, key_id = issue(serving, "--scope", "predict", "--days", str(4 / 86_400))
    kit.eventually(lambda: ask(kit, serving, key).status_code == 401 and _expired(serving, key_id), seconds=20.0)
    assert "expired" in ask(kit, serving, key).json()["error"] or "not known" in ask(kit, serving, key).json()["error"]


def _expired(place, key_id):
    return {line["id"]: line["state"] for line in place.ask("key", "list")}[key_id] == "expired"


@pytest.mark.parametrize(
    "options", [("--scope", "rule"), ("--scope", "predict", "--days", "0"), ("--scope", "predict:")]
)
def test_a_key_that_cannot_be_is_refused_with_a_hint(serving, options):
    done = serving.tell("key", "issue", "x", *options)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


def test_revoking_what_is_no_key_is_a_clear_error(serving):
    done = serving.tell("key", "revoke", "key_nothing")
    assert (done.returncode, "key_nothing" in done.stderr) == (2, True)


def test_no_file_of_the_hall_holds_a_key_but_the_owners_own(serving, kit):
    key, _ = issue(serving, "--scope", "predict")
    kit.eventually(lambda: ask(kit, serving, key).status_code == 200)
    owner = (serving.hall / "keys" / "owner.key").read_text().strip()
    files = [path for path in serving.hall.rglob("*") if path.is_file()]
    assert serving.hall / "hall.db" in files
    assert [str(path) for path in files if key.encode() in path.read_bytes()] == []
    holding = [path.name for path in files if owner.encode() in path.read_bytes()]
    assert holding == ["owner.key"], "and the search finds a key where there is one"


def test_files_and_folders_are_the_owners_alone(serving):
    def mode(path):
        return stat.S_IMODE(Path(path).lstat().st_mode)

    assert mode(serving.hall) == 0o700
    runtime = Path(HallPaths(serving.hall).runtime_path.read_text())
    assert runtime.is_dir()
    for folder in [serving.hall, runtime, *(path for path in serving.hall.rglob("*") if path.is_dir())]:
        assert mode(folder) & 0o077 == 0, folder
    keys = list((serving.hall / "keys").iterdir())
    assert "owner.key" in [path.name for path in keys]
    assert {mode(path) for path in keys if path.is_file()} == {0o600}
    assert mode(serving.hall / "hall.db") & 0o077 == 0
