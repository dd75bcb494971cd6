"""Attacks on evidence before the gate: each is stored by a proper act, below a signed checkpoint, and proves nothing."""

from __future__ import annotations

import base64
import json
import re

import msgspec
import pytest

from datahall.core.canonical import canonical_json
from datahall.core.errors import RefusedError
from datahall.core.records import Evidence, EvidenceKey, Measurement
from datahall.evaluate.statement import PAYLOAD_TYPE, evidence_id, sign_measurement
from datahall.security.signing import Ed25519Signer, dsse_sign

replace = msgspec.structs.replace
HOUR_NS = 3600 * 10**9


def statement_of(evidence):
    return json.loads(base64.b64decode(json.loads(evidence.envelope)["payload"]))


def sealed(evidence, envelope, key_id=None):
    """Return the evidence around another envelope, with the id and key that go with it."""
    return replace(evidence, id=evidence_id(envelope), envelope=envelope, key_id=key_id or evidence.key_id)


def edited(evidence, change):
    """Change what was signed and keep the signature."""
    envelope, statement = json.loads(evidence.envelope), statement_of(evidence)
    change(statement)
    envelope["payload"] = base64.b64encode(canonical_json(statement)).decode()
    return sealed(evidence, canonical_json(envelope).decode())


def signed(evidence, signer, payload_type=PAYLOAD_TYPE, change=lambda _: None):
    """Change what was signed and sign it anew."""
    statement = statement_of(evidence)
    change(statement)
    return sealed(evidence, dsse_sign(signer, payload_type, canonical_json(statement)), signer.key_id)


def measured(evidence, signer, **changes):
    """Sign another measurement of the same bundle."""
    statement = statement_of(evidence)
    measurement = replace(msgspec.convert(statement["predicate"], Measurement), **changes)
    subject = statement["subject"][0]
    envelope = sign_measurement(signer, subject["digest"]["sha256"], subject["name"], measurement)
    return sealed(evidence, envelope, signer.key_id)


def figure(evidence, **changes):
    found = msgspec.convert(statement_of(evidence)["predicate"], Measurement).figure
    return replace(found, **changes)


def under(*keys):
    """Return a change of a statement that sets `keys[:-2]`'s entry `keys[-2]` to `keys[-1]`."""

    def change(statement):
        *path, name, value = keys
        for key in path:
            statement = statement[key]
        statement[name] = value

    return change


def with_key(house, **changes):
    """Issue a key that differs from the evaluate job's own; return its signer."""
    signer = Ed25519Signer.generate()
    issued = house.catalogue.find(EvidenceKey)[-1]
    house.write(replace(issued, id=signer.key_id, public_key=signer.public_key, **changes))
    return signer


def other_bundle(house):
    """Train another candidate, whose own figures nobody knows, and leave only that one to be released."""
    bundle = house.train("other")
    del house.outputs["export/forest"]
    return bundle.id


