"""The same application file on Postgres, a bucket and a Git witness: nothing but hall.toml says so."""

import subprocess

import pytest

from tests.backends.object_server import OPTIONS, Server


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


def test_one_file_runs_where_hall_toml_says(place, kit, postgres_url, server, tmp_path):
    witness, bucket = tmp_path / "witness", server.bucket()
    subprocess.run(["git", "init", "-q", witness], check=True)
    place.hall.mkdir(mode=0o700)
    (place.hall / "hall.toml").write_text(
        f"database = '{postgres_url}'\nblobs = 's3://{bucket}/hall'\nwitness = ['git:{witness}']\n"
        f"[objects]\nendpoint = 'http://{server.host}:{server.port}'\nregion = '{OPTIONS['region']}'\n"
        f"access_key_id = '{OPTIONS['access_key_id']}'\nsecret_access_key_env = 'HALL_SECRET'\n"
    )
    place.environment["HALL_SECRET"] = OPTIONS["secret_access_key"]
    (place.hall / "hall.toml").chmod(0o600)
    place.write()
    ended = place.events("app/app.yaml").ended
    assert (ended["outcome"], ended["version"]) == ("released", "flowers@1.0.0")
    kit.eventually(place.answers)
    with place.client() as client:
        answer = client.post("/predict/flowers", json=kit.ROW)
    assert place.ask("provenance", answer.json()["id"])["verified"] is True
    assert place.ask("verify")["ok"] is True
    assert place.events("app/app.yaml").ran == []
    backup = place.ask("backup", tmp_path / "hall.backup")
    assert backup["num_objects"] > 5
    place.do("stop")

    assert not (place.hall / "hall.db").exists()
    assert len(server.objects(bucket)) >= backup["num_objects"]
    heads = subprocess.run(
        ["git", "-C", witness, "branch", "--list"], capture_output=True, text=True, check=True
    ).stdout
    assert heads.strip(), "the tree heads are remembered in Git"
    # A backup holds a database of its own: it can be restored where there is neither server nor bucket.
    there = tmp_path / "restored"
    made = place.ask("--hall", there, "restore", tmp_path / "hall.backup", "--keys", place.hall / "keys")
    assert made["restored"]["num_entries"] == backup["num_entries"]
    assert place.ask("--hall", there, "verify")["ok"] is True
