"""Training and validation rows as matrices, just as an engine would encode them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datahall.core.errors import DataError
from datahall.core.ports import BlobStore
from datahall.core.records import Column, Grant, Task
from datahall.core.seeds import derive_seed
from datahall.data.frames import load_columns, load_series
from datahall.engines.encode import encode


@dataclass(frozen=True)
class Rows:
    """Encoded rows: `matrix` float32 of shape (rows, features); `target` class indices or float64, shape (rows,)."""

    matrix: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.target)

    def take(self, places: np.ndarray) -> Rows:
        """Return the rows at `places`."""
        return Rows(self.matrix[places], self.target[places])


def load_rows(blobs: BlobStore, grant: Grant, *, team: str, features: tuple[Column, ...], target: Column) -> Rows:
    """Read one part of a snapshot.

    Raises DataError for an empty part or for target values that are missing or of no known class.
    """
    parquet = blobs.get(grant, team=team)
    matrix = encode(load_columns(parquet, features), features)
    values = load_series(parquet, target)
    if not len(values):
        raise DataError("a part of the table has no rows", hint="give more rows, or change data.split")
    if target.kind == "category":
        codes = {name: code for code, name in enumerate(target.categories)}
        unknown = sorted({str(value) for value in values.tolist() if value not in codes})
        if unknown:
            raise DataError(f"target '{target.name}' has values of no known class: {', '.join(unknown[:5])}")
        return Rows(matrix, np.array([codes[value] for value in values.tolist()], dtype=np.int64))
    if not np.isfinite(values).all():
        raise DataError(f"target '{target.name}' has missing or infinite values")
    return Rows(matrix, values.astype(np.float64))


def nested_parts(rows: Rows, task: Task, seed: int, shares: tuple[float, ...]) -> list[Rows]:
    """Return growing parts of `rows`, each containing the one before; classes keep their shares.

    A share of 1 gives all rows in their own order, so its fit is the very fit that is kept in the end.
    """
    ranks = np.empty(len(rows))
    for group in np.unique(rows.target) if task == "classification" else [None]:
        places = np.arange(len(rows)) if group is None else np.flatnonzero(rows.target == group)
        order = np.random.default_rng(derive_seed(seed, "parts", str(group))).permutation(len(places))
        ranks[places] = order / len(places)  # in [0, 1): each class has a row of rank 0, hence a place in every part
    return [rows.take(np.flatnonzero(ranks < share)) for share in shares]


def check_classes(rows: Rows, target: Column) -> None:
    """Raise DataError for a class that no training row has: the model could never answer it."""
    counts = np.bincount(rows.target, minlength=len(target.categories))
    empty = [name for name, count in zip(target.categories, counts, strict=True) if not count]
    if empty:
        raise DataError(
            f"no training row has the class {', '.join(empty[:5])} of '{target.name}'",
            hint="give more rows of it, leave it out of the table, or change data.split.seed",
        )
