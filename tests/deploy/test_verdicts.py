"""Attacks by whoever may write acts: verdicts, versions and promotions that do not rest on today's evidence."""

from __future__ import annotations

import threading

import msgspec
import pytest

from datahall.core.errors import ConflictError, RefusedError
from datahall.core.records import Bundle, Deployment, Holdout, Verdict, Version
from datahall.policy import gate

replace = msgspec.structs.replace
DAY_S = 86_400


@pytest.fixture
def refused(house):
    """A hall whose gate has refused a candidate, and that verdict."""
    house.job.lower = 0.5
    house.train("bad")
    house.evaluate()
    return house, house.gate()


@pytest.fixture
def passed(house):
    """A hall whose gate has passed a candidate, and that verdict."""
    house.train()
    house.evaluate()
    return house, house.gate()


def why_not(house, verdict, /, **changes):
    """Store a verdict and all that follows from it by proper acts; return why it gets no traffic."""
    house.write(verdict)
    version, deployment = house.pretend(verdict, **changes)
    house.sequencer.flush()
    with pytest.raises(RefusedError) as caught:
        house.admission.check(version)
    with pytest.raises(RefusedError):
        house.admission.serve(deployment)
    assert house.routes() == []
    return str(caught.value)


def with_view(verdict, **changes):
    view = replace(msgspec.convert(verdict.view, gate.GateView), **changes)
    return replace(verdict, view=msgspec.to_builtins(view), view_digest=gate.view_digest(view))


def decided_on(verdict):
    """Return the verdict that the gate does give on this verdict's view."""
    view = msgspec.convert(verdict.view, gate.GateView)
    _, decision, reason = gate.decide(None, view, None, verdict.decided_at_ns, 0.0)
    return replace(verdict, outcome=decision.outcome, findings=decision.findings, reason=reason)


def test_control_a_verdict_as_the_gate_gave_it_is_a_way(passed):
    house, verdict = passed
    house.write(replace(decided_on(with_view(verdict)), id="verdict_copy"))
    version, deployment = house.pretend(house.catalogue.get(Verdict, "verdict_copy"))
    house.sequencer.flush()
    assert house.admission.check(version).id == house.admission.serve(deployment).id == verdict.bundle
    assert len(house.routes()) == 1


def test_a_verdict_that_is_no_pass_is_no_way(refused):
    house, verdict = refused
    assert "its verdict is fail" in why_not(house, verdict)


def test_a_flipped_outcome_does_not_repeat(refused):
    house, verdict = refused
    assert "does not repeat" in why_not(house, replace(verdict, outcome="pass"))


def test_flipped_findings_do_not_repeat(refused):
    house, verdict = refused
    findings = tuple(replace(finding, outcome="pass") for finding in verdict.findings)
    forged = replace(verdict, outcome="pass", findings=findings, reason="all 1 claims are proven")
    assert "does not repeat" in why_not(house, forged)


@pytest.mark.parametrize("change", [{"findings": ()}, {"reason": "it is good"}], ids=["findings", "reason"])
def test_a_pass_with_other_words_does_not_repeat(passed, change):
    house, verdict = passed
    assert "does not repeat" in why_not(house, replace(verdict, **change))


def test_an_altered_view_is_seen_by_its_digest(refused):
    house, verdict = refused
    forged = with_view(verdict, exhibits=())
    assert "was altered" in why_not(house, replace(verdict, outcome="pass", view=forged.view))


def better_exhibits(verdict):
    view = msgspec.convert(verdict.view, gate.GateView)
    return tuple(
        replace(
            exhibit,
            measurement=replace(
                exhibit.measurement, figure=replace(exhibit.measurement.figure, lower=0.95, upper=0.99)
            ),
        )
        for exhibit in view.exhibits
    )


