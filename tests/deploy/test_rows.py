"""Attacks on the database file: rows, index and entries changed behind the hall's back lead to no traffic."""

from __future__ import annotations

import msgspec
import pytest

from datahall.core.errors import IntegrityError, RefusedError
from datahall.core.records import (
    ApiKey,
    App,
    Bundle,
    Candidate,
    Deployment,
    Evidence,
    EvidenceKey,
    Figure,
    Holdout,
    Measurement,
    Policy,
    Verdict,
    Version,
)
from datahall.evaluate.statement import evidence_id, sign_measurement
from datahall.ledger.bodies import record_digest
from datahall.ledger.checkpoint import sign_checkpoint
from datahall.security.signing import Ed25519Signer

replace = msgspec.structs.replace
CHAIN = (Evidence, EvidenceKey, Verdict, Version, Candidate, Policy, Bundle, Deployment, App)

EDITS = {
    Evidence: {"claim": "speed"},
    EvidenceKey: {"expires_at_ns": 2**62},
    Verdict: {"reason": "because I say so"},
    Version: {"semver": "2.0.0"},
    Candidate: {"name": "better"},
    Policy: {"evidence_days": 9999.0},
    Bundle: {"artifact": "f" * 64},
    Deployment: {"version": "tumours@2.0.0"},
    App: {"team": "thieves"},
}


def only(house, kind):
    return house.catalogue.find(kind)[-1]


@pytest.fixture
def live(house):
    """A hall with a released version, before any gateway was told."""
    deployment = house.released()
    house.sequencer.flush()
    return house, deployment


def test_control_the_released_version_is_served(live):
    house, deployment = live
    assert house.admission.serve(deployment).id == deployment.bundle
    assert [route.deployment for route in house.routes()] == [deployment.id]


@pytest.mark.parametrize("kind", CHAIN, ids=lambda kind: kind.KIND)
def test_an_edited_row_of_the_chain_is_no_way(live, kind):
    house, deployment = live
    house.rewrite(replace(only(house, kind), **EDITS[kind]))
    with pytest.raises((RefusedError, IntegrityError), match=r"behind the ledger|not what the ledger says"):
        house.admission.serve(house.catalogue.get(Deployment, deployment.id))
    assert house.routes() == []


@pytest.mark.parametrize("kind", CHAIN, ids=lambda kind: kind.KIND)
def test_a_forged_entry_over_an_edited_row_is_no_way(live, kind):
    """The row, the index and an entry agree; no checkpoint covers the entry."""
    house, deployment = live
    house.forge(replace(only(house, kind), **EDITS[kind]))
    with pytest.raises((RefusedError, IntegrityError)):
        house.admission.serve(house.catalogue.get(Deployment, deployment.id))


@pytest.mark.parametrize("kind", CHAIN, ids=lambda kind: kind.KIND)
def test_a_removed_row_of_the_chain_is_no_way(live, kind):
    house, deployment = live
    house.forget(only(house, kind))
    assert house.routes() == []
    if kind is not Deployment:  # without it there is nothing left that could be served
        with pytest.raises((RefusedError, IntegrityError)):
            house.admission.serve(deployment)


@pytest.mark.parametrize("kind", CHAIN, ids=lambda kind: kind.KIND)
def test_an_entry_changed_with_its_row_is_no_way(live, kind):
    """Whoever changes the signed entry itself breaks the root that was signed."""
    house, deployment = live
    old = only(house, kind)
    new = replace(old, **EDITS[kind])
    for entry in house.catalogue.touching(kind.KIND, old.id):
        house.sql(
            "UPDATE entries SET body = CAST(replace(CAST(body AS TEXT), ?, ?) AS BLOB) WHERE seq = ?",
            record_digest(old),
            record_digest(new),
            entry.seq,
        )
    house.rewrite(new)
    assert house.catalogue.get(kind, new.id) == new  # the catalogue itself sees nothing
    fresh = type(house)(
        house.paths.root.with_name(f"copy-{kind.KIND}"), house
    )  # nor has this one seen the entries before
    for one in (house, fresh):
        with pytest.raises((RefusedError, IntegrityError)):
            one.admission.serve(house.catalogue.get(Deployment, deployment.id))
    fresh.catalogue.close()


