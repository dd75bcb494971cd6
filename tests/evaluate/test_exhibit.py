"""Attacks on stored evidence: whatever is done to it, it never comes out as good."""

import base64
import json
import random

import msgspec
import pytest

from datahall.core.canonical import canonical_json
from datahall.evaluate.exhibit import exhibit
from datahall.evaluate.statement import PAYLOAD_TYPE, evidence_id
from datahall.security.signing import Ed25519Signer, dsse_sign
from datahall.testing.clock import AutoClock

replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def request_(stage, make_claim):
    return stage.request(make_claim("accuracy", "accuracy", 0.6), contenders=["logistic", "forest"])


@pytest.fixture(scope="module")
def stored(stage, request_):
    return stage.evidence(request_)


def signature(evidence, *keys, **options):
    return exhibit(evidence, {key.id: key for key in keys}, integrated=True, **options).signature


def resealed(evidence, envelope):
    """Return the row as somebody with access to the table would write it around another envelope."""
    return replace(evidence, envelope=envelope, id=evidence_id(envelope))


def edited(evidence, change):
    """Return the row with its statement changed by `change` and the old signature kept."""
    envelope = json.loads(evidence.envelope)
    statement = json.loads(base64.b64decode(envelope["payload"]))
    change(statement)
    envelope["payload"] = base64.b64encode(canonical_json(statement)).decode()
    return resealed(evidence, canonical_json(envelope).decode())


def test_untouched_evidence_is_good(stored, request_):
    evidence, key = stored
    found = exhibit(evidence, {key.id: key}, integrated=True)
    assert (found.signature, found.bundle, found.id) == ("good", request_.contenders[0].bundle, evidence.id)
    assert (found.measurement.policy, found.measurement.look, found.integrated) == ("pol_1", 1, True)
    assert exhibit(evidence, {key.id: key}, integrated=False).integrated is False


def raise_figure(statement):
    statement["predicate"]["figure"]["lower"] = 0.999


def change_bundle(statement):
    statement["subject"][0]["digest"]["sha256"] = "f" * 64


def change_policy(statement):
    statement["predicate"]["policy"] = "pol_2"


def extend_life(statement):
    statement["predicate"]["expires_at_ns"] += 10**18


@pytest.mark.parametrize("change", [raise_figure, change_bundle, change_policy, extend_life])
def test_an_edited_figure_is_bad(stored, change):
    evidence, key = stored
    assert signature(edited(evidence, change), key) == "bad"


def test_a_thousand_flipped_characters_are_never_good(stored):
    evidence, key = stored
    pick = random.Random(5)  # noqa: S311  (a reproducible attack, no secret)
    for _ in range(1000):
        at = pick.randrange(len(evidence.envelope))
        text = evidence.envelope
        other = text[:at] + chr(33 + (ord(text[at]) - 32) % 94) + text[at + 1 :]
        assert other != text
        assert signature(resealed(evidence, other), key) != "good"
        assert signature(replace(evidence, envelope=other), key) != "good"


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "{", '{"signatures": 5}', '{"signatures": [1]}', "[" * 5000])
def test_what_is_no_envelope_is_never_good(stored, text):
    evidence, key = stored
    found = exhibit(resealed(evidence, text), {key.id: key}, integrated=True)
    assert found.signature != "good"
    assert found.measurement.figure is None


def test_an_envelope_without_signatures_is_missing_one(stored):
    evidence, key = stored
    envelope = json.loads(evidence.envelope)
    envelope["signatures"] = []
    found = exhibit(resealed(evidence, canonical_json(envelope).decode()), {key.id: key}, integrated=True)
    assert found.signature == "missing"
    assert found.measurement.figure is not None  # for people to read; the gate does not


def test_a_key_that_nobody_issued_signs_nothing(stored):
    evidence, _ = stored
    assert signature(evidence) == "unknown_key"


