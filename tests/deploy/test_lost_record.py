"""An answer's id alone proves which version gave it, also when its record is lost or erased."""

from __future__ import annotations

from functools import partial

import pytest

from datahall.app.cli.verbs.provenance import show_provenance
from datahall.app.control import Control
from datahall.core.errors import NotFoundError
from datahall.core.records import Act, Bundle, Change, KeyGrant, Replica, RouteTable, Version
from datahall.deploy.table import Rules, next_table, routes_body
from datahall.ledger.proofs import lies_in_tree
from datahall.policy.rollout import Routed
from datahall.registry.routed import IdFacts, trace_id
from datahall.security.access import EVERY_TEAM, reaches
from datahall.serve.answers import AnswerIdParts, make_answer_id, open_answer_id
from tests.deploy.conftest import APP, TEAM, replace
from tests.deploy.test_follow_back import run_of

KEY = b"0123456789abcdef"


def publish(house, deployment, keys=None):
    """Publish the next revision of the routes as the reconciler does, and return it."""
    before = house.catalogue.find(RouteTable)
    replica = Replica(
        id=f"rep_{deployment.id}",
        deployment=deployment.id,
        bundle=deployment.bundle,
        address="/run/r/s",
        pid=1,
        pid_started_at=1.0,
        state="ready",
        node_class="n",
        isolation="landlock",
        started_at_ns=1,
    )
    line = Routed(app=deployment.app, deployment=deployment.id, replicas=(replica.id,))
    bundles = {bundle.id: bundle for bundle in house.catalogue.find(Bundle)}
    old = before[0] if before else None
    table = next_table(
        old, [line], {deployment.id: deployment}, bundles, {replica.id: replica}, Rules(keys=keys or {}), 5
    )
    body = {"revision": table.revision, "routes": routes_body(table)}
    house.catalogue.act(Act(kind="routes.published", actor="control", body=body, changes=(Change(old=old, new=table),)))
    house.sequencer.flush()
    return table.revision


def ask(house, revision, *, team=EVERY_TEAM, state="lost"):
    parts = AnswerIdParts(gateway="g1", sequence=7, route_revision=revision, at_ns=3_000_000)
    text = make_answer_id(parts, KEY)
    opened = open_answer_id(text, KEY)
    facts = IdFacts(
        id=text,
        gateway=opened.gateway,
        sequence=opened.sequence,
        route_revision=opened.route_revision,
        at_ns=opened.at_ns,
    )
    proven = partial(lies_in_tree, house.catalogue, public_key=house.hall.keys.signer.public_key)
    return trace_id(house.catalogue, house.hall.anchored, facts, state, sees=partial(reaches, team), proven=proven)


@pytest.fixture
def routed(house):
    """A released version under revision 1; a key comes with revision 2."""
    deployment = house.released()
    run_of(house)
    publish(house, deployment)
    grant = KeyGrant(key_id="k", principal="p", team=TEAM, scopes=("predict",), expires_at_ns=None)
    publish(house, deployment, {"0" * 64: grant})
    return house


@pytest.mark.parametrize("revision", [1, 2])
@pytest.mark.parametrize("state", ["lost", "erased"])
def test_the_revision_alone_proves_version_and_bundle(routed, revision, state, capsys):
    found = ask(routed, revision, state=state)
    assert (found.verified, found.sealed, found.record, found.problems) == (True, False, state, ())
    nouns = ["answer", "routes", "deployment", "version", "verdict", "evidence", "candidate", "bundle", "run"]
    assert [link.noun for link in found.links] == [*nouns, "environment", "snapshot"]
    assert found.links[1].facts["versions"] == [f"{APP}@1.0.0"]
    show_provenance(found)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"record {state}" in shown
    assert "which version gave it" in shown


def test_the_hall_tells_it_to_whoever_asks_by_id(routed):
    parts = AnswerIdParts(gateway="g1", sequence=7, route_revision=1, at_ns=3_000_000)
    text = make_answer_id(parts, routed.hall.keys.answer_key)
    control = Control(routed.hall)
    found = control.provenance(text)
    assert (found.record, found.verified, found.answer) == ("lost", True, text)
    with pytest.raises(NotFoundError, match="not an answer id of this key's team"):
        control.provenance(text, team="another")
    with pytest.raises(NotFoundError, match="not an answer id of this hall"):
        control.provenance(make_answer_id(parts, KEY))


def test_a_revision_that_never_was_proves_nothing(routed):
    with pytest.raises(NotFoundError, match="does not tell what revision 3"):
        ask(routed, 3)


def test_another_team_learns_nothing(routed):
    assert ask(routed, 1, team=TEAM).verified
    with pytest.raises(NotFoundError, match="not an answer id of this key's team"):
        ask(routed, 1, team="another")


def test_an_entry_that_was_rewritten_is_not_believed(routed):
    entry = routed.catalogue.touching("route_table", "current")[0]
    public_key = routed.hall.keys.signer.public_key
    assert lies_in_tree(routed.catalogue, entry, public_key=public_key)
    lines = [{**entry.body["routes"][0], "version": f"{APP}@6.6.6"}]
    forged = replace(entry, body={**entry.body, "routes": lines})
    with pytest.raises(Exception, match="not what lies under the checkpoint"):
        lies_in_tree(routed.catalogue, forged, public_key=public_key)


def test_a_version_that_was_changed_behind_the_ledger_is_named(routed):
    version = routed.catalogue.find(Version)[0]
    routed.rewrite(replace(version, registered_at_ns=1))
    found = ask(routed, 1)
    assert not found.verified
    assert found.problems
