"""Decides whether a candidate's evidence proves what its policy claims; only confidence bounds count."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from datahall.core.canonical import digest_of
from datahall.core.records import Claim, Exhibit, Figure, Finding, Holdout, Measurement, Outcome, Policy
from datahall.policy.words import amount, demands, says, unit_of
from datahall.stats.multiple import holm, spend
from datahall.stats.sample_size import rows_to_settle

__all__ = ["SMALLEST_ALPHA", "GateDecision", "GateView", "decide", "spend", "view_digest"]

SMALLEST_ALPHA: Final = 1e-4
"""A look that may spend less than this proves nothing: no method here is trusted that far into a tail."""

_NS_PER_DAY: Final = 86_400 * 10**9
_SIGNATURES: Final[dict[str, str]] = {
    "bad": "its signature does not hold",
    "missing": "it is not signed",
    "unknown_key": "it is signed by a key that no evaluate job was given",
    "expired_key": "it was signed outside its key's time",
    "foreign_key": "its key was not given out for this bundle, holdout and look",
}


class GateView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the gate may know; two equal views get the same decision."""

    policy: Policy
    candidate: str
    bundle: str
    champion: str | None
    """Digest of the bundle that has the traffic now, None before the first release."""
    holdout: Holdout
    node_class: str
    """The class of machine that would answer, for latency; the policy's own node_class comes first."""
    exhibits: tuple[Exhibit, ...]


class GateDecision(msgspec.Struct, frozen=True, kw_only=True):
    """The word over all claims, and on each one in the order of the policy."""

    outcome: Outcome
    findings: tuple[Finding, ...]


def view_digest(view: GateView) -> str:
    """Return the digest of a view: what a verdict was decided on."""
    return digest_of(view)


def decide(state: None, view: GateView, event: None, now: int, draw: float) -> tuple[None, GateDecision, str]:
    """Return the decision and its reason; `now` is in nanoseconds; `draw` is not used: nothing here is random.

    A claim passes when its confidence bound meets the demanded one, fails when the opposite confidence bound
    shows that it is not true, and is insufficient in every other case. One claim that fails, fails the
    candidate; one that is insufficient leaves it waiting. No correction is made over claims: all must hold, so
    a bad candidate passes no more often than its worst claim alone would let it (Berger 1982, intersection-union).
    """
    assert 0.0 <= draw < 1.0, "draw is a uniform number"
    assert event is None, "the gate is asked, nothing happens to it"
    findings = tuple(_find(claim, view, now) for claim in view.policy.claims)
    outcomes = {finding.outcome for finding in findings}
    outcome: Outcome = "pass"
    if "fail" in outcomes:
        outcome = "fail"
    elif "insufficient" in outcomes or not findings:
        outcome = "insufficient"
    return state, GateDecision(outcome=outcome, findings=findings), _reason(outcome, findings)


def _reason(outcome: Outcome, findings: tuple[Finding, ...]) -> str:
    if not findings:
        return "the policy claims nothing, so nothing can be proven"
    if outcome == "pass":
        return f"all {len(findings)} claims are proven"
    named = [f"{finding.claim}: {finding.reason}" for finding in findings if finding.outcome == outcome]
    return "; ".join(named)


def _find(claim: Claim, view: GateView, now: int) -> Finding:
    """Judge one claim by the newest look that counts; an older, better one never speaks."""
    about = [exhibit for exhibit in view.exhibits if exhibit.measurement.claim == claim.name]
    if not about:
        return _insufficient(claim, "there is no evidence for this claim")
    refused = {exhibit.id: _why_not_admitted(exhibit, claim, view) for exhibit in about}
    admitted = [exhibit for exhibit in about if not refused[exhibit.id]]
    if not admitted:
        newest = max(about, key=lambda exhibit: (exhibit.measurement.look, exhibit.id))
        return _insufficient(claim, f"its evidence does not count: {refused[newest.id]}", newest.id)
    look = max(exhibit.measurement.look for exhibit in admitted)
    judged = [_judge(exhibit, claim, view, now) for exhibit in admitted if exhibit.measurement.look == look]
    # One look gives one figure; where two disagree, the worse one holds until somebody looks again.
    worst_first = ("fail", "insufficient", "pass")
    return min(judged, key=lambda finding: (worst_first.index(finding.outcome), finding.evidence or ""))