def bad_candidate(house):
    """Measure a candidate that is refused; return what would have to be written for it to be served."""
    house.job.lower = 0.5
    house.train("bad")
    house.evaluate()
    verdict = house.gate()
    assert verdict.outcome == "fail"
    house.sequencer.flush()
    return verdict


def version_of(verdict, **changes):
    version = Version(
        id="tumours@6.6.6",
        app="tumours",
        semver="6.6.6",
        candidate=verdict.candidate,
        bundle=verdict.bundle,
        verdict=verdict.id,
        parent=None,
        registered_at_ns=1,
    )
    return replace(version, **changes)


def deployment_of(version, **changes):
    deployment = Deployment(
        id="dep_6",
        app=version.app,
        team="main",
        version=version.id,
        bundle=version.bundle,
        verdict=version.verdict,
        state="live",
        num_replicas=1,
        protocols=("predict",),
        drain_seconds=0.0,
        opened_at_ns=1,
    )
    return replace(deployment, **changes)


def test_inserted_rows_without_entries_are_no_way(house):
    verdict = bad_candidate(house)
    passed = replace(verdict, id="verdict_6", outcome="pass")
    version = version_of(passed)
    for record in (passed, version, deployment_of(version)):
        house.insert(record)
    with pytest.raises(RefusedError, match="not what the ledger says"):
        house.admission.serve(deployment_of(version))
    with pytest.raises(IntegrityError, match="behind the ledger"):
        house.admission.check(version)
    assert house.routes() == []


def test_inserted_rows_with_a_forged_entry_are_no_way(house):
    verdict = bad_candidate(house)
    passed = replace(verdict, id="verdict_6", outcome="pass")
    version = version_of(passed)
    house.forge(passed, version, deployment_of(version))
    with pytest.raises(RefusedError, match="not what the ledger says"):
        house.admission.serve(deployment_of(version))
    with pytest.raises(RefusedError, match="not what the ledger says"):
        house.admission.check(version)


def test_a_forged_verdict_does_not_repeat_even_when_its_entry_is_signed(house):
    verdict = bad_candidate(house)
    passed = replace(verdict, id="verdict_6", outcome="pass")
    house.forge(passed, version_of(passed), deployment_of(version_of(passed)), vouched=True)
    house.sequencer.flush()
    with pytest.raises(RefusedError, match="does not repeat its verdict"):
        house.admission.check(version_of(passed))
    assert house.routes() == []


def forged_pass(house):
    """Forge everything that a pass needs: key, evidence, verdict, version and deployment, in one entry."""
    verdict = bad_candidate(house)
    signer = Ed25519Signer.generate()
    issued = only(house, EvidenceKey)
    key = replace(issued, id=signer.key_id, public_key=signer.public_key, look=issued.look + 1)
    holdout = replace(only(house, Holdout), num_looks=issued.look + 1)
    true = msgspec.convert(verdict.view["exhibits"][0]["measurement"], Measurement)
    figure = Figure(estimate=0.99, lower=0.99, upper=0.999, alpha=1e-3, num=500, method="made up")
    measured = replace(true, look=key.look, figure=figure)
    envelope = sign_measurement(signer, verdict.bundle, verdict.candidate, measured)
    evidence = replace(only(house, Evidence), id=evidence_id(envelope), envelope=envelope, key_id=key.id)
    return key, holdout, evidence


def test_a_key_that_only_sql_wrote_signs_nothing(house):
    key, holdout, evidence = forged_pass(house)
    house.forge(key, holdout, evidence)
    house.stages["gate"]._integrate = lambda: None
    with pytest.raises(IntegrityError):
        house.gate()


def test_a_forged_checkpoint_covers_nothing(house):
    key, holdout, evidence = forged_pass(house)
    house.forge(key, holdout, evidence)
    own = Ed25519Signer.generate()
    size = len(house.catalogue.entries())
    note = sign_checkpoint(house.sequencer.origin, size, b"\0" * 32, own)
    house.sql(
        "INSERT INTO checkpoints (size, origin, root, note) VALUES (?, ?, ?, ?)",
        size,
        note.origin,
        note.root,
        note.note,
    )
    with pytest.raises(IntegrityError, match="not signed by the hall's key"):
        house.gate()


