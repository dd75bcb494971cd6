import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.core.canonical import canonical_json, digest_bytes, digest_of
from datahall.core.records import Claim

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
def test_any_reader_of_json_gets_the_value_back(value):
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), PLAIN, min_size=2, max_size=5), st.randoms())
def test_the_order_of_keys_changes_nothing(value, rng):
    keys = list(value)
    rng.shuffle(keys)
    assert digest_of({key: value[key] for key in keys}) == digest_of(value)


@given(PLAIN, PLAIN)
def test_different_bytes_for_different_values(one, other):
    same = canonical_json(one) == canonical_json(other)
    assert same == (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [1, x], lambda x: {"a": {"b": [x]}}, lambda x: (x,)])
def test_what_json_cannot_say_is_refused(number, wrap):
    with pytest.raises(ValueError, match="no canonical form"):
        canonical_json(wrap(number))


def test_a_record_is_its_fields():
    claim = Claim(kind="k", name="n", metric="m", direction="at_least", bound=0.5, confidence=0.95, reason="r")
    assert json.loads(canonical_json(claim))["bound"] == 0.5
    assert digest_of(claim) == digest_bytes(canonical_json(claim))


def test_the_digest_is_sha_256():
    assert digest_bytes(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