def test_a_view_with_better_exhibits_differs_from_what_is_stored(refused):
    house, verdict = refused
    forged = decided_on(with_view(verdict, exhibits=better_exhibits(verdict)))
    assert forged.outcome == "pass"
    assert "changed after the verdict" in why_not(house, forged)


def test_a_view_with_made_up_exhibits_differs_from_what_is_stored(refused):
    house, verdict = refused
    made_up = tuple(replace(exhibit, id="evd_6") for exhibit in better_exhibits(verdict))
    forged = decided_on(with_view(verdict, exhibits=made_up))
    assert "changed after the verdict" in why_not(house, forged)


def test_a_view_that_leaves_the_newest_look_out_is_seen(passed):
    house, _ = passed
    house.job.lower = 0.5
    house.evaluate()
    verdict = house.gate()
    assert verdict.outcome == "fail"
    view = msgspec.convert(verdict.view, gate.GateView)
    older = tuple(exhibit for exhibit in view.exhibits if exhibit.measurement.look == 1)
    forged = decided_on(with_view(verdict, exhibits=older))
    assert forged.outcome == "pass"
    assert "given without the evidence" in why_not(house, forged)


def test_control_what_is_found_later_does_not_undo_a_verdict(passed):
    house, _ = passed
    version = house.register()
    deployment = house.deploy()
    house.job.lower = 0.5
    house.evaluate()
    house.sequencer.flush()
    assert house.admission.check(version).id == deployment.bundle
    assert len(house.routes()) == 1


def test_a_view_under_an_easier_policy_is_not_the_policy_s(refused, claim):
    house, verdict = refused
    easy = replace(house.policy, claims=(claim(0.1),))
    forged = decided_on(with_view(verdict, policy=easy))
    assert forged.outcome == "pass"
    assert "of something else" in why_not(house, forged)


def test_a_view_of_another_bundle_or_candidate_is_of_something_else(passed):
    house, verdict = passed
    other = house.train("other")
    assert "of something else" in why_not(
        house, replace(verdict, id="verdict_6", bundle=other.id, candidate="tumours#2")
    )
    for change in ({"bundle": other.id}, {"candidate": "tumours#2"}):
        assert "of something else" in why_not(house, with_view(verdict, **change))


def test_a_version_with_another_bundle_than_its_verdict(passed):
    house, verdict = passed
    other = house.train("other")
    assert "about another candidate, bundle" in why_not(house, verdict, bundle=other.id)


def test_a_version_of_another_candidate_than_its_verdict(passed):
    house, verdict = passed
    house.train("other")
    assert "about another candidate, bundle" in why_not(house, verdict, candidate="tumours#2")


def test_a_version_of_another_application_than_its_verdict(passed):
    house, verdict = passed
    assert "about another candidate, bundle" in why_not(house, verdict, app="other")


@pytest.mark.parametrize("kind", ["verdict", "candidate", "bundle"])
def test_a_version_with_a_missing_link(passed, kind):
    house, verdict = passed
    assert "a link of its chain is missing" in why_not(house, verdict, **{kind: "f" * 64})


def test_a_bundle_that_is_said_to_be_another_application_s(passed):
    house, verdict = passed
    house.write(replace(house.catalogue.get(Bundle, verdict.bundle), app="other"))
    assert "about another candidate, bundle" in why_not(house, verdict)


def test_a_revoked_version(passed):
    house, _ = passed
    version, deployment = house.register(), house.deploy()
    house.write(replace(version, revoked=True), kind="version.revoked")
    house.sequencer.flush()
    with pytest.raises(RefusedError, match="was revoked"):
        house.admission.serve(deployment)
    assert house.routes() == []
    house.roll_back(version)  # nor does the row from before the revocation help
    assert not house.catalogue.get(Version, version.id).revoked
    with pytest.raises(RefusedError, match="not what the ledger says"):
        house.admission.serve(deployment)


