"""Decides which of the candidates that passed the gate is released."""

from __future__ import annotations

import msgspec

from datahall.core.records import Policy, Verdict


class SelectView(msgspec.Struct, frozen=True, kw_only=True):
    """The verdicts of one look, the policy they were given under, and the bundle that answers now."""

    policy: Policy
    verdicts: tuple[Verdict, ...]
    champion: str | None


def decide(state: None, view: SelectView, event: None, now: int, draw: float) -> tuple[None, str | None, str]:
    """Return the id of the verdict to release, or None, and the reason.

    The first accuracy claim (without one, the first claim) ranks those that passed: by the proven bound, not by the
    estimate, which would favour whoever was measured on fewer rows. Of equal bounds the champion's comes first, then the
    smaller candidate id. `now` and `draw` are not used.
    """
    assert event is None, "nothing happens to the selection"
    assert now >= 0, "time begins with the epoch"
    assert 0.0 <= draw < 1.0, "draw is a uniform number"
    passed = [verdict for verdict in view.verdicts if verdict.outcome == "pass"]
    if not passed:
        return state, None, "no candidate passed the gate"
    place = next((i for i, claim in enumerate(view.policy.claims) if claim.kind == "accuracy"), 0)
    first = view.policy.claims[place]
    sign = 1.0 if first.direction == "at_least" else -1.0

    def rank(verdict: Verdict) -> tuple[float, bool, str]:
        value = verdict.findings[place].value
        worth = -sign * value if value is not None else float("inf")
        return worth, verdict.bundle != view.champion, verdict.candidate

    best = min(passed, key=rank)
    if len(passed) == 1:
        return state, best.id, "the only candidate that passed"
    return state, best.id, f"the best proven {first.name} of {len(passed)} that passed"
