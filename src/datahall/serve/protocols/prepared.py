"""What all protocols share: what is asked, and a batch's arrays as Python values, turned once for all its requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from datahall.core.errors import DatahallError
from datahall.core.records import BundleManifest
from datahall.serve.rows import Rows

if TYPE_CHECKING:
    import numpy as np


class Asked(msgspec.Struct, frozen=True, gc=False):
    """A request as rows, and what its answer must repeat."""

    rows: Rows
    id: str = ""
    """The client's own."""
    outputs: tuple[str, ...] = ()
    binary: tuple[bool, ...] = ()
    """For each output whether it is wanted as bytes; empty where none is."""


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """What a model answered to one batch."""

    rows: dict[str, list[Any]]
    """Each output by its name in answers, with one entry a row: `label` and `probability`, or `value` and its bounds."""


class AnswerWriter(Protocol):
    """Writes one protocol's answers of one route."""

    def write(self, prepared: Prepared, start: int, stop: int, asked: Asked, answer_id: str) -> bytes:
        """Return the answer to `asked`, whose rows are `start` to `stop` of the batch.

        Raises DatahallError where one of them has a number that is not finite: that request alone fails.
        """


def begin(manifest: BundleManifest, arrays: Mapping[str, np.ndarray]) -> Prepared:
    """Return a batch's arrays, of one entry a row each, as what writers take.

    Raises DatahallError where the probabilities are not one for each class.
    """
    if manifest.task != "classification":
        return Prepared({"value" if name == "label" else name: array.tolist() for name, array in arrays.items()})
    rows = {name: array.tolist() for name, array in arrays.items()}
    probability = arrays.get("probability")
    if probability is not None and probability.shape[1:] != (len(manifest.target.categories),):
        raise DatahallError(f"the model answered with probabilities of the shape {list(probability.shape)}")
    return Prepared(rows)
