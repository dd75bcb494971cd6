"""Records keep the digest that they were written with, whatever fields later versions add."""

from __future__ import annotations

import msgspec
import pytest

from datahall.core.canonical import canonical_json
from datahall.core.records import ApiKey, Deployment, KeyGrant, Quota, RouteTable, TeamRule
from datahall.ledger.bodies import read_record, record_body

OLD = {
    Deployment: {
        "id": "dep_1", "app": "a", "team": "t", "version": "a@1.0.0", "bundle": "b", "verdict": "v", "state": "live",
        "num_replicas": 1, "protocols": ["v2"], "drain_seconds": 1.0, "opened_at_ns": 1, "closed_at_ns": 0,
    },
    ApiKey: {
        "id": "key_1", "name": "n", "principal": "p", "team": "t", "sha256": "s", "scopes": ["read"],
        "created_at_ns": 1, "expires_at_ns": None, "revoked_at_ns": None,
    },
    RouteTable: {
        "id": "current", "revision": 3, "published_at_ns": 1, "routes": [],
        "keys": {"s": {"key_id": "k", "principal": "p", "team": "t", "scopes": ["read"], "expires_at_ns": None}},
    },
}  # fmt: skip
"""Bodies as versions wrote them that knew neither quotas nor priorities."""


@pytest.mark.parametrize("kind", OLD)
def test_what_an_earlier_version_wrote_is_read_and_has_the_same_body(kind):
    body = canonical_json(OLD[kind])
    assert record_body(read_record(kind, body)) == body


@pytest.mark.parametrize("kind", OLD)
def test_control_a_field_that_is_not_later_stays_in_the_body_at_its_default(kind):
    name = {Deployment: "closed_at_ns", ApiKey: "revoked_at_ns", RouteTable: "published_at_ns"}[kind]
    assert name in msgspec.json.decode(record_body(read_record(kind, canonical_json(OLD[kind]))))


def test_what_is_not_the_default_is_in_the_body():
    deployment = read_record(Deployment, canonical_json(OLD[Deployment]))
    limited = msgspec.structs.replace(deployment, quota=Quota(rate_per_s=3.0), cache_seconds=2.0)
    assert record_body(limited) != record_body(deployment)
    assert read_record(Deployment, record_body(limited)) == limited
    table = read_record(RouteTable, canonical_json(OLD[RouteTable]))
    grant = msgspec.structs.replace(table.keys["s"], priority="low")
    other = msgspec.structs.replace(table, keys={"s": grant}, teams={"t": TeamRule(weight=2.0)}, num_gateways=2)
    assert read_record(RouteTable, record_body(other)) == other
    assert isinstance(grant, KeyGrant)
