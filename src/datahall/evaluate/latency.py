"""The claim that a replica answers one row fast enough, measured over the wire on this class of machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np
from pydantic import Field

from datahall.core.ports import Answerer, Columns
from datahall.core.records import Task
from datahall.evaluate.context import Context, Measured, unmeasured
from datahall.evaluate.load import generate
from datahall.spec.kinds import ClaimConfig, Direction
from datahall.stats.intervals import quantile

_LEVELS: Final = {"latency_ms_p50": 0.5, "latency_ms_p95": 0.95, "latency_ms_p99": 0.99}
_NUM_COMPARED: Final = 32


class Config(ClaimConfig):
    """Settings of the latency claim."""

    TASKS: ClassVar[tuple[Task, ...]] = ("classification", "regression")
    METRICS: ClassVar[dict[str, Direction]] = dict.fromkeys(_LEVELS, "at_most")
    DEFAULT_METRIC: ClassVar[dict[Task, str]] = {"classification": "latency_ms_p95", "regression": "latency_ms_p95"}

    requests: int = Field(
        default=1000, ge=100, le=20_000, description="Requests of one row each; the 99th percentile needs many."
    )
    warm_up: int = Field(default=50, ge=0, le=1000, description="Requests that are sent before and do not count.")
    rate_per_s: float | None = Field(
        default=None,
        gt=0,
        le=10_000,
        description="Send on a timetable at this rate; without it, each request waits for the one before.",
    )

    @classmethod
    def bound_limits(cls, metric: str) -> tuple[float, float]:
        """Return (0, inf): milliseconds."""
        del metric
        return (0.0, float("inf"))


def measure(context: Context) -> Measured:
    """Ask the shadow replica for single rows and bound the quantile by order statistics.

    The replica must first answer some rows as the bundle's own predictor does: the claim is about this bundle.
    """
    if context.open_answerer is None:
        return unmeasured("no replica was started to be measured")
    settings = Config.model_validate(context.claim.settings)
    columns = context.rows.columns(context.predictor.manifest.features)
    answerer = context.open_answerer()
    try:
        some = _slice(columns, 0, min(_NUM_COMPARED, context.rows.num))
        if not _agree(context.predictor.predict(some), answerer.answer(some)):
            return unmeasured("the replica does not answer like the bundle that is measured")
        took_ms = _time(context, answerer, columns, settings)
    finally:
        answerer.close()
    bounds = quantile(took_ms, _LEVELS[context.claim.metric], context.alpha)
    estimate = float(np.quantile(took_ms, _LEVELS[context.claim.metric]))
    figure = context.figure(estimate, bounds, num=settings.requests, method="order statistics")
    details = {name: float(np.quantile(took_ms, level)) for name, level in _LEVELS.items()}
    loop = "closed" if settings.rate_per_s is None else "open"
    return Measured(figure=figure, details={**details, "loop": loop, "rate_per_s": settings.rate_per_s})


def _time(context: Context, answerer: Answerer, columns: Columns, settings: Config) -> np.ndarray:
    singles = [_slice(columns, row, row + 1) for row in range(min(context.rows.num, 1000))]

    def send(number: int) -> None:
        answerer.answer(singles[number % len(singles)])

    generate(send, num_requests=settings.warm_up, clock=context.clock)
    return generate(send, num_requests=settings.requests, clock=context.clock, rate_per_s=settings.rate_per_s)


def _slice(columns: Columns, start: int, stop: int) -> Columns:
    return {name: values[start:stop] for name, values in columns.items()}


def _agree(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    ours, theirs = np.asarray(one["label"]), np.asarray(other.get("label"))
    if ours.shape != theirs.shape:
        return False
    if ours.dtype == object:
        return bool(np.all(ours.astype(str) == theirs.astype(str)))
    return bool(np.allclose(ours, theirs.astype(np.float64), rtol=1e-9, atol=0.0))
