"""Evidence on paper: a measurement as an in-toto Statement, signed in a DSSE envelope."""

from __future__ import annotations

import msgspec

from datahall.core.canonical import canonical_json, digest_bytes
from datahall.core.errors import IntegrityError
from datahall.core.records import Measurement
from datahall.security.signing import Ed25519Signer, dsse_sign

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://datahall.dev/evidence/v1"


class Subject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a statement is about: the bundle, by the digest of its manifest."""

    name: str
    digest: dict[str, str]


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An in-toto Statement v1 (in-toto attestation framework) with our predicate."""

    statement_type: str = msgspec.field(name="_type")
    subject: tuple[Subject, ...]
    predicate_type: str = msgspec.field(name="predicateType")
    predicate: Measurement


def sign_measurement(signer: Ed25519Signer, bundle: str, candidate: str, measurement: Measurement) -> str:
    """Return the DSSE envelope, as JSON text, of a statement that `measurement` was made of `bundle`."""
    statement = Statement(
        statement_type=STATEMENT_TYPE,
        subject=(Subject(name=candidate, digest={"sha256": bundle}),),
        predicate_type=PREDICATE_TYPE,
        predicate=measurement,
    )
    return dsse_sign(signer, PAYLOAD_TYPE, canonical_json(statement))


def read_statement(payload_type: str, payload: bytes) -> tuple[str, Measurement]:
    """Return the bundle's digest and the measurement of a statement, whose signature was checked before.

    Raises IntegrityError for anything but a statement about one bundle with our predicate.
    """
    if payload_type != PAYLOAD_TYPE:
        raise IntegrityError(f"the envelope holds {payload_type[:80]!r}, not an in-toto statement")
    try:
        statement = msgspec.json.decode(payload, type=Statement)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise IntegrityError(f"the statement cannot be read: {error}") from error
    if (statement.statement_type, statement.predicate_type) != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise IntegrityError("the statement is of another type")
    if len(statement.subject) != 1 or set(statement.subject[0].digest) != {"sha256"}:
        raise IntegrityError("the statement is not about exactly one bundle")
    return statement.subject[0].digest["sha256"], statement.predicate


def evidence_id(envelope: str) -> str:
    """Return the id of the Evidence record that keeps `envelope`."""
    return f"evd_{digest_bytes(envelope.encode())[:32]}"
