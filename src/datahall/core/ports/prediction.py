"""Whatever answers rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from datahall.core.records import BundleManifest

if TYPE_CHECKING:
    import numpy as np

Columns = Mapping[str, "np.ndarray"]
"""Feature name to a one-dimensional array, all of one length: float64 for numbers (NaN is missing),
object (str, or None for missing) for categories, float64 0.0 / 1.0 for booleans."""


class Predictor(Protocol):
    """Answers rows in this process.

    The result holds `label` (object array of str for classification, float64 for regression) and, for
    classification, `probability`: float64 of shape (rows, classes) in the order of `manifest.target.categories`.
    """

    @property
    def manifest(self) -> BundleManifest:
        """What is being run."""

    def predict(self, columns: Columns) -> Mapping[str, np.ndarray]:
        """Answer every row, in order. Raises UserError for columns that do not fit the manifest."""


class Answerer(Protocol):
    """Answers rows in another process, the way that clients are answered."""

    def answer(self, columns: Columns) -> Mapping[str, np.ndarray]:
        """Answer every row, in order. Raises UnavailableError where the other side is gone."""

    def close(self) -> None:
        """End the connection."""
