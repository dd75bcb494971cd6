"""Answers through a real gateway and a real replica."""

from __future__ import annotations

ROW = {"petal length": 2.0, "petal width": 1.0}


def test_plain_rows(flowers):
    reply = flowers.ask("POST", "/predict/flowers", {"rows": [ROW, ROW | {"petal length": -3}]})
    assert reply.status == 200, reply
    answer = reply.json()
    assert answer["version"] == "1.0.0"
    assert [one["label"] for one in answer["predictions"]] == ["large", "small"]
    assert answer["id"] == reply.headers["datahall-answer-id"]