def _why_not_admitted(exhibit: Exhibit, claim: Claim, view: GateView) -> str:
    """Return why an exhibit says nothing about this claim of this bundle, or an empty string."""
    measured, num_looks = exhibit.measurement, view.holdout.num_looks
    measures, demands = f"{measured.kind} {measured.metric}", f"{claim.kind} {claim.metric}"
    changed = "it was measured under another policy: the claims were changed after the evaluation"
    rules = (
        (exhibit.bundle != view.bundle, "it is about another bundle"),
        (exhibit.signature != "good", _SIGNATURES.get(exhibit.signature, "its signature was not checked")),
        (not exhibit.integrated, "it is not in the ledger below a signed checkpoint"),
        (measured.app != view.policy.app, f"it is about another application, {measured.app}"),
        (measured.policy != view.policy.id, changed),
        (measures != demands, f"it measures {measures}, not {demands}"),
        (measured.holdout != view.holdout.id, "it was measured on another holdout"),
        (not 1 <= measured.look <= num_looks, f"it says look {measured.look}, the ledger counted {num_looks}"),
        (measured.num_candidates < 1, "it does not say how many candidates were measured with it"),
    )
    return next((reason for broken, reason in rules if broken), "")


def _judge(exhibit: Exhibit, claim: Claim, view: GateView, now: int) -> Finding:
    measured = exhibit.measurement
    figure = measured.figure
    problem = _why_not_now(measured, claim, view, now) or _why_worn_out(measured, claim)
    if not problem and figure is None:
        problem = f"it could not be measured: {measured.problem or 'no reason was given'}"
    if problem or figure is None:
        return _insufficient(claim, problem, exhibit.id)
    problem = _why_malformed(figure, measured, claim)
    if problem:
        return _insufficient(claim, problem, exhibit.id)
    return _compare(exhibit.id, figure, measured, claim)


def _why_not_now(measured: Measurement, claim: Claim, view: GateView, now: int) -> str:
    """Return why admitted evidence does not speak for this moment, champion and machine."""
    if measured.measured_at_ns > now:
        return "its evidence is dated in the future"
    age_limit_ns = view.policy.evidence_days * _NS_PER_DAY
    if now > measured.expires_at_ns or now - measured.measured_at_ns > age_limit_ns:
        return f"its evidence has expired (evidence counts for {view.policy.evidence_days:g} days)"
    if claim.kind == "improvement" and measured.champion != view.champion:
        return "it was compared with another champion than the present one"
    demanded = view.policy.node_class or view.node_class
    if claim.kind == "latency" and measured.node_class != demanded:
        return f"it was measured on node class {measured.node_class}, {demanded} would answer"
    return ""


def _why_worn_out(measured: Measurement, claim: Claim) -> str:
    if spend(claim.confidence, measured.look, measured.num_candidates) < SMALLEST_ALPHA:
        return f"the holdout has been looked at {measured.look} times; refresh it"
    return ""


def _why_malformed(figure: Figure, measured: Measurement, claim: Claim) -> str:
    """Return why a figure cannot be compared: not a number, inside out, or bounded too generously."""
    numbers = [figure.estimate, figure.alpha, *(x for x in (figure.lower, figure.upper) if x is not None)]
    if not all(math.isfinite(number) for number in numbers):
        return "its figure is not a number"
    if figure.lower is not None and figure.upper is not None and figure.lower > figure.upper:
        return "its lower bound lies above its upper bound"
    allowed = spend(claim.confidence, measured.look, measured.num_candidates)
    if not 0.0 < figure.alpha <= allowed * (1 + 1e-9):
        return (
            f"its bounds were computed at an error rate of {figure.alpha:g}, look {measured.look} may spend {allowed:g}"
        )
    return ""


