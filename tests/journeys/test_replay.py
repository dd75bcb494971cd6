"""Every decision that was taken is asked again on the view that it was taken on, and comes out the same."""

from __future__ import annotations

import json

import msgspec
import pytest

from datahall.app.decisions import read_decisions
from datahall.core.canonical import canonical_json
from datahall.core.records import Deployment, Verdict
from datahall.policy import gate, rollout

COARSE = "{model: logistic, columns: [colour]}"


@pytest.fixture(scope="module")
def history(released, kit, tmp_path_factory):
    """A hall at rest that has refused, released, lost a replica and stopped; and where its decisions are logged."""
    place = released.copy(tmp_path_factory.mktemp("y"))
    try:
        place.up()
        replica = place.processes("mains replica")
        place.write(candidates={"coarse": COARSE})
        place.events("app/app.yaml", expect=3)
        place.write(replicas=2)
        place.events("app/app.yaml")
        kit.eventually(lambda: not set(replica) & set(place.processes("mains replica")), what="the old replica gone")
    finally:
        place.close()
    (log,) = (place.hall / "logs").glob("decisions*.jsonl")
    return place, log


def verdicts(place):
    with place.catalogue() as catalogue:
        return catalogue.find(Verdict)


def asked_again(verdict, **changes):
    view = msgspec.convert({**verdict.view, **changes}, gate.GateView)
    _, decision, reason = gate.decide(None, view, None, verdict.decided_at_ns, 0.0)
    return decision.outcome, reason, decision.findings, gate.view_digest(view)


def test_the_gate_says_the_same_of_every_view_again(history):
    place, _ = history
    given = verdicts(place)
    assert {verdict.outcome for verdict in given} == {"pass", "fail"}
    for verdict in given:
        assert asked_again(verdict) == (verdict.outcome, verdict.reason, verdict.findings, verdict.view_digest)


def test_another_view_would_be_noticed(history):
    place, _ = history
    passed = next(verdict for verdict in verdicts(place) if verdict.outcome == "pass")
    outcome, _, _, digest = asked_again(passed, exhibits=[])
    assert (outcome, digest == passed.view_digest) == ("insufficient", False)


def test_the_rollout_decides_the_same_again(history):
    place, log = history
    logged = list(read_decisions(log))
    assert len(logged) >= 4, "it started, routed, replaced and stopped"
    for one in logged:
        assert one.policy == "rollout"
        again = rollout.decide(
            msgspec.convert(one.state, rollout.RolloutState),
            msgspec.convert(one.view, rollout.RolloutView),
            msgspec.convert(one.event, rollout.ReplicaEnded | rollout.Tick),
            one.now,
            one.draw,
        )
        assert canonical_json(list(again)) == canonical_json([one.new_state, one.decision, one.reason])
    with place.catalogue() as catalogue:
        started = {name for one in logged for name in one.decision["start"]}
        assert started == {deployment.id for deployment in catalogue.find(Deployment)}


def test_a_line_that_was_cut_off_ends_the_log_quietly(history, tmp_path):
    _, log = history
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(log.read_bytes()[:-5])
    assert len(list(read_decisions(cut))) == len(log.read_bytes().splitlines()) - 1
    assert json.loads(log.read_bytes().splitlines()[0])["policy"] == "rollout"
