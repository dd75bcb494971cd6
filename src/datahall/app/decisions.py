"""Logs decisions with the view that they were taken on, so that each can be asked again and answer the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from datahall.backends.db.telemetry import Telemetry, kept_decisions
from datahall.core.canonical import canonical_json
from datahall.core.records import Decided
from datahall.serve.decisions import Logged


class DecisionLog:
    """Keeps decisions in the hall's telemetry, the newest hundred thousand; those that matter are in the ledger too."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def append(self, decided: Decided) -> None:
        """Keep one decision. Raises ValueError for one with a figure that is no number."""
        self._telemetry.add_decision(canonical_json(decided))


def read_decisions(path: Path) -> Iterator[Decided]:
    """Yield the decisions that the telemetry at `path` holds, oldest first. Raises sqlite3.Error where it cannot be read."""
    for body in kept_decisions(path):
        yield msgspec.json.decode(body, type=Decided)


def logged_decisions(path: Path) -> Iterator[Logged]:
    """Yield the same decisions with what is their policy's own still encoded as JSON, to be taken again."""
    for body in kept_decisions(path):
        yield msgspec.json.decode(body, type=Logged)
