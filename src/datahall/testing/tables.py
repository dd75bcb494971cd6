"""Small seeded tables in the form of a snapshot's parts, for tests of whatever trains, runs or measures models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from datahall.core.ports import BlobStore
from datahall.core.records import Column, Grant, Task
from datahall.data.frames import to_parquet

TEAM = "main"
_CITIES = ("athens", "bonn", "cairo", "delhi")
_UNSEEN_CITY = "quito"


@dataclass(frozen=True)
class SmallTable:
    """A table of which each part is stored: `holdout` holds features and target together."""

    task: Task
    features: tuple[Column, ...]
    target: Column
    train: Grant
    validation: Grant
    holdout: Grant


def small_table(
    blobs: BlobStore, *, task: Task, num_classes: int = 2, mixed: bool = False, seed: int = 0, num_rows: int = 600
) -> SmallTable:
    """Store and return a table of `num_rows` rows: half to train, a quarter each to validate and to hold out.

    `mixed` adds a boolean and two categories, missing values in three columns, and a category that only the holdout has.
    """
    frame, features, target = _frame(task, num_classes, mixed, seed, num_rows)
    half, quarter = num_rows // 2, num_rows // 4
    parts = (frame[:half], frame[half : half + quarter], frame[half + quarter :])
    if mixed:
        last = parts[2].with_row_index("n")
        unseen = pl.when(pl.col("n") % 7 == 0).then(pl.lit(_UNSEEN_CITY)).otherwise(pl.col("city"))
        parts = (parts[0], parts[1], last.with_columns(unseen.alias("city")).drop("n"))
    train, validation, holdout = (blobs.put(to_parquet(part), team=TEAM) for part in parts)
    return SmallTable(task, features, target, train, validation, holdout)


def _frame(
    task: Task, num_classes: int, mixed: bool, seed: int, num_rows: int
) -> tuple[pl.DataFrame, tuple[Column, ...], Column]:
    random = np.random.default_rng(seed)
    plain = random.normal(size=num_rows)
    wide = random.lognormal(3.0, 2.0, num_rows)
    steps = random.integers(0, 50, num_rows).astype(float) / 8
    signal = plain + 0.4 * np.log(wide) + 0.3 * steps
    columns = {"plain": plain, "wide": wide, "steps": steps}
    kinds = [Column(name=name, kind="number", nullable=mixed and name == "wide") for name in columns]
    frame = pl.DataFrame(columns)
    if mixed:
        city = random.integers(0, len(_CITIES), num_rows)
        member = random.integers(0, 2, num_rows)
        signal = signal + 0.8 * (city == 2) - 0.5 * member
        gaps = random.random((3, num_rows)) < 0.1
        frame = frame.with_columns(
            pl.Series("wide", [None if gap else x for gap, x in zip(gaps[0], wide, strict=True)], dtype=pl.Float64),
            pl.Series("city", [None if gap else _CITIES[i] for gap, i in zip(gaps[1], city, strict=True)]),
            pl.Series("member", [None if gap else bool(x) for gap, x in zip(gaps[2], member, strict=True)]),
            pl.Series("grade", [("a", "b")[i % 2] for i in city]),
        )
        kinds += [
            Column(name="city", kind="category", categories=_CITIES, nullable=True),
            Column(name="member", kind="boolean", nullable=True),
            Column(name="grade", kind="category", categories=("a", "b")),
        ]
    noisy = signal + random.normal(scale=0.4, size=num_rows)
    if task == "regression":
        return (
            frame.with_columns(pl.Series("price", 100 + 20 * noisy)),
            tuple(kinds),
            Column(name="price", kind="number"),
        )
    names = ("low", "mid", "top") if num_classes == 3 else tuple(f"c{i}" for i in range(num_classes))
    cuts = np.quantile(noisy, np.linspace(0, 1, num_classes + 1)[1:-1])
    labels = pl.Series("level", [names[i] for i in np.digitize(noisy, cuts)])
    return frame.with_columns(labels), tuple(kinds), Column(name="level", kind="category", categories=names)
