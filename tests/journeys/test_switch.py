"""From one version to the next while clients ask: a refusal changes nothing, a release loses no answer."""

from __future__ import annotations

from datahall.core.records import Deployment, Replica, Version

PLAIN = "{model: logistic}"
COARSE = "{model: logistic, columns: [colour]}"
PETAL = "{model: logistic, columns: [petal]}"


def test_a_refusal_changes_nothing_and_a_release_loses_no_answer(rested, kit):
    rested.up()
    with kit.Poll(rested) as poll:
        rested.write(candidates={"coarse": COARSE})
        refused = rested.events("app/app.yaml", expect=3)
        assert refused.ended["champion"] == "flowers@1.0.0"
        assert set(poll.versions) == {"flowers@1.0.0"}, "the champion goes on answering"
        num_before = len(poll.versions)

        rested.write(candidates={"coarse": COARSE, "petal": PETAL})
        better = rested.events("app/app.yaml")
        assert better.ended["outcome"] == "released"
        assert better.ended["champion"] == better.ended["version"] != "flowers@1.0.0"
        assert "train/coarse" in better.reused
        after = kit.eventually(lambda: poll.versions[-1:] == [better.ended["version"]] and len(poll.versions))
    assert poll.failures == []
    assert num_before < after
    assert sorted(poll.versions) == poll.versions, "nobody is sent back to the old version"

    kit.eventually(lambda: len(rested.processes("mains replica")) == 1, what="the old replica gone")
    rested.do("stop")
    with rested.catalogue() as catalogue:
        states = {deployment.version: deployment.state for deployment in catalogue.find(Deployment)}
        assert states == {"flowers@1.0.0": "retired", better.ended["version"]: "live"}
        assert {replica.state for replica in catalogue.find(Replica)} == {"gone"}
        new = catalogue.get(Version, better.ended["version"])
        assert new.parent == "flowers@1.0.0"
    assert rested.ask("verify")["ok"] is True
