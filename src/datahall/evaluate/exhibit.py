"""Opens stored evidence for the gate: what it says, and whether its signature may be believed."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Literal

import msgspec

from datahall.core.errors import IntegrityError
from datahall.core.records import Evidence, EvidenceKey, Exhibit, Measurement
from datahall.evaluate.statement import PAYLOAD_TYPE, evidence_id, read_statement
from datahall.security.signing import dsse_open

Signature = Literal["good", "bad", "missing", "unknown_key", "expired_key", "foreign_key"]


def exhibit(evidence: Evidence, keys: Mapping[str, EvidenceKey], integrated: bool) -> Exhibit:
    """Return `evidence` as the gate sees it; `keys` are all evidence keys of the application, by id.

    Never raises for bad evidence: what is wrong stands in `signature`. Bundle and measurement come from the signed
    text, the row's own columns must agree with it.
    """
    signature, bundle, measurement = _open(evidence, keys)
    return Exhibit(
        id=evidence.id,
        bundle=bundle,
        measurement=measurement,
        key_id=evidence.key_id,
        signature=signature,
        integrated=integrated,
    )


def _open(evidence: Evidence, keys: Mapping[str, EvidenceKey]) -> tuple[Signature, str, Measurement]:
    key_ids = _key_ids(evidence.envelope)
    if not key_ids:
        return "missing" if key_ids == [] else "bad", *_unverified(evidence)
    key = keys.get(key_ids[0])
    if len(key_ids) == 1 and key is None:
        return "unknown_key", *_unverified(evidence)
    try:
        opened = dsse_open(evidence.envelope, {key_id: known.public_key for key_id, known in keys.items()})
        bundle, measurement = read_statement(opened.payload_type, opened.payload)
    except IntegrityError:
        return "bad", *_unverified(evidence)
    assert key is not None, "an envelope that opens has one signature, by a known key"
    row = (evidence.id, evidence.bundle, evidence.claim, evidence.app, evidence.key_id)
    signed = (evidence_id(evidence.envelope), bundle, measurement.claim, measurement.app, opened.key_id)
    if row != signed:
        return "bad", bundle, measurement
    return _judge_key(evidence, key, bundle, measurement), bundle, measurement


def _judge_key(evidence: Evidence, key: EvidenceKey, bundle: str, measurement: Measurement) -> Signature:
    """Return whether this key was given out for just this: application, step, bundle, holdout, look and time."""
    signed_for = (measurement.app, evidence.step, measurement.holdout, measurement.look)
    if signed_for != (key.app, key.step, key.holdout, key.look) or bundle not in key.bundles:
        return "foreign_key"
    if measurement.num_candidates != len(key.bundles):
        # Fewer candidates than were measured would let each of them spend more than its share.
        return "foreign_key"
    if not key.issued_at_ns <= measurement.measured_at_ns <= key.expires_at_ns:
        return "expired_key"
    return "good"


def _key_ids(envelope: str) -> list[str] | None:
    """Return the ids of the keys that are said to have signed, None where the text is no envelope."""
    try:
        plain = msgspec.json.decode(envelope)
    except (msgspec.DecodeError, RecursionError):
        return None
    signatures = plain.get("signatures", []) if isinstance(plain, dict) else None
    if not isinstance(signatures, list):
        return None
    return [str(each.get("keyid", "")) if isinstance(each, dict) else "" for each in signatures]


def _unverified(evidence: Evidence) -> tuple[str, Measurement]:
    """Return what the envelope says without believing it, or what the row says where even that cannot be read."""
    try:
        plain = msgspec.json.decode(evidence.envelope)
        payload = base64.b64decode(plain["payload"], validate=True)
        return read_statement(PAYLOAD_TYPE, payload)
    except (msgspec.DecodeError, RecursionError, binascii.Error, IntegrityError, KeyError, TypeError, ValueError):
        return evidence.bundle, Measurement(
            app=evidence.app,
            claim=evidence.claim,
            kind="",
            metric="",
            policy="",
            holdout="",
            look=0,
            num_candidates=0,
            champion=None,
            figure=None,
            problem="the envelope cannot be read",
            node_class="",
            environment="",
            measured_at_ns=0,
            expires_at_ns=0,
        )
