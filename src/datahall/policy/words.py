"""Says figures, bounds and demands of claims in words that people read."""

from __future__ import annotations

from typing import Final

from datahall.core.records import Claim, Measurement

_OF_VALUES: Final = ("r2", "mae", "rmse")
_TURNED: Final = {"at least": "at most", "at most": "at least", "": ""}


def unit_of(kind: str, metric: str) -> str:
    """Return what a figure's number counts: rows, requests or seeds."""
    if kind == "latency":
        return "requests"
    # The spread over seeds is estimated from seeds; churn and the worst seed are estimated from rows.
    return "seeds" if (kind, metric) == ("stability", "sd") else "rows"


def says(claim: Claim, measured: Measurement, value: float, side: str = "") -> str:
    """Return what a figure says, for instance `accuracy is at least 0.94`; `side` is `at least`, `at most` or empty."""
    rival = f" than {_rival(claim, measured)}" if claim.kind == "improvement" else ""
    return f"{_name(claim)} is {amount(claim, value, side)}{rival}"


def amount(claim: Claim, value: float, side: str = "") -> str:
    """Return a value of the claim's figure: a number, or for an improvement by how much it is better or worse."""
    if claim.kind != "improvement":
        return _after(side, value)
    return f"worse by {_after(_TURNED[side], -value)}" if value < 0 else f"better by {_after(side, value)}"


def demands(claim: Claim) -> str:
    """Return what a claim demands, for instance `at least 0.9 is demanded`."""
    if claim.kind != "improvement":
        return f"{claim.direction.replace('_', ' ')} {number(claim.bound)} is demanded"
    if claim.bound < 0:
        return f"worse by less than {number(-claim.bound)} is demanded"
    return f"better by more than {number(claim.bound)} is demanded"


def number(value: float) -> str:
    """Return four significant digits."""
    return f"{value + 0.0:.4g}"  # never "-0"


def _after(side: str, value: float) -> str:
    return f"{side} {number(value)}".strip()


def _name(claim: Claim) -> str:
    column, of = claim.settings.get("column"), claim.settings.get("of")
    if claim.kind == "fairness" and column:
        return f"{claim.metric} between the groups of {column}"
    return f"{claim.metric} of {of}" if claim.kind == "stability" and of else claim.metric


def _rival(claim: Claim, measured: Measurement) -> str:
    if measured.champion is not None:
        return f"the champion (bundle {measured.champion[:12]})"
    return f"the baseline (always the {'mean' if claim.metric in _OF_VALUES else 'commonest class'})"
