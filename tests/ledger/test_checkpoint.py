"""A checkpoint's text is the public one, and only the hall's own signature makes it count."""

from __future__ import annotations

import base64
import hashlib

import pytest

from datahall.core.errors import IntegrityError
from datahall.ledger.checkpoint import key_hash, read_note, sign_checkpoint, verify_note

ORIGIN = "datahall.test/hall"
ROOT = bytes(range(32))


@pytest.fixture
def note(signer):
    return sign_checkpoint(ORIGIN, 7, ROOT, signer).note


def test_the_text_is_the_tlog_checkpoint_form(note, signer):
    lines = note.split("\n")
    assert lines[:4] == [ORIGIN, "7", base64.b64encode(ROOT).decode(), ""]
    dash, name, signature = lines[4].split(" ")
    assert (dash, name, lines[5:]) == ("—", ORIGIN, [""])
    decoded = base64.b64decode(signature)
    assert decoded[:4] == hashlib.sha256(ORIGIN.encode() + b"\n\x01" + signer.public_key).digest()[:4]
    assert decoded[4:] == signer.sign("\n".join([*lines[:3], ""]).encode())


@pytest.mark.parametrize(
    "published",
    [
        "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ],
)
def test_the_key_hash_is_that_of_keys_published_by_others(published):
    name, hashed, encoded = published.split("+", 2)
    assert key_hash(name, base64.b64decode(encoded)[1:]).hex() == hashed


def test_a_signed_note_reads_back(note, signer):
    checkpoint = verify_note(note, signer.public_key, origin=ORIGIN)
    assert (checkpoint.origin, checkpoint.size, checkpoint.root, checkpoint.note) == (ORIGIN, 7, ROOT, note)
    assert read_note(note) == checkpoint


def test_another_key_or_origin_is_refused(note, signer, other_signer):
    with pytest.raises(IntegrityError, match="not signed by the hall's key"):
        verify_note(note, other_signer.public_key)
    with pytest.raises(IntegrityError, match="stands where one of 'elsewhere' should"):
        verify_note(note, signer.public_key, origin="elsewhere")


def test_a_good_signature_among_others_counts(note, signer, other_signer):
    witness = sign_checkpoint("witness", 7, ROOT, other_signer).note.splitlines()[-1]
    stranger = sign_checkpoint(ORIGIN, 7, ROOT, other_signer).note.splitlines()[-1]
    assert verify_note(note + witness + "\n", signer.public_key).size == 7
    head, _, own = note.partition("\n\n")
    assert verify_note(f"{head}\n\n{witness}\n{stranger}\n{own}", signer.public_key).size == 7
    with pytest.raises(IntegrityError, match="not signed"):
        verify_note(f"{head}\n\n{witness}\n{stranger}\n", signer.public_key)


@pytest.mark.parametrize("position", range(len(f"{ORIGIN}\n7\n") + 45))
def test_no_character_of_the_text_can_be_changed(note, signer, position):
    changed = note[:position] + ("B" if note[position] == "A" else "A") + note[position + 1 :]
    with pytest.raises(IntegrityError):
        verify_note(changed, signer.public_key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hall\n7\n",
        "hall\n07\n" + "A" * 43 + "=\n\n— hall AAAA\n",
        "hall\n-1\n" + "A" * 43 + "=\n\n— hall AAAA\n",
        "hall\n7\nAAAA\n\n— hall AAAA\n",
        "hall\n7\nA\n\n— hall AAAA\n",
        "a hall\n7\n" + "A" * 43 + "=\n\n— hall AAAA\n",
        "hall\n7\n" + "A" * 43 + "=\n\n— hall AAAA",
        "hall\n7\n" + "A" * 43 + "=\n\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text, signer):
    with pytest.raises(IntegrityError):
        read_note(text)
    with pytest.raises(IntegrityError):
        verify_note(text, signer.public_key)


def test_a_signature_that_is_no_base64_is_no_signature(note, signer):
    with pytest.raises(IntegrityError, match="not signed"):
        verify_note(note.partition("\n\n")[0] + f"\n\n— {ORIGIN} A\n", signer.public_key)


@pytest.mark.parametrize("origin", ["a hall", "a+hall", "", "a\nhall"])
def test_an_origin_that_would_break_the_text_is_our_mistake(origin, signer):
    with pytest.raises(AssertionError):
        sign_checkpoint(origin, 1, ROOT, signer)
