"""A hall's store with a history, and a key of its own, for the ledger's tests."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.ledger.sequencer import Sequencer
from datahall.testing.catalogue import app, declare
from datahall.testing.clock import AutoClock

ORIGIN = "datahall.test/hall"


class KeptSigner:
    """Signs with a key made from a number."""

    def __init__(self, number=1):
        self._key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        self.public_key = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.key_id = hashlib.sha256(self.public_key).hexdigest()

    def sign(self, message):
        return self._key.sign(message)


@pytest.fixture(scope="session")
def signer():
    return KeptSigner()


@pytest.fixture(scope="session")
def other_signer():
    return KeptSigner(2)


@pytest.fixture
def clock():
    return AutoClock()


@pytest.fixture
def store(tmp_path, clock):
    opened = SqliteCatalogue(tmp_path / "hall.db", clock)
    yield opened
    opened.close()


@pytest.fixture
def sequencer(store, signer, clock):
    return Sequencer(store, signer, ORIGIN, clock)


@pytest.fixture
def history(store, sequencer):
    """Five applications in two checkpoints of 4 and 7 entries, then two entries that are not integrated."""
    for name in "abcd":
        declare(store, app(name))
    first = sequencer.flush()
    declare(store, app("a", digest="1"), app("a"))
    declare(store, None, app("b"))
    declare(store, app("e"))
    second = sequencer.flush()
    declare(store, app("f"))
    declare(store, app("c", digest="2"), app("c"))
    return first, second
