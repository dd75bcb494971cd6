"""Proves that two predictors answer alike, on every row that is at hand."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from datahall.core.ports import Columns, Predictor

TOLERANCE = 1e-5
"""Largest difference of a probability; of a value, relative to the larger of it and the values' deviation."""
NUM_SINGLE_ROWS = 64
"""Rows also answered one by one: a batch of one takes other kernels than a batch of many."""


class Equality(msgspec.Struct, frozen=True, kw_only=True):
    """How equal the answers were."""

    equal: bool
    num_rows: int
    num_label_flips: int
    max_abs_difference: float
    reason: str


def compare(reference: Predictor, other: Predictor, tables: tuple[Columns, ...]) -> Equality:
    """Compare the answers of both to every row of `tables`.

    Equal means: the same label on every row and no probability further apart than TOLERANCE; for regression, no value
    (and no interval's end) further apart than TOLERANCE relative. No rows prove nothing, and count as not equal.
    """
    num_rows = flips = 0
    largest = 0.0
    for columns in tables:
        expected = reference.predict(columns)
        num_rows += len(expected["label"])
        for answer, kept in _answers(other, columns, expected):
            flips += _flips(kept, answer)
            largest = max(largest, _difference(kept, answer, expected))
    reason = ""
    if not num_rows:
        reason = "there were no rows to compare"
    elif flips:
        reason = f"{flips} of {num_rows} labels differ"
    elif not largest <= TOLERANCE:  # so that NaN is a difference too
        reason = f"answers differ by up to {largest:.3g}, more than {TOLERANCE:g}"
    return Equality(
        equal=not reason, num_rows=num_rows, num_label_flips=flips, max_abs_difference=largest, reason=reason
    )


def _answers(
    other: Predictor, columns: Columns, expected: Mapping[str, np.ndarray]
) -> list[tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]]:
    """Return pairs of an answer and the part of `expected` that it must equal: all rows, then some one by one."""
    pairs = [(other.predict(columns), expected)]
    num_rows = len(expected["label"])
    singles = np.unique(np.linspace(0, num_rows - 1, NUM_SINGLE_ROWS).astype(int))
    for row in singles.tolist() if num_rows else ():
        one = slice(row, row + 1)
        single = other.predict({name: array[one] for name, array in columns.items()})
        pairs.append((single, {name: array[one] for name, array in expected.items()}))
    return pairs


def _flips(expected: Mapping[str, np.ndarray], answer: Mapping[str, np.ndarray]) -> int:
    if "probability" not in expected:
        return 0
    return int(np.sum(expected["label"] != answer["label"]))


def _difference(
    expected: Mapping[str, np.ndarray], answer: Mapping[str, np.ndarray], whole: Mapping[str, np.ndarray]
) -> float:
    if not len(expected["label"]):
        return 0.0
    if "probability" in expected:
        return float(np.max(np.abs(expected["probability"] - answer["probability"])))
    # Relative to the value alone, a value near zero would have to agree to its last bits.
    scale = np.maximum(np.abs(expected["label"]), np.std(whole["label"]))
    scale = np.where(scale > 0, scale, 1.0)
    return float(max(np.max(np.abs(expected[name] - answer[name]) / scale) for name in expected))
