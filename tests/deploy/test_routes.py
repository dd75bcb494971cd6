"""Attacks on the way from a deployment to the gateways: replicas, bytes of bundles, and the route table itself."""

from __future__ import annotations

import base64
import json

import msgspec
import pytest

from datahall.core.canonical import canonical_json
from datahall.core.errors import IntegrityError, UnavailableError
from datahall.core.records import Artifact, Deployment, EvidenceKey, Replica, RouteTable, Version
from datahall.deploy.table import TABLE_ID, routed_by
from datahall.security.access import issue_key
from datahall.security.signing import Ed25519Signer, dsse_sign
from datahall.serve import table as serve_table
from datahall.serve.table import PAYLOAD_TYPE, FileRouteSource, publish_routes, seal_table

TEAM = "main"
replace = msgspec.structs.replace


@pytest.fixture
def followed(house):
    """A hall whose gateway follows its table: the hall, the table, the file, and the gateway's view of it."""
    house.released()
    published, _ = house.reconcile()
    table = published[-1]
    publish_routes(house.paths.routes, table, house.keys.signer, house.keys.routes_key)
    source = FileRouteSource(
        house.paths.routes, {house.keys.signer.key_id: house.keys.signer.public_key}, house.keys.routes_key
    )
    assert source.poll() == table
    return house, table, source


def with_other_routes(table, **changes):
    """Return the next table with its routes changed."""
    routes = tuple(replace(route, **changes) for route in table.routes)
    return replace(table, revision=table.revision + 1, routes=routes)


def test_control_the_next_table_of_the_hall_is_followed(followed):
    house, table, source = followed
    new = with_other_routes(table, bundle="f" * 64)
    publish_routes(house.paths.routes, new, house.keys.signer, house.keys.routes_key)
    assert source.poll() == new


def test_an_edited_table_is_refused(followed):
    house, table, source = followed
    envelope = json.loads(house.paths.routes.read_text())
    signed = dsse_sign(
        Ed25519Signer.generate(),
        PAYLOAD_TYPE,
        seal_table(canonical_json(with_other_routes(table, bundle="f" * 64)), house.keys.routes_key),
    )
    envelope["payload"] = json.loads(signed)["payload"]
    house.paths.routes.write_bytes(canonical_json(envelope))
    assert source.poll() is None
    assert "is refused" in source.problem


def test_a_table_signed_by_anybody_else_is_refused(followed):
    house, table, source = followed
    issued = Ed25519Signer.from_private(house.job.requests[-1].signing_key)
    assert house.catalogue.find(EvidenceKey)[-1].id == issued.key_id
    for signer in (Ed25519Signer.generate(), issued):
        publish_routes(house.paths.routes, with_other_routes(table, bundle="f" * 64), signer, house.keys.routes_key)
        assert source.poll() is None
        assert "is refused" in source.problem


def test_a_table_under_the_hall_s_name_is_refused(followed):
    house, table, source = followed
    signed = dsse_sign(
        Ed25519Signer.generate(),
        PAYLOAD_TYPE,
        seal_table(canonical_json(with_other_routes(table, bundle="f" * 64)), house.keys.routes_key),
    )
    envelope = json.loads(signed)
    envelope["signatures"][0]["keyid"] = house.keys.signer.key_id
    house.paths.routes.write_bytes(canonical_json(envelope))
    assert source.poll() is None
    assert "is refused" in source.problem


def test_what_the_hall_signed_as_something_else_is_no_table(followed):
    house, table, source = followed
    body = canonical_json(with_other_routes(table, bundle="f" * 64))
    house.paths.routes.write_text(dsse_sign(house.keys.signer, "application/vnd.in-toto+json", body))
    assert source.poll() is None
    house.paths.routes.write_text(
        dsse_sign(house.keys.signer, PAYLOAD_TYPE, seal_table(b'{"revision": 9}', house.keys.routes_key))
    )
    assert source.poll() is None
    assert "is refused" in source.problem


def test_a_plain_table_is_refused(followed):
    house, table, source = followed
    house.paths.routes.write_bytes(canonical_json(with_other_routes(table, bundle="f" * 64)))
    assert source.poll() is None
    assert "is refused" in source.problem


def test_an_older_table_is_refused(followed):
    house, table, source = followed
    before = house.paths.routes.read_bytes()
    publish_routes(house.paths.routes, with_other_routes(table), house.keys.signer, house.keys.routes_key)
    assert source.poll().revision == table.revision + 1
    house.paths.routes.write_bytes(before)
    assert source.poll() is None
    assert "came after" in source.problem