def _compare(evidence: str, figure: Figure, measured: Measurement, claim: Claim) -> Finding:
    proving, refuting = figure.lower, figure.upper
    sign = 1.0
    if claim.direction == "at_most":
        proving, refuting, sign = figure.upper, figure.lower, -1.0
    words = {"at_least": ("at least", "at most"), "at_most": ("at most", "at least")}[claim.direction]
    demanded = demands(claim)
    if refuting is not None and sign * refuting < sign * claim.bound:
        reason = f"{says(claim, measured, refuting, words[1])}, {demanded}"
        return Finding(claim=claim.name, outcome="fail", reason=reason, evidence=evidence, value=refuting)
    if proving is None:
        return _insufficient(claim, _unbounded(figure, measured, claim), evidence, num_needed=figure.num_needed)
    # "Better" means better: a copy of the champion has a difference of exactly nothing and must not replace it.
    strict = claim.kind == "improvement"
    proven = sign * proving > sign * claim.bound or (not strict and proving == claim.bound)
    if proven or _holm_proves(figure, measured, claim, sign):
        reason = f"{says(claim, measured, proving, words[0])}, {demanded}"
        if not proven:
            reason = f"{claim.metric} meets its bound (p = {figure.p_value:.2g} after Holm), {demanded}"
        return Finding(claim=claim.name, outcome="pass", reason=reason, evidence=evidence, value=proving)
    return _straddles(evidence, figure, measured, claim, proving, words[0])


def _unbounded(figure: Figure, measured: Measurement, claim: Claim) -> str:
    reason = f"{figure.num} {unit_of(claim.kind, claim.metric)} cannot bound {claim.metric} at this confidence"
    if claim.kind == "latency" and measured.look > 1:
        # Only the quantile of a fixed number of requests can be bounded at one look and no longer at the next.
        looks = f"the holdout has been looked at {measured.look} times"
        reason += f"; {looks}: ask for more `requests`, or refresh it"
    return reason


def _straddles(
    evidence: str, figure: Figure, measured: Measurement, claim: Claim, proving: float, side: str
) -> Finding:
    needed = figure.num_needed or rows_to_settle(
        estimate=figure.estimate, lower=figure.lower, upper=figure.upper, bound=claim.bound, num=figure.num
    )
    said, proven = says(claim, measured, figure.estimate), amount(claim, proving, side)
    reason = f"{said}, proven is only {proven}, {demands(claim)}"
    unit = unit_of(claim.kind, claim.metric)
    if needed is not None:
        reason += f"; about {needed:,} {unit} would settle it ({figure.num:,} were there)"
    else:
        reason += f"; no number of {unit} settles it while the figure sits on its bound"
    return _insufficient(claim, reason, evidence, value=proving, num_needed=needed)


def _holm_proves(figure: Figure, measured: Measurement, claim: Claim, sign: float) -> bool:
    """Return whether Holm's step-down test over all candidates of the look proves the claim for this one.

    It proves whatever the divided bound proves and, once better candidates are through, a little more.
    """
    family = measured.details.get("p_values")
    if claim.kind != "improvement" or figure.p_value is None or not isinstance(family, list | tuple):
        return False
    known = [float(p) for p in family if isinstance(p, int | float) and 0.0 <= p <= 1.0]
    if len(known) != measured.num_candidates or len(known) != len(family) or figure.p_value not in known:
        return False
    if not sign * (figure.estimate - claim.bound) > 0:
        return False
    return holm(known, spend(claim.confidence, measured.look))[known.index(figure.p_value)]


def _insufficient(
    claim: Claim, reason: str, evidence: str | None = None, *, value: float | None = None, num_needed: int | None = None
) -> Finding:
    return Finding(
        claim=claim.name,
        outcome="insufficient",
        reason=reason,
        evidence=evidence,
        value=value,
        num_needed=num_needed,
    )
