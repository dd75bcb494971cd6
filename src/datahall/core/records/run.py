"""One execution of a stage, with everything needed to repeat it."""

from __future__ import annotations

from typing import Any, ClassVar

from datahall.core.records.base import Record


class Run(Record, frozen=True, kw_only=True):
    """A finished fit of one candidate of an application."""

    KIND: ClassVar[str] = "run"
    INDEX: ClassVar[tuple[str, ...]] = ("app", "step")

    app: str
    candidate: str
    """Name of the candidate in the application file."""
    step: str
    snapshot: str
    environment: str
    code_digest: str
    seeds: tuple[int, ...]
    parameters: dict[str, Any]
    metrics: dict[str, float]
    """On the validation rows; never on the holdout."""
    models: tuple[str, ...]
    """Digests of the fitted models, one per seed, in the order of `seeds`."""
    fits: str
    """Digest of the JSON artifact with each seed's metrics, in the order of `seeds`."""
    trials: str
    """Digest of the JSON artifact with every search trial."""
    started_at_ns: int
    ended_at_ns: int
