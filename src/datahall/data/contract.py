"""What the data job is asked and what it answers."""

from __future__ import annotations

from typing import Any

import msgspec

from datahall.core.records import Column, Grant, Source, Task


class DataRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Make a snapshot of `sources` (absolute paths, in the order of the application file)."""

    app: str
    team: str
    task: Task
    data: dict[str, Any]
    """The spec's data section as plain data; `spec.DataSection.model_validate` reads it."""
    sources: tuple[str, ...]


class DataResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the Snapshot and Holdout records need; the four splits' grants by name.

    Parquet columns: features and target by name; `holdout_inputs` has the features and `__row`;
    `holdout_outcomes` has `__row`, the target, the sensitive columns and, where declared, `__subject`,
    a pseudonym (never the subject column itself).
    """

    sources: tuple[Source, ...]
    features: tuple[Column, ...]
    target: Column
    sensitive: tuple[Column, ...]
    has_subject: bool
    num_rows: int
    num_rows_dropped: int
    splits: dict[str, Grant]
    split_rows: dict[str, int]
    statistics: Grant
