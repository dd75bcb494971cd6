"""Metrics of answers as functions of row weights, so that a thousand resamples are one matrix product.

A `Statistic` maps weights of shape (resamples, rows) to values of shape (resamples,); a row that was drawn twice
weighs 2. Values agree with scikit-learn's `sample_weight`; a resample in which a metric is undefined gives NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]

HIGHER_IS_BETTER: Final = {
    "accuracy": True,
    "balanced_accuracy": True,
    "f1": True,
    "roc_auc": True,
    "log_loss": False,
    "r2": True,
    "mae": False,
    "rmse": False,
}
CLASSIFICATION: Final = ("accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss")
REGRESSION: Final = ("r2", "mae", "rmse")


@dataclass(frozen=True)
class Scored:
    """Truth and answers of the same rows, as numbers.

    Classification: `truth` and `label` are class numbers, `probability` has shape (rows, classes).
    Regression: `truth` and `label` are values, `probability` is None and `num_classes` 0.
    """

    truth: np.ndarray
    label: np.ndarray
    probability: np.ndarray | None = None
    num_classes: int = 0


def statistic(name: str, scored: Scored) -> Statistic:
    """Return the metric called `name` as a function of row weights. Raises KeyError for an unknown name."""
    return _MAKERS[name](scored)


def padded(name: str, scored: Scored, *, right: bool) -> tuple[Scored, np.ndarray]:
    """Return `scored` with one invented row per class, all right or all wrong, and every row's own weight.

    A sample without a mistake has resamples without a mistake, and a bootstrap would call it proven perfect. One
    wrong row (two, spread over the classes, where each class counts by itself) brings the lower bound down to about
    where the exact one of a proportion lies, as Agresti and Coull (1998) do with a few failures; right rows do the
    same for the upper bound. log_loss and the metrics of regression have no worst row and are returned unchanged.
    """
    num = scored.truth.size
    if scored.probability is None or name == "log_loss":
        return scored, np.ones(num)
    classes = np.arange(scored.num_classes)
    said = classes if right else (classes + 1) % scored.num_classes
    total = 1.0 if name == "accuracy" else 2.0
    both = Scored(
        truth=np.concatenate([scored.truth, classes]),
        label=np.concatenate([scored.label, said]),
        probability=np.vstack([scored.probability, _one_hot(said, scored.num_classes)]),
        num_classes=scored.num_classes,
    )
    return both, np.concatenate([np.ones(num), np.full(scored.num_classes, total / scored.num_classes)])


def value(name: str, scored: Scored) -> float:
    """Return the metric of all rows, each weighing 1."""
    return float(statistic(name, scored)(np.ones((1, scored.truth.size)))[0])


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    result = np.full(np.broadcast(above, below).shape, np.nan)
    np.divide(above, below, out=result, where=below > 0)
    return result


def _mean(per_row: np.ndarray) -> Statistic:
    return lambda weights: _divide(weights @ per_row, weights.sum(axis=1))


def _one_hot(numbers: np.ndarray, num_classes: int) -> np.ndarray:
    return np.asarray(numbers[:, None] == np.arange(num_classes)[None, :], dtype=np.float64)


def _accuracy(scored: Scored) -> Statistic:
    return _mean((scored.truth == scored.label).astype(np.float64))


def _balanced_accuracy(scored: Scored) -> Statistic:
    """Mean recall over the classes that occur."""
    member = _one_hot(scored.truth, scored.num_classes)
    right = member * (scored.truth == scored.label)[:, None]

    def of(weights: np.ndarray) -> np.ndarray:
        recall = _divide(weights @ right, weights @ member)
        occurs = ~np.isnan(recall)
        return _divide(np.where(occurs, recall, 0.0).sum(axis=1), occurs.sum(axis=1))

    return of


def _f1(scored: Scored) -> Statistic:
    """F1 of the second of two classes, or the mean over more (macro); a class that never occurs counts 0."""
    member, said = _one_hot(scored.truth, scored.num_classes), _one_hot(scored.label, scored.num_classes)

    def of(weights: np.ndarray) -> np.ndarray:
        both = weights @ (member * said)
        per_class = np.nan_to_num(_divide(2 * both, weights @ member + weights @ said))
        result: np.ndarray = per_class[:, 1] if scored.num_classes == 2 else per_class.mean(axis=1)
        return result

    return of


def _roc_auc(scored: Scored) -> Statistic:
    """Area under the ROC curve of the second of two classes, or the mean of one class against the rest."""
    assert scored.probability is not None, "roc_auc needs probabilities"
    classes = [1] if scored.num_classes == 2 else list(range(scored.num_classes))
    parts = [_mann_whitney(scored.truth == k, scored.probability[:, k]) for k in classes]
    return lambda weights: np.asarray(np.mean([part(weights) for part in parts], axis=0))


def _mann_whitney(positive: np.ndarray, score: np.ndarray) -> Statistic:
    """The chance that a positive row scores higher than a negative one, ties counting half (Mann and Whitney 1947)."""
    order = np.argsort(score, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
    is_positive = positive[order].astype(np.float64)

    def of(weights: np.ndarray) -> np.ndarray:
        sorted_weights = weights[:, order]
        positives = np.add.reduceat(sorted_weights * is_positive, first, axis=1)
        negatives = np.add.reduceat(sorted_weights * (1.0 - is_positive), first, axis=1)
        below = np.cumsum(negatives, axis=1) - negatives / 2
        return _divide((positives * below).sum(axis=1), positives.sum(axis=1) * negatives.sum(axis=1))

    return of


def _log_loss(scored: Scored) -> Statistic:
    assert scored.probability is not None, "log_loss needs probabilities"
    probability = scored.probability[np.arange(scored.truth.size), scored.truth]
    tiny = np.finfo(scored.probability.dtype).eps
    return _mean(-np.log(np.clip(probability, tiny, 1 - tiny)))


def _mae(scored: Scored) -> Statistic:
    return _mean(np.abs(scored.truth - scored.label))


def _rmse(scored: Scored) -> Statistic:
    squared = _mean((scored.truth - scored.label) ** 2)
    return lambda weights: np.sqrt(squared(weights))


def _r2(scored: Scored) -> Statistic:
    # Centred first: the difference of two large sums would lose the digits that matter.
    centred = scored.truth - scored.truth.mean()
    columns = np.stack([(scored.truth - scored.label) ** 2, centred**2, centred], axis=1)

    def of(weights: np.ndarray) -> np.ndarray:
        sums = weights @ columns
        return 1.0 - _divide(sums[:, 0], sums[:, 1] - sums[:, 2] ** 2 / weights.sum(axis=1))

    return of


_MAKERS: Final[dict[str, Callable[[Scored], Statistic]]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "f1": _f1,
    "roc_auc": _roc_auc,
    "log_loss": _log_loss,
    "r2": _r2,
    "mae": _mae,
    "rmse": _rmse,
}
