"""What all engines for tables share: columns to matrix, model, scores to answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from datahall.core.errors import IntegrityError
from datahall.core.ports import Columns, Predictor
from datahall.core.records import BundleManifest
from datahall.engines.encode import Encoder
from datahall.engines.finish import Finisher


class TablePredictor(ABC):
    """Answers rows with one model; a subclass loads the model and scores matrices, nothing else.

    Not safe to call from several threads at once: a replica has one model thread.
    """

    def __init__(self, manifest: BundleManifest, files: Mapping[str, memoryview], *, num_threads: int = 1) -> None:
        """Load the model. Raises IntegrityError where the files are not what this engine loads."""
        _check_manifest(manifest)
        self._manifest = manifest
        self._encoder = Encoder(manifest.features)
        self._finisher = Finisher(manifest)
        self._load(files, num_threads)

    @property
    def manifest(self) -> BundleManifest:
        """What is being run."""
        return self._manifest

    def predict(self, columns: Columns) -> Mapping[str, np.ndarray]:
        """Answer every row, in order, as the port `Predictor` says; no rows give empty arrays."""
        return self._answer(self._encoder.encode(columns))

    def predict_table(self, table: np.ndarray) -> Mapping[str, np.ndarray]:
        """Answer as `predict` does, bit for bit, for float64 rows of shape (rows, features) in the manifest's order.

        The fast way for features of which none is a category. Raises UserError for a table that does not fit.
        """
        return self._answer(self._encoder.encode_table(table))

    def _answer(self, matrix: np.ndarray) -> Mapping[str, np.ndarray]:
        if not len(matrix):
            num_classes = len(self._manifest.target.categories)
            shape = (0, num_classes) if self._manifest.task == "classification" else (0,)
            return self._finisher.finish(np.empty(shape))
        return self._finisher.finish(self._scores(matrix))

    @abstractmethod
    def _load(self, files: Mapping[str, memoryview], num_threads: int) -> None: ...

    @abstractmethod
    def _scores(self, matrix: np.ndarray) -> np.ndarray:
        """Return probabilities of shape (rows, classes), or values of shape (rows,), for at least one row."""


def _check_manifest(manifest: BundleManifest) -> None:
    num_classes = len(manifest.target.categories)
    if manifest.task == "classification" and num_classes < 2:
        raise IntegrityError(f"the manifest's target has {num_classes} classes; a classifier needs two or more")
    if manifest.threshold is not None and (manifest.task != "classification" or num_classes != 2):
        raise IntegrityError("the manifest has a threshold, which only a target of two classes can have")


if TYPE_CHECKING:

    def _conforms(predictor: TablePredictor) -> Predictor:
        return predictor
