"""Signatures hold, envelopes open only as signed, and another implementation agrees."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as DsseEnvelope
from securesystemslib.signer import CryptoSigner, SSlibKey

from datahall.core.errors import IntegrityError
from datahall.security.signing import MAX_ENVELOPE_BYTES, Ed25519Signer, dsse_open, dsse_sign, pae, verify

SIGNER = Ed25519Signer.from_private(bytes(range(32)))
KEYS = {SIGNER.key_id: SIGNER.public_key}
TYPE = "application/vnd.in-toto+json"
ENVELOPE = dsse_sign(SIGNER, TYPE, b'{"claim":"accuracy"}')


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def test_rfc_8032_first_vector():
    private = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    signer = Ed25519Signer.from_private(private)
    assert signer.public_key.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert signer.sign(b"").hex().startswith("e5564300c360ac729086e2cc806e828a")
    assert signer.private_raw() == private


def test_pae_is_the_specification_s_example():
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_verify_refuses_forms_that_are_no_key_or_signature():
    signature = SIGNER.sign(b"message")
    assert verify(SIGNER.public_key, b"message", signature)
    assert not verify(SIGNER.public_key, b"massage", signature)
    assert not verify(SIGNER.public_key, b"message", signature[:-1])
    assert not verify(SIGNER.public_key[:-1], b"message", signature)
    assert not verify(Ed25519Signer.generate().public_key, b"message", signature)


def test_a_malleated_signature_does_not_verify():
    order = 2**252 + 27742317777372353535851937790883648493
    signature = SIGNER.sign(b"message")
    scalar = int.from_bytes(signature[32:], "little") + order
    assert not verify(SIGNER.public_key, b"message", signature[:32] + scalar.to_bytes(32, "little"))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_private_key_has_32_bytes(length: int):
    with pytest.raises(IntegrityError, match="32 bytes"):
        Ed25519Signer.from_private(bytes(length))


def test_the_private_key_is_not_in_the_repr():
    assert SIGNER.private_raw().hex() not in repr(SIGNER)


@given(st.text(max_size=40), st.binary(max_size=300))
def test_an_envelope_gives_back_what_was_signed(payload_type: str, payload: bytes):
    opened = dsse_open(dsse_sign(SIGNER, payload_type, payload), KEYS)
    assert (opened.payload_type, opened.payload, opened.key_id) == (payload_type, payload, SIGNER.key_id)


@given(st.data())
def test_every_other_text_is_refused(data: st.DataObject):
    at = data.draw(st.integers(0, len(ENVELOPE) - 1))
    other = data.draw(st.characters(exclude_characters=ENVELOPE[at], exclude_categories=("Cs",)))
    with pytest.raises(IntegrityError):
        dsse_open(ENVELOPE[:at] + other + ENVELOPE[at + 1 :], KEYS)


def edit(**fields: object) -> str:
    return canonical(json.loads(ENVELOPE) | fields)


def resign(**fields: object) -> str:
    return edit(signatures=[json.loads(ENVELOPE)["signatures"][0] | fields])


SIGNATURE = json.loads(ENVELOPE)["signatures"][0]


@pytest.mark.parametrize(
    ("envelope", "says"),
    [
        (edit(payload=base64.b64encode(b'{"claim":"fairness"}').decode()), "does not fit"),
        (edit(payloadType="text/plain"), "does not fit"),
        (edit(payload="%%%="), "not base64"),
        (edit(payload="e30"), "not base64"),
        (edit(payload="e31="), "not canonical base64"),
        (edit(signatures=[]), "0 signatures"),
        (edit(signatures=[SIGNATURE, SIGNATURE]), "2 signatures"),
        (edit(extra=1), "not a DSSE envelope"),
        (edit(payload=1), "not a DSSE envelope"),
        (resign(keyid="0" * 64), "not known here"),
        (resign(keyid="lent"), "is another one"),
        (resign(sig=""), "does not fit"),
        (" " + ENVELOPE, "canonical form"),
        (ENVELOPE[:-1] + ',"payloadType":"text/plain"}', "canonical form"),
        (ENVELOPE + ENVELOPE, "not a DSSE envelope"),
        ("[" * 100_000, "not a DSSE envelope"),
        ("\ud800", "not a DSSE envelope"),
        ("", "not a DSSE envelope"),
        (" " * (MAX_ENVELOPE_BYTES + 1), "longer than"),
    ],
    ids=range(19),
)
def test_what_is_off_is_named(envelope: str, says: str):
    with pytest.raises(IntegrityError, match=says):
        dsse_open(envelope, KEYS | {"lent": SIGNER.public_key})


def test_a_key_under_a_foreign_name_does_not_count():
    foreign = Ed25519Signer.generate()
    with pytest.raises(IntegrityError, match="is another one"):
        dsse_open(ENVELOPE, {SIGNER.key_id: foreign.public_key})


def test_securesystemslib_reads_ours_and_we_read_theirs():
    private = Ed25519PrivateKey.from_private_bytes(SIGNER.private_raw())
    theirs = CryptoSigner(private, SSlibKey(SIGNER.key_id, "ed25519", "ed25519", {"public": SIGNER.public_key.hex()}))
    envelope = DsseEnvelope.from_dict(json.loads(ENVELOPE))
    assert set(envelope.verify([theirs.public_key], 1)) == {SIGNER.key_id}

    made = DsseEnvelope(b"payload", TYPE, {})
    made.sign(theirs)
    assert dsse_open(canonical(made.to_dict()), KEYS).payload == b"payload"
