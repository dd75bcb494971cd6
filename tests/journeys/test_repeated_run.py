"""A lifecycle that is asked for again with the same idempotency key is not run again."""

import json


def ask(client, place, key):
    said = client.post("/api/v1/runs", json={"file": str(place.app)}, headers={"Idempotency-Key": key} if key else {})
    assert said.status_code == 200, said.text
    return said.headers.get("Idempotency-Replayed"), json.loads(said.text.splitlines()[-1])


def test_a_run_sent_three_times_with_one_key_is_answered_once(rested):
    rested.up()
    with rested.client() as client:
        said = [ask(client, rested, "run-1") for _ in range(3)]
        assert [replayed for replayed, _ in said] == [None, "true", "true"]
        assert said[0][1] == said[1][1] == said[2][1]
        assert (said[0][1]["event"], said[0][1]["outcome"]) == ("ended", "unchanged")
        assert ask(client, rested, None)[0] is None, "the control: without a key it is looked at anew"
    rested.do("stop")
    assert rested.kinds().count("run.answered") == 1