@pytest.mark.parametrize("name", ["bundle", "verdict", "team", "app", "version"])
def test_a_deployment_runs_what_its_version_is(passed, name):
    house, verdict = passed
    house.register()
    deployment = house.deploy()
    other = house.train("other")
    house.write(replace(deployment, **{name: other.id if name == "bundle" else "other"}))
    house.sequencer.flush()
    with pytest.raises(RefusedError, match=r"something else|link of its chain is missing"):
        house.admission.serve(house.catalogue.get(Deployment, deployment.id))
    assert house.routes() == []
    assert verdict.bundle != other.id


def test_evidence_that_expired_since_the_verdict_blocks_promotion(passed):
    house, _ = passed
    version = house.register()
    house.clock.advance(31 * DAY_S)
    with pytest.raises(RefusedError, match="has expired"):
        house.deploy()
    assert house.routes() == []
    assert house.admission.check(version).id == version.bundle  # control: nothing else stands in its way


def test_control_evidence_that_holds_still_is_promoted(passed):
    house, _ = passed
    house.register()
    house.clock.advance(29 * DAY_S)
    house.deploy()
    assert len(house.routes()) == 1


def test_what_had_traffic_may_have_it_again_after_its_evidence_expired(passed):
    house, _ = passed
    house.register()
    first = house.deploy()
    house.write(replace(first, state="retired", closed_at_ns=house.clock.now_ns()))
    house.clock.advance(60 * DAY_S)
    again = house.deploy()
    assert [route.deployment for route in house.routes()] == [again.id]


def test_a_bound_that_was_raised_after_the_verdict_blocks_promotion(passed, claim):
    house, _ = passed
    house.register()
    house.declare(claim(0.94))
    with pytest.raises(RefusedError, match="claims were changed after its verdict"):
        house.deploy()
    assert house.routes() == []


def test_refuting_evidence_since_the_verdict_blocks_promotion(passed):
    house, _ = passed
    house.register()
    house.job.lower = 0.5
    house.evaluate()
    with pytest.raises(RefusedError, match="accuracy is at most"):
        house.deploy()


@pytest.fixture
def rivals(house, claim, better):
    """A hall with a first version, and two candidates that were both proven better than that one."""
    house.declare(claim(), better())
    house.released()
    house.next_round()
    house.train("second")
    house.train("third")
    house.evaluate()
    house.gate()
    return house, dict(house.outputs["gate"])


def promote(house, verdicts, name, number):
    house.outputs["gate"] = {name: verdicts[name]}
    version = replace(house.register_unwritten(), id=f"tumours@{number}", semver=number)
    house.write(version, kind="version.registered")
    house.outputs["register"] = {"version": version.id, "verdict": version.verdict}
    return house.deploy()


def test_a_champion_that_is_no_longer_one_proves_nothing(rivals):
    house, verdicts = rivals
    second = promote(house, verdicts, "second", "1.1.0")
    with pytest.raises(RefusedError, match="another champion than the present one"):
        promote(house, verdicts, "third", "1.2.0")
    assert [route.deployment for route in house.routes()] == [second.id]


def test_control_either_of_them_alone_is_promoted(rivals):
    house, verdicts = rivals
    third = promote(house, verdicts, "third", "1.1.0")
    assert [route.deployment for route in house.routes()] == [third.id]


def test_the_bundle_that_has_the_traffic_need_not_beat_itself(house, claim, better):
    house.declare(claim(), better())
    first = house.released()
    version = house.catalogue.get(Version, first.version)
    house.write(replace(version, id="tumours@1.0.1", semver="1.0.1"), kind="version.registered")
    house.outputs["register"] = {"version": "tumours@1.0.1", "verdict": version.verdict}
    second = house.deploy()
    assert [route.deployment for route in house.routes()] == [second.id]