EDITS = {
    "a figure": under("predicate", "figure", "lower", 0.99),
    "the error rate": under("predicate", "figure", "alpha", 0.5),
    "the subject": under("subject", 0, "digest", "sha256", "f" * 64),
    "the candidate's name": under("subject", 0, "name", "tumours#2"),
    "the policy": under("predicate", "policy", "pol_2"),
    "the look": under("predicate", "look", 2),
    "the holdout": under("predicate", "holdout", "hold_2"),
    "the number of candidates": under("predicate", "num_candidates", 2),
    "the champion": under("predicate", "champion", "f" * 64),
    "the expiry": under("predicate", "expires_at_ns", 2**62),
    "the time": under("predicate", "measured_at_ns", 0),
    "the kind": under("predicate", "kind", "improvement"),
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edited_statement_is_no_evidence(house, what):
    evidence = house.measured()
    house.write(edited(evidence, EDITS[what]))
    reason = "about another bundle" if what == "the subject" else "does not hold"
    assert reason in house.refusal()


def test_control_the_unedited_statement_is_evidence(house):
    house.write(edited(house.measured(), lambda _: None))
    assert house.release().version
    assert [route.version for route in house.routes()] == ["tumours@1.0.0"]


def unsigned(evidence):
    envelope = json.loads(evidence.envelope)
    envelope["signatures"] = []
    return sealed(evidence, canonical_json(envelope).decode())


def twice_signed(evidence, signer):
    envelope = json.loads(evidence.envelope)
    envelope["signatures"] += json.loads(signed(evidence, signer).envelope)["signatures"]
    return sealed(evidence, canonical_json(envelope).decode())


def renamed_key(evidence, signer):
    envelope = json.loads(signed(evidence, signer).envelope)
    envelope["signatures"][0]["keyid"] = evidence.key_id
    return sealed(evidence, canonical_json(envelope).decode())


def look_again(house):
    """Open the holdout once more, as an evaluate job would; return the key that was given out for that."""
    house.stages["evaluate"].run(house.call("evaluate"))
    return house.job_key()


def key_of_another_app(house):
    """Return a key that was given out for another application, with everything else as it should be."""
    return with_key(house, app="other")


SIGNERS = {
    "no key": (lambda _, evidence: unsigned(evidence), "it is not signed"),
    "a key of its own": (
        lambda _, evidence: signed(evidence, Ed25519Signer.generate()),
        "no evaluate job was given",
    ),
    "its own key under the right name": (
        lambda _, evidence: renamed_key(evidence, Ed25519Signer.generate()),
        "does not hold",
    ),
    "the hall's own key": (lambda house, evidence: signed(evidence, house.keys.signer), "no evaluate job was given"),
    "another job's key": (lambda house, evidence: signed(evidence, look_again(house)), "not given out for this"),
    "a key for another bundle": (
        lambda house, evidence: signed(evidence, with_key(house, bundles=("f" * 64,))),
        "not given out for this",
    ),
    "a key for more bundles": (
        lambda house, evidence: signed(evidence, with_key(house, bundles=(evidence.bundle, "f" * 64))),
        "not given out for this",
    ),
    "a key for another look": (
        lambda house, evidence: signed(evidence, with_key(house, look=2)),
        "not given out for this",
    ),
    "a key for another holdout": (
        lambda house, evidence: signed(evidence, with_key(house, holdout="hold_2")),
        "not given out for this",
    ),
    "a key for another step": (
        lambda house, evidence: signed(evidence, with_key(house, step="f" * 64)),
        "not given out for this",
    ),
    "a key of another application": (
        lambda house, evidence: signed(evidence, key_of_another_app(house)),
        "no evaluate job was given",
    ),
    "an expired key": (
        lambda house, evidence: signed(evidence, with_key(house, issued_at_ns=0, expires_at_ns=1)),
        "outside its key's time",
    ),
    "a key that comes later": (
        lambda house, evidence: signed(evidence, with_key(house, issued_at_ns=2**61, expires_at_ns=2**62)),
        "outside its key's time",
    ),
    "two keys": (lambda house, evidence: twice_signed(evidence, house.job_key()), "does not hold"),
    "the right key for another type of payload": (
        lambda house, evidence: signed(evidence, house.job_key(), "application/json"),
        "does not hold",
    ),
    "the right key for another predicate": (
        lambda house, evidence: signed(
            evidence, house.job_key(), change=under("predicateType", "https://slsa.dev/provenance/v1")
        ),
        "does not hold",
    ),
    "the right key for another statement": (
        lambda house, evidence: signed(
            evidence, house.job_key(), change=under("_type", "https://in-toto.io/Statement/v2")
        ),
        "does not hold",
    ),
}


@pytest.mark.parametrize("who", SIGNERS)
def test_only_the_key_given_out_for_it_makes_evidence(house, who):
    evidence = house.measured()
    attack, reason = SIGNERS[who]
    house.write(attack(house, evidence))
    assert reason in house.refusal()


def test_control_the_key_that_was_given_out_makes_evidence(house):
    evidence = house.measured()
    house.write(signed(evidence, house.job_key()))
    house.release()
    assert len(house.routes()) == 1


def test_control_so_does_a_second_key_given_out_for_the_same(house):
    evidence = house.measured()
    house.write(signed(evidence, with_key(house)))
    house.release()
    assert len(house.routes()) == 1


def test_evidence_pointed_at_another_bundle_is_about_the_first_one(house):
    evidence = house.measured()
    house.write(replace(evidence, bundle=other_bundle(house)))
    assert "it is about another bundle" in house.refusal()


def test_evidence_of_one_bundle_says_nothing_of_another(house):
    house.write(house.measured())
    other_bundle(house)
    assert "there is no evidence" in house.refusal()


def test_control_each_bundle_has_its_own_evidence(house):
    house.train("other")
    house.evaluate()
    house.release()
    assert len(house.routes()) == 1


def test_a_bundle_s_name_in_the_statement_of_its_own_job_is_not_enough(house):
    """The evaluate job itself may only speak of the bundles that its key names."""
    evidence = house.measured()
    other = other_bundle(house)
    forged = signed(evidence, house.job_key(), change=under("subject", 0, "digest", "sha256", other))
    house.write(replace(forged, bundle=other))
    assert "not given out for this bundle" in house.refusal()


def later(seconds):
    def attack(house, evidence):
        house.clock.advance(seconds)
        return evidence

    return attack


MEASUREMENTS = {
    "another application's": (
        lambda house, evidence: measured(evidence, house.job_key(), app="other"),
        "does not hold",  # the row disagrees with what was signed
    ),
    "under another policy": (
        lambda house, evidence: measured(evidence, house.job_key(), policy="pol_2"),
        "the claims were changed after the evaluation",
    ),
    "of another claim": (
        lambda house, evidence: measured(evidence, house.job_key(), claim="speed"),
        "there is no evidence",
    ),
    "of another metric": (
        lambda house, evidence: measured(evidence, house.job_key(), metric="f1"),
        "it measures accuracy f1, not accuracy accuracy",
    ),
    "on another holdout": (
        lambda house, evidence: measured(evidence, house.job_key(), holdout="hold_2"),
        "not given out for this",
    ),
    "in a look that was not counted": (
        lambda house, evidence: measured(evidence, house.job_key(), look=7),
        "not given out for this",
    ),
    "dated into the future": (
        lambda house, evidence: measured(evidence, house.job_key(), measured_at_ns=house.clock.now_ns() + HOUR_NS // 2),
        "dated in the future",
    ),
    "expired by its own date": (
        lambda house, evidence: measured(evidence, house.job_key(), expires_at_ns=house.clock.now_ns() - 1),
        "has expired",
    ),
    "expired by the policy's days": (
        lambda house, evidence: later(30.5 * 86400)(house, measured(evidence, house.job_key(), expires_at_ns=2**62)),
        "has expired",
    ),
    "bounded at a generous error rate": (
        lambda house, evidence: measured(evidence, house.job_key(), figure=figure(evidence, alpha=0.2)),
        "were computed at an error rate of",
    ),
    "inside out": (
        lambda house, evidence: measured(evidence, house.job_key(), figure=figure(evidence, lower=0.99, upper=0.98)),
        "its lower bound lies above",
    ),
    "without a figure": (
        lambda house, evidence: measured(evidence, house.job_key(), figure=None, problem="no rows"),
        "could not be measured: no rows",
    ),
    "with fewer candidates than the key": (
        lambda house, evidence: measured(evidence, house.job_key(), num_candidates=0),
        "not given out for this",
    ),
    "that is too low": (
        lambda house, evidence: measured(evidence, house.job_key(), figure=figure(evidence, lower=0.89)),
        "proven is only at least 0.89",
    ),
}


@pytest.mark.parametrize("which", MEASUREMENTS)
def test_a_measurement_counts_only_for_what_it_says(house, which):
    evidence = house.measured()
    attack, reason = MEASUREMENTS[which]
    if which == "of another claim":
        evidence = replace(evidence, claim="speed")
    house.write(attack(house, evidence))
    assert reason in house.refusal()


def test_control_a_measurement_within_its_days_counts(house):
    evidence = house.measured()
    house.write(later(29.5 * 86400)(house, measured(evidence, house.job_key(), expires_at_ns=2**62)))
    house.release()
    assert len(house.routes()) == 1


def test_a_threshold_changed_after_the_evaluation_makes_another_bundle(house):
    house.write(house.measured())
    assert house.train("forest", threshold=0.1).manifest.threshold == 0.1
    assert "there is no evidence" in house.refusal()


def test_a_bound_changed_after_the_evaluation_changes_what_was_measured(house, claim):
    house.job.lower = 0.85
    house.write(house.measured())
    house.declare(claim(0.8))
    assert "the claims were changed after the evaluation" in house.refusal()


def test_control_a_bound_changed_before_the_evaluation_counts(house, claim):
    house.job.lower = 0.85
    house.declare(claim(0.8))
    house.write(house.measured())
    house.release()
    assert len(house.routes()) == 1


def test_evidence_that_no_checkpoint_covers_is_none(house):
    house.write(house.measured())
    gate = house.stages["gate"]
    gate._integrate = lambda: None
    with pytest.raises(Exception, match="not what the ledger counted"):
        house.gate()
    gate._integrate = house.sequencer.flush
    house.release()  # control: once it is integrated, it counts
    assert len(house.routes()) == 1


def test_no_evidence_is_no_way(house):
    house.measured()
    assert "there is no evidence for this claim" in house.refusal()


def test_a_claimless_policy_proves_nothing(house):
    house.declare()
    house.train()
    assert "the policy claims nothing" in house.refusal()


def test_a_worse_figure_of_the_same_look_holds(house):
    """Whoever holds the job's key cannot drown a bad figure in good ones."""
    house.job.lower = 0.85
    evidence = house.measured()
    better = measured(evidence, house.job_key(), figure=figure(evidence, lower=0.95, upper=0.99))
    house.write(evidence, better)
    assert re.search("accuracy is at most 0.87", house.refusal())


def test_control_the_better_figure_alone_would_pass(house):
    house.job.lower = 0.85
    evidence = house.measured()
    house.write(measured(evidence, house.job_key(), figure=figure(evidence, lower=0.95, upper=0.99)))
    house.release()
    assert len(house.routes()) == 1


def test_a_version_cannot_be_registered_without_a_verdict(house):
    house.train()
    house.outputs["gate"] = {}
    with pytest.raises(RefusedError, match="no candidate passed"):
        house.register()
    assert house.catalogue.find(Evidence) == []