def test_an_entry_that_somebody_else_wrote_is_not_signed(house):
    """A whole forged chain, appended while the hall runs: its sequencer must not make it true."""
    house.forge(*forged_pass(house))
    with pytest.raises(IntegrityError, match="was not written by this hall"):
        house.refusal()
    with pytest.raises(IntegrityError, match="was not written by this hall"):
        house.sequencer.flush()


def test_control_with_the_entry_key_the_forged_chain_is_signed(house):
    house.forge(*forged_pass(house), vouched=True)
    house.sequencer.flush()


def test_a_lowered_count_of_looks_is_noticed_before_the_next_look(house):
    house.train()
    first = only(house, Holdout)
    house.evaluate()
    house.evaluate()
    house.sequencer.flush()
    assert only(house, Holdout).num_looks == 2
    house.roll_back(first)
    assert only(house, Holdout).num_looks == 0  # the catalogue itself sees nothing
    with pytest.raises(IntegrityError, match="not what the ledger counted"):
        house.evaluate()
    with pytest.raises(IntegrityError, match="not what the ledger counted"):
        house.gate()


def test_control_a_look_more_is_counted(house):
    house.train()
    house.evaluate()
    house.evaluate()
    assert [request.look for request in house.job.requests] == [1, 2]


def test_a_removed_holdout_is_noticed_before_the_next_look(house):
    house.train()
    house.evaluate()
    house.sequencer.flush()
    house.forget(only(house, Holdout))
    house.take_data(seed=1)
    with pytest.raises(IntegrityError, match="removed behind the ledger"):
        house.evaluate()


def test_removing_the_evidence_that_refutes_does_not_bring_back_older_one(house):
    house.train()
    house.evaluate()
    house.job.lower = 0.5
    (refuting,) = house.evaluate()
    house.sequencer.flush()
    house.forget(refuting)
    assert "removed behind the ledger" in house.refusal()


def test_control_the_older_evidence_alone_would_pass(house):
    house.train()
    house.evaluate()
    house.release()
    assert len(house.routes()) == 1


def test_a_removed_deployment_does_not_take_the_champion_away(live):
    house, deployment = live
    house.next_round()
    house.train("second")
    house.evaluate()
    house.sequencer.flush()
    house.gate()
    house.register()
    house.forget(deployment)
    with pytest.raises(IntegrityError, match="removed behind the ledger"):
        house.deploy()


def test_a_retired_deployment_does_not_come_back_by_its_row(live):
    house, deployment = live
    house.next_round()
    house.job.lower = 0.97
    house.train("second")
    house.evaluate()
    second = house.release()
    house.sequencer.flush()
    assert house.catalogue.get(Deployment, deployment.id).state == "retired"
    house.roll_back(deployment)
    assert {d.id for d in house.catalogue.find(Deployment, state="live")} == {deployment.id, second.id}
    with pytest.raises(RefusedError, match="not what the ledger says"):
        house.admission.serve(house.catalogue.get(Deployment, deployment.id))
    assert deployment.id not in [route.deployment for route in house.routes()]


def test_an_inserted_api_key_opens_nothing(live):
    house, _ = live
    key = ApiKey(
        id="key_6",
        name="mine",
        principal="owner",
        team="main",
        sha256="0" * 64,
        scopes=("admin",),
        created_at_ns=0,
        expires_at_ns=None,
    )
    house.insert(key)
    published, problem = house.reconcile()
    assert "behind the ledger" in problem
    assert all(not table.keys for table in published)


def test_control_an_issued_api_key_reaches_the_gateways(live):
    house, _ = live
    key = ApiKey(
        id="key_6",
        name="mine",
        principal="owner",
        team="main",
        sha256="0" * 64,
        scopes=("predict",),
        created_at_ns=0,
        expires_at_ns=None,
    )
    house.write(key, kind="key.issued")
    published, _ = house.reconcile()
    assert list(published[-1].keys) == ["0" * 64]