def test_another_table_of_the_same_revision_is_not_followed(followed):
    house, table, source = followed
    publish_routes(
        house.paths.routes,
        replace(with_other_routes(table, bundle="f"), revision=table.revision),
        house.keys.signer,
        house.keys.routes_key,
    )
    assert source.poll() is None


def test_a_table_that_gateways_would_refuse_is_not_published(followed, monkeypatch):
    house, table, source = followed
    before = house.paths.routes.read_bytes()
    monkeypatch.setattr(serve_table, "MAX_TABLE_BYTES", len(before) - 1)
    with pytest.raises(UnavailableError, match="gateways take") as said:
        publish_routes(house.paths.routes, with_other_routes(table), house.keys.signer, house.keys.routes_key)
    assert "datahall key list" in said.value.hint
    assert house.paths.routes.read_bytes() == before
    monkeypatch.setattr(serve_table, "MAX_TABLE_BYTES", len(before) + 100)  # control: one that fits is taken
    publish_routes(house.paths.routes, with_other_routes(table), house.keys.signer, house.keys.routes_key)
    assert source.poll().revision == table.revision + 1


def test_an_edited_table_row_is_not_published(followed):
    house, table, _ = followed
    house.rewrite(with_other_routes(table, bundle="f" * 64))
    published, problem = house.reconcile()
    assert published == []
    assert "behind the ledger" in problem


def elsewhere(table):
    """Return a table that sends everybody to a socket of the attacker's."""
    routes = tuple(
        replace(route, replicas=tuple(replace(one, address="/tmp/mine.sock") for one in route.replicas))  # noqa: S108
        for route in table.routes
    )
    return replace(table, revision=table.revision + 1, routes=routes)


def test_a_forged_table_is_not_published_by_a_control_that_starts(followed):
    house, table, _ = followed
    house.forge(elsewhere(table), vouched=True)
    assert house.catalogue.get(RouteTable, TABLE_ID) == elsewhere(table)
    published = []
    reconciler = house.reconciler(published)
    reconciler.start()
    reconciler._ending.set()
    reconciler._thread.join(10)
    house.rounds(reconciler)
    assert published
    for each in published:
        assert [one.address for route in each.routes for one in route.replicas] == [
            one.address for route in table.routes for one in route.replicas
        ]


def test_a_control_that_starts_signs_no_way_to_a_revoked_version(followed):
    house, table, _ = followed
    version = house.catalogue.find(Version)[-1]
    house.write(replace(version, revoked=True), kind="version.revoked")
    published, problem = house.reconcile()
    assert "was revoked" in problem
    assert [table.routes for table in published] == [()]
    house.write(version)  # control: without the revocation the same start signs the same way
    published, _ = house.reconcile()
    assert routed_by(published[0]) == routed_by(table)


def test_a_rolled_back_table_row_leads_to_no_table_that_a_gateway_takes(followed):
    house, table, source = followed
    version = house.catalogue.find(Version)[-1]
    house.write(with_other_routes(table))
    house.write(replace(with_other_routes(table), revision=table.revision + 7))
    publish_routes(
        house.paths.routes, house.catalogue.get(RouteTable, TABLE_ID), house.keys.signer, house.keys.routes_key
    )
    assert source.poll() is not None
    house.roll_back(table.outline())
    published, _ = house.reconcile()
    for each in published:
        assert {route.version for route in each.routes} == {version.id}
        publish_routes(house.paths.routes, each, house.keys.signer, house.keys.routes_key)
        assert source.poll() is None
        assert "came after" in source.problem


def test_a_replica_of_another_bundle_is_not_routed(followed):
    house, _, _ = followed
    other = house.train("other")
    replica = house.catalogue.find(Replica)[-1]
    house.write(replace(replica, bundle=other.id))
    published, problem = house.reconcile()
    assert "runs something else" in problem
    assert published == []


def test_bytes_changed_under_the_same_digest_are_not_started(followed):
    house, _, _ = followed
    good, other = house.catalogue.find(Version)[-1].bundle, house.train("other")
    bundle = house.catalogue.get(type(other), good)
    artifact, strange = (house.catalogue.get(Artifact, f"main/{one.artifact}") for one in (bundle, other))
    assert house.hall.vault.read("main", bundle.artifact) == b"packed forest None"  # control
    house.forge(
        replace(artifact, object=strange.object, wrapped_key=strange.wrapped_key, size_bytes=strange.size_bytes)
    )
    with pytest.raises(IntegrityError):
        house.hall.replicas.start("rep_1", bundle, "main")
    house.roll_back(artifact)
    path = house.hall.vault._blobs.path(artifact.object, team="main")
    stored = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(stored[:-1] + bytes([stored[-1] ^ 1]))
    with pytest.raises(IntegrityError):
        house.hall.replicas.start("rep_1", bundle, "main")


