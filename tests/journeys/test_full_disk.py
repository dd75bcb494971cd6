"""A hall whose disk takes no more: control says 507 and changes nothing, answers go on, and room is all it needs."""

from __future__ import annotations

import resource

import httpx


def limit(pid, num_bytes):
    """Let a process write no file beyond `num_bytes`, as a full disk would."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (num_bytes if num_bytes >= 0 else hard, hard))


def issue(client):
    return client.post("/api/v1/keys", json={"name": "somebody", "scopes": ["predict"]})


def num_keys(client):
    return len(client.get("/api/v1/keys").json())


def test_control_refuses_while_its_disk_is_full_and_recovers_without_a_restart(rested, kit):
    rested.up()
    (control,) = rested.processes("mains control")
    with rested.client() as client, kit.Poll(rested) as poll:
        assert issue(client).status_code == 201
        before, num_answers = num_keys(client), len(poll.versions)
        limit(control, 1)
        try:
            for _ in range(3):
                full = issue(client)
                assert (full.status_code, full.json()["kind"]) == (507, "StorageFullError")
                assert full.headers["retry-after"] == "1"
                assert "free disk space" in full.json()["hint"]
            assert num_keys(client) == before
            kit.eventually(lambda: len(poll.versions) > num_answers + 5, what="answers while the disk is full")
        finally:
            limit(control, -1)
        made = kit.eventually(
            lambda: (said := issue(client)).status_code == 201 and said, what="a key once there is room"
        )
        assert num_keys(client) == before + 1
        with httpx.Client(base_url=str(client.base_url), headers={"X-Api-Key": made.json()["key"]}) as theirs:
            kit.eventually(lambda: theirs.post("/predict/flowers", json=kit.ROW).status_code == 200)
    assert poll.failures == []
    assert rested.processes("mains control") == [control], "it was never restarted"
    rested.do("stop")
    assert rested.kinds().count("key.issued") >= before
    rested.ask("verify")
