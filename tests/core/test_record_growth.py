"""A record may gain a field without any stored one changing its digest."""

from __future__ import annotations

from typing import ClassVar

import msgspec
import pytest

from datahall.core.canonical import canonical_json, digest_of
from datahall.core.records import CATALOGUE_RECORDS, KeyGrant, Quota, Record, Route, TeamRule


class Before(Record, frozen=True, kw_only=True):
    KIND: ClassVar[str] = "thing"
    name: str


class After(Before, frozen=True, kw_only=True):
    colour: str = "grey"


def test_a_new_field_with_a_default_leaves_old_digests_alone():
    old = Before(id="t1", name="hammer")
    read = msgspec.json.decode(canonical_json(old), type=After)
    assert read == After(id="t1", name="hammer", colour="grey")
    assert digest_of(read) == digest_of(old)


def test_what_differs_from_the_default_is_written():
    """The negative control: a record does say what matters."""
    assert digest_of(After(id="t1", name="hammer", colour="red")) != digest_of(Before(id="t1", name="hammer"))


@pytest.mark.parametrize("kind", [*CATALOGUE_RECORDS, Route, KeyGrant, Quota, TeamRule], ids=lambda kind: kind.__name__)
def test_every_record_omits_its_defaults(kind):
    assert kind.__struct_config__.omit_defaults