def test_revisions_grow_by_one_from_one(house):
    """A gateway refuses what is not newer: a revision that fell or stood still would freeze it."""
    house.released()
    published = []
    reconciler = house.reconciler(published)
    house.rounds(reconciler, 3)
    house.write(replace(house.catalogue.find(Replica)[-1], state="gone"))
    house.rounds(reconciler, 3)
    assert [table.revision for table in published] == list(range(1, len(published) + 1))
    assert len(published) > 1


def test_one_refused_application_holds_up_neither_the_others_nor_a_revocation(followed):
    """Keys and other applications go out all the same; the refused one has no traffic and is named."""
    house, _, _ = followed
    _, key = issue_key(name="ci", principal="ci", team=TEAM, scopes=("predict",), clock=house.clock)
    house.write(key, kind="key.issued")
    published = []
    reconciler = house.reconciler(published)
    assert house.rounds(reconciler) == ""
    assert key.sha256 in published[-1].keys
    version = house.catalogue.find(Version)[-1]
    house.write(replace(version, revoked=True), kind="version.revoked")
    house.write(replace(key, revoked_at_ns=house.clock.now_ns()), kind="key.revoked")
    assert "was revoked" in house.rounds(reconciler)
    assert (published[-1].routes, published[-1].keys) == ((), {})
    num_published = len(published)
    house.rounds(reconciler, 3)
    assert len(published) == num_published  # what stays refused is not published again and again


def test_a_table_that_could_not_be_read_is_read_at_the_next_poll(house, tmp_path, monkeypatch):
    """A gateway without a free descriptor must not miss a revocation for good."""
    table = RouteTable(id=TABLE_ID, revision=1, routes=(), keys={}, published_at_ns=1)
    path = tmp_path / "routes.json"
    publish_routes(path, table, house.keys.signer, house.keys.routes_key)
    source = FileRouteSource(path, {house.keys.signer.key_id: house.keys.signer.public_key}, house.keys.routes_key)
    with monkeypatch.context() as patched:
        patched.setattr(type(path), "read_bytes", lambda _: (_ for _ in ()).throw(OSError(24, "Too many open files")))
        assert source.poll() is None
        assert "cannot be read" in source.problem
    assert source.poll() == table
    assert source.problem == ""


def test_what_was_written_this_moment_costs_nobody_an_answer(followed):
    """A deployment whose record has just changed is in the catalogue before the tree holds it."""
    house, table, _ = followed
    published = []
    reconciler = house.reconciler(published)
    house.rounds(reconciler)
    deployment = house.catalogue.find(Deployment)[-1]
    house.write(replace(deployment, drain_seconds=deployment.drain_seconds + 1), kind="deployment.opened")
    _, key = issue_key(name="ci", principal="ci", team=TEAM, scopes=("predict",), clock=house.clock)
    house.write(key, kind="key.issued")  # a reason to publish before the sequencer's next round
    reconciler.tick()
    assert key.sha256 in published[-1].keys
    assert routed_by(published[-1]) == routed_by(table)


def test_neither_the_file_nor_the_catalogue_tells_what_values_people_have(followed):
    house, table, _ = followed
    stored = house.catalogue.get(RouteTable, TABLE_ID)
    assert table.routes[0].manifest.target.categories == ("benign", "malignant")
    assert stored == table.outline() != table
    assert b"malignant" in canonical_json(table)  # control
    payload = base64.b64decode(json.loads(house.paths.routes.read_bytes())["payload"])
    assert b"malignant" not in canonical_json(stored) + payload + house.paths.routes.read_bytes()


def test_a_table_under_another_key_is_not_followed(followed):
    house, table, source = followed
    publish_routes(house.paths.routes, with_other_routes(table), house.keys.signer, bytes(32))
    assert source.poll() is None
    assert "is refused" in source.problem


def test_a_table_that_is_signed_and_not_sealed_is_not_followed(followed):
    house, table, source = followed
    plain = canonical_json(with_other_routes(table))
    house.paths.routes.write_text(dsse_sign(house.keys.signer, PAYLOAD_TYPE, plain))
    assert source.poll() is None
    house.paths.routes.write_text(
        dsse_sign(house.keys.signer, PAYLOAD_TYPE, seal_table(plain, house.keys.routes_key))
    )  # control
    assert source.poll() is not None
