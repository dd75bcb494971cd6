"""What holds for every view: foreign evidence changes nothing, order changes nothing, stricter is never easier."""

import random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.core.records import Claim, Exhibit, Figure, Holdout, Measurement, Policy
from datahall.policy.gate import GateView, decide, spend, view_digest

NOW = 1_000 * 86_400 * 10**9
KINDS = ("accuracy", "fairness", "improvement", "latency")
number = st.floats(0.0, 1.0).map(lambda x: round(x, 3))
names = st.sampled_from(KINDS)


@st.composite
def figures(draw, alpha):
    low, middle, high = sorted(draw(st.tuples(number, number, number)))
    return Figure(
        estimate=middle,
        lower=draw(st.sampled_from([low, low, None])),
        upper=draw(st.sampled_from([high, high, None])),
        alpha=alpha * draw(st.sampled_from([1.0, 1.0, 1.0, 2.0])),
        num=draw(st.integers(1, 5000)),
        method="law",
        p_value=draw(st.sampled_from([None, 0.001, 0.5])),
    )


@st.composite
def exhibits(draw, bundle="b"):
    kind, look = draw(names), draw(st.integers(1, 4))
    figure = draw(st.one_of(st.none(), figures(spend(0.95, look))))
    measurement = Measurement(
        app="app",
        claim=kind,
        kind=kind,
        metric="m",
        policy=draw(st.sampled_from(["pol", "pol", "pol", "other"])),
        holdout="hold",
        look=look,
        num_candidates=1,
        champion=draw(st.sampled_from([None, None, "c"])),
        figure=figure,
        details={"p_values": [figure.p_value]} if figure and figure.p_value else {},
        node_class=draw(st.sampled_from(["node", "node", "else"])),
        environment="env",
        measured_at_ns=NOW - draw(st.integers(-1, 5)),
        expires_at_ns=NOW + draw(st.integers(-1, 5)),
    )
    return Exhibit(
        id=f"evd_{draw(st.integers(0, 10**6))}",
        bundle=bundle,
        measurement=measurement,
        key_id="key",
        signature=draw(st.sampled_from(["good", "good", "good", "bad", "foreign_key"])),
        integrated=draw(st.sampled_from([True, True, True, False])),
    )


@st.composite
def views(draw):
    claims = tuple(
        Claim(
            kind=kind,
            name=kind,
            metric="m",
            direction="at_most" if kind in ("fairness", "latency") else "at_least",
            bound=draw(number),
            confidence=0.95,
            reason="law",
        )
        for kind in draw(st.lists(names, unique=True, min_size=1))
    )
    return GateView(
        policy=Policy(id="pol", app="app", claims=claims, evidence_days=30.0),
        candidate="app#1",
        bundle="b",
        champion=None,
        holdout=Holdout(id="hold", app="app", snapshot="s", inputs="i", outcomes="o", num_rows=9, num_looks=3),
        node_class="node",
        exhibits=tuple(draw(st.lists(exhibits(), max_size=8, unique_by=lambda exhibit: exhibit.id))),
    )


def outcomes(view):
    decision = decide(None, view, None, NOW, 0.0)[1]
    return decision.outcome, [finding.outcome for finding in decision.findings]


@given(views(), st.lists(exhibits(bundle="another"), max_size=4))
@settings(max_examples=150, deadline=None)
def test_evidence_of_another_bundle_never_changes_a_verdict(view, foreign):
    assert outcomes(msgspec.structs.replace(view, exhibits=view.exhibits + tuple(foreign))) == outcomes(view)


@given(views(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_the_order_of_the_evidence_never_matters(view, order: random.Random):
    shuffled = list(view.exhibits)
    order.shuffle(shuffled)
    other = msgspec.structs.replace(view, exhibits=tuple(shuffled))
    assert decide(None, other, None, NOW, 0.0) == decide(None, view, None, NOW, 0.0)


@given(views(), st.floats(0.0, 0.5))
@settings(max_examples=150, deadline=None)
def test_a_tighter_bound_is_never_easier_to_meet(view, by):
    rank = {"fail": 0, "insufficient": 1, "pass": 2}
    tighter = tuple(
        msgspec.structs.replace(claim, bound=claim.bound + (by if claim.direction == "at_least" else -by))
        for claim in view.policy.claims
    )
    other = msgspec.structs.replace(view, policy=msgspec.structs.replace(view.policy, claims=tighter))
    assert all(rank[b] <= rank[a] for a, b in zip(outcomes(view)[1], outcomes(other)[1], strict=True))


@given(views())
@settings(max_examples=150, deadline=None)
def test_a_replay_from_stored_bytes_decides_the_same(view):
    stored = msgspec.json.decode(msgspec.json.encode(view), type=GateView)
    assert view_digest(stored) == view_digest(view)
    assert decide(None, stored, None, NOW, 0.0) == decide(None, view, None, NOW, 0.9)


@given(views(), st.lists(exhibits(), max_size=3))
@settings(max_examples=150, deadline=None)
def test_a_pass_always_rests_on_evidence_that_counts(view, more):
    view = msgspec.structs.replace(view, exhibits=view.exhibits + tuple(more))
    by_id = {}
    for exhibit in view.exhibits:
        by_id.setdefault(exhibit.id, []).append(exhibit)
    for finding in decide(None, view, None, NOW, 0.0)[1].findings:
        if finding.outcome == "pass":
            assert any(
                exhibit.signature == "good" and exhibit.integrated and exhibit.measurement.policy == "pol"
                for exhibit in by_id[finding.evidence]
            )
