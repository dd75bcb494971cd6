"""From one version to the next while clients ask, and every decision on the way asked again."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from datahall.app.decisions import read_decisions
from datahall.core.canonical import canonical_json
from datahall.core.records import Deployment, Replica, Verdict, Version
from datahall.policy import gate, rollout

COARSE = "{model: logistic, columns: [colour]}"
PETAL = "{model: logistic, columns: [petal]}"


@pytest.fixture(scope="module")
def switched(released, kit, tmp_path_factory):
    """A hall at rest that has refused one candidate and released a better one while clients asked it."""
    place = released.copy(tmp_path_factory.mktemp("y"))
    seen = SimpleNamespace(place=place)
    try:
        with kit.Poll(place.up()) as poll:
            place.write(candidates={"coarse": COARSE})
            seen.refused = place.events("app/app.yaml", expect=3)
            seen.before = list(poll.versions)
            place.write(candidates={"coarse": COARSE, "petal": PETAL})
            seen.better = place.events("app/app.yaml")
            kit.eventually(
                lambda: poll.versions[-1:] == [seen.better.ended["version"]], what="the new version's answer"
            )
        seen.poll = poll
        kit.eventually(lambda: len(place.processes("mains replica")) == 1, what="the old replica gone")
    finally:
        place.close()
    seen.log = place.hall / "telemetry.db"
    with place.catalogue() as catalogue:
        seen.verdicts = catalogue.find(Verdict)
        seen.deployments = catalogue.find(Deployment)
        seen.replicas = catalogue.find(Replica)
        seen.versions = {version.id: version for version in catalogue.find(Version)}
    return seen


def test_a_refusal_changes_nothing(switched):
    assert switched.refused.ended["champion"] == "flowers@1.0.0"
    assert set(switched.before) == {"flowers@1.0.0"}, "the champion goes on answering"


def test_a_release_loses_no_answer(switched):
    assert switched.better.ended["outcome"] == "released"
    assert switched.better.ended["champion"] == switched.better.ended["version"] != "flowers@1.0.0"
    assert "train/coarse" in switched.better.reused
    assert switched.poll.failures == []
    assert len(switched.poll.versions) > len(switched.before)
    turn = switched.poll.versions.index(switched.better.ended["version"])
    assert set(switched.poll.versions[turn:]) == {switched.better.ended["version"]}, "nobody is sent back"


def test_what_was_released_before_is_retired_with_its_replica(switched):
    version = switched.better.ended["version"]
    assert {d.version: d.state for d in switched.deployments} == {"flowers@1.0.0": "retired", version: "live"}
    assert {replica.state for replica in switched.replicas} == {"gone"}
    assert switched.versions[version].parent == "flowers@1.0.0"
    assert switched.place.ask("verify")["ok"] is True


def asked_again(verdict, **changes):
    view = msgspec.convert({**verdict.view, **changes}, gate.GateView)
    _, decision, reason = gate.decide(None, view, None, verdict.decided_at_ns, 0.0)
    return decision.outcome, reason, decision.findings, gate.view_digest(view)


def test_the_gate_says_the_same_of_every_view_again(switched):
    assert {verdict.outcome for verdict in switched.verdicts} == {"pass", "fail"}
    for verdict in switched.verdicts:
        assert asked_again(verdict) == (verdict.outcome, verdict.reason, verdict.findings, verdict.view_digest)


def test_another_view_would_be_noticed(switched):
    passed = next(verdict for verdict in switched.verdicts if verdict.outcome == "pass")
    outcome, _, _, digest = asked_again(passed, exhibits=[])
    assert (outcome, digest == passed.view_digest) == ("insufficient", False)


def test_the_rollout_decides_the_same_again(switched):
    logged = list(read_decisions(switched.log))
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
    started = {name for one in logged for name in one.decision["start"]}
    assert started == {deployment.id for deployment in switched.deployments}
