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

    Raises DatahallError where these are not the outputs that the manifest's task has: a replica is not trusted.
    """
    is_labels = manifest.task == "classification"
    others = {"probability"} if is_labels else {"lower", "upper"}
    required = others if is_labels or "interval" in manifest.engine_settings else set()
    if not {"label", *required} <= arrays.keys() <= {"label", *others}:
        raise DatahallError("the model answered with other outputs than its task has")
    for name, array in arrays.items():
        shape = (len(manifest.target.categories),) if name == "probability" else ()
        if array.shape[1:] != shape or (array.dtype == object) != (is_labels and name == "label"):
            raise DatahallError(f"the model answered with `{name}` of the shape {list(array.shape)} and {array.dtype}")
    rows = {name: array.tolist() for name, array in arrays.items()}
    if not is_labels:
        rows = {"value" if name == "label" else name: values for name, values in rows.items()}
    elif None in rows["label"]:
        raise DatahallError("the model answered with no label")
    return Prepared(rows)