def test_a_train_job_cannot_sign_with_a_key_of_its_own(stored, request_):
    evidence, key = stored
    payload = base64.b64decode(json.loads(evidence.envelope)["payload"])
    own = Ed25519Signer.generate()
    forged = resealed(evidence, dsse_sign(own, PAYLOAD_TYPE, payload))
    assert signature(forged, key) == "unknown_key"
    # Even a key row under the issued key's id does not make it the issued key.
    assert signature(replace(forged, key_id=key.id), key) == "unknown_key"
    assert signature(forged, key, replace(key, id=own.key_id)) == "bad"


def test_the_name_of_a_known_key_is_no_signature(stored):
    evidence, key = stored
    envelope = json.loads(dsse_sign(Ed25519Signer.generate(), PAYLOAD_TYPE, b"{}"))
    envelope["signatures"][0]["keyid"] = key.id
    assert signature(resealed(evidence, canonical_json(envelope).decode()), key) == "bad"


def test_two_signatures_are_no_signature(stored):
    evidence, key = stored
    envelope = json.loads(evidence.envelope)
    envelope["signatures"] *= 2
    assert signature(resealed(evidence, canonical_json(envelope).decode()), key) == "bad"


@pytest.mark.parametrize("payload", [b"{}", b"", b"5", b'{"_type": "https://in-toto.io/Statement/v0.1"}'])
def test_a_good_signature_over_something_else_is_bad(stored, request_, payload):
    evidence, key = stored
    signer = Ed25519Signer.from_private(request_.signing_key)
    assert signature(resealed(evidence, dsse_sign(signer, PAYLOAD_TYPE, payload)), key) == "bad"
    whole = base64.b64decode(json.loads(evidence.envelope)["payload"])
    assert signature(resealed(evidence, dsse_sign(signer, "text/plain", whole)), key) == "bad"
    assert signature(resealed(evidence, dsse_sign(signer, PAYLOAD_TYPE, whole)), key) == "good"


def by_the_key_itself(stored, request_, change):
    evidence, _ = stored
    statement = json.loads(base64.b64decode(json.loads(evidence.envelope)["payload"]))
    change(statement)
    signer = Ed25519Signer.from_private(request_.signing_key)
    return resealed(evidence, dsse_sign(signer, PAYLOAD_TYPE, canonical_json(statement)))


def two_subjects(statement):
    statement["subject"] *= 2


def no_subject(statement):
    statement["subject"] = []


def other_algorithm(statement):
    statement["subject"][0]["digest"] = {"md5": "0"}


def other_predicate(statement):
    statement["predicateType"] = "https://datahall.dev/evidence/v2"


def other_statement(statement):
    statement["_type"] = "https://in-toto.io/Statement/v2"


@pytest.mark.parametrize("change", [two_subjects, no_subject, other_algorithm, other_predicate, other_statement])
def test_a_statement_of_another_form_is_bad(stored, request_, change):
    assert signature(by_the_key_itself(stored, request_, change), stored[1]) == "bad"


def test_rows_that_disagree_with_what_was_signed_are_bad(stored):
    evidence, key = stored
    for change in (
        {"bundle": "f" * 64},
        {"claim": "fairness"},
        {"app": "other"},
        {"key_id": "0" * 64},
        {"id": "evd_0"},
    ):
        assert signature(replace(evidence, **change), key) == "bad"


def test_a_key_counts_only_for_what_it_was_given_out_for(stored, request_):
    evidence, key = stored
    for change in (
        {"app": "other"},
        {"step": "step_2"},
        {"holdout": "hold_2"},
        {"look": 2},
        {"bundles": ("f" * 64, "e" * 64)},
        {"bundles": key.bundles[:1]},
        {"bundles": (*key.bundles, "e" * 64)},
    ):
        assert signature(evidence, replace(key, **change)) == "foreign_key"
    assert signature(replace(evidence, step="step_2"), key) == "foreign_key"
    assert request_.contenders[0].bundle in key.bundles


def test_a_key_counts_only_in_its_time(stored):
    evidence, key = stored
    now = AutoClock().now_ns()
    assert signature(evidence, replace(key, expires_at_ns=now - 1)) == "expired_key"
    assert signature(evidence, replace(key, issued_at_ns=now + 1)) == "expired_key"
    assert signature(evidence, replace(key, issued_at_ns=now, expires_at_ns=now)) == "good"