def at_once(*tasks):
    """Run the tasks in threads that start together; return what each returned or raised."""
    found, barrier = [], threading.Barrier(len(tasks))

    def go(task):
        barrier.wait(10)
        try:
            found.append(task())
        except (ConflictError, RefusedError) as error:
            found.append(error)

    threads = [threading.Thread(target=go, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def test_two_that_register_at_once_make_one_version(passed):
    house, _ = passed
    results = [house.stages["register"].run(house.call("register")) for _ in range(2)]
    found = at_once(*(lambda result=result: house.apply(result) for result in results))
    assert sum(isinstance(each, ConflictError) for each in found) == 1
    assert len(house.catalogue.find(Version)) == 1


@pytest.mark.parametrize("first", [True, False], ids=["the first version", "after another"])
def test_two_that_deploy_at_once_leave_one_live(house, first):
    if not first:
        house.released()
        house.next_round()
        house.job.lower = 0.97
    house.train("new")
    house.evaluate()
    house.gate()
    house.register()
    results = [house.stages["deploy"].run(house.call("deploy")) for _ in range(2)]  # both before either is written
    found = at_once(*(lambda result=result: house.apply(result) for result in results))
    assert sum(isinstance(each, ConflictError) for each in found) == 1
    (live,) = house.catalogue.find(Deployment, state="live")
    assert [route.deployment for route in house.routes()] == [live.id]
    assert live.version == house.outputs["register"]["version"]


def test_whole_promotions_that_race_leave_one_live(rivals):
    house, verdicts = rivals

    def whole(name, number):
        call = house.call("register", upstream={**house.outputs, "gate": {name: verdicts[name]}})
        version = house.stages["register"].run(call).changes[0].new
        version = replace(version, id=f"tumours@{number}", semver=number)
        house.write(version, kind="version.registered")
        upstream = {"register": {"version": version.id, "verdict": version.verdict}}
        return house.apply(house.stages["deploy"].run(house.call("deploy", upstream=upstream)))

    found = at_once(lambda: whole("second", "1.1.0"), lambda: whole("third", "1.2.0"))
    assert sum(isinstance(each, ConflictError | RefusedError) for each in found) == 1
    (live,) = house.catalogue.find(Deployment, state="live")
    assert [route.deployment for route in house.routes()] == [live.id]


def test_a_hundred_looks_wear_a_holdout_out(house):
    """Good luck in one of a hundred looks is no proof: each later look demands more, in the end more than there is."""
    house.train()
    house.job.lower = 0.85
    alphas = []
    for _ in range(100):
        house.evaluate()
        alphas.append(house.job.requests[-1].alphas["accuracy"])
    assert sum(alphas) <= 0.05
    house.job.lower = 0.95
    house.evaluate()
    assert "the holdout has been looked at 101 times; refresh it" in house.refusal()
    assert house.catalogue.find(Holdout)[-1].num_looks == 101


def test_a_new_split_seed_does_not_begin_to_count_anew(house):
    house.train()
    for _ in range(3):
        house.evaluate()
    house.take_data(seed=1)
    house.evaluate()
    assert [request.look for request in house.job.requests] == [1, 2, 3, 4]


def test_holdouts_dealt_in_advance_share_one_count(house):
    house.train()
    dealt = []
    for seed in range(1, 5):
        house.take_data(seed=seed)
        dealt.append(dict(house.outputs["data"]))
    for data in dealt:
        house.outputs["data"] = data
        house.evaluate()
    assert [request.look for request in house.job.requests] == [1, 2, 3, 4]


def test_control_a_holdout_of_other_files_has_its_own_count(house):
    house.train()
    house.evaluate()
    house.take_data(seed=1, files="e" * 64)
    house.evaluate()
    assert [request.look for request in house.job.requests] == [1, 1]


def test_a_look_that_ended_without_figures_counts_all_the_same(house):
    house.train()
    house.stages["evaluate"].run(house.call("evaluate"))  # nobody writes what it returns
    house.evaluate()
    assert [request.look for request in house.job.requests] == [1, 2]
