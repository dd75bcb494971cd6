"""Measures claims about bundles and signs what it saw; one file a claim."""

from typing import TYPE_CHECKING

from datahall.core.registry import Registry

if TYPE_CHECKING:
    from datahall.evaluate.context import Measure
    from datahall.spec.kinds import ClaimConfig

_CLAIMS = {
    "accuracy": "datahall.evaluate.accuracy",
    "calibration": "datahall.evaluate.calibration",
    "fairness": "datahall.evaluate.fairness",
    "improvement": "datahall.evaluate.improvement",
    "latency": "datahall.evaluate.latency",
    "stability": "datahall.evaluate.stability",
}

CLAIMS: Registry["type[ClaimConfig]"] = Registry(
    "claim", {name: f"{module}:Config" for name, module in _CLAIMS.items()}
)
"""Claim kind to the class of its settings, a `spec.kinds.ClaimConfig`."""

MEASURES: Registry["Measure"] = Registry("claim", {name: f"{module}:measure" for name, module in _CLAIMS.items()})
"""Claim kind to the function that measures it, a `evaluate.context.Measure`."""

__all__ = ["CLAIMS", "MEASURES"]
