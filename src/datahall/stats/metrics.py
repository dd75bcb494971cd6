"""Metrics of answers as functions of row weights, so that a thousand resamples are one matrix product.

A `Statistic` maps weights of shape (resamples, rows) to values of shape (resamples,); a row that was drawn twice
weighs 2. Values agree with scikit-learn's `sample_weight`; a resample in which a metric is undefined gives NaN. Most
metrics need only sums over the rows (`Sums`), which lets a bootstrap draw counts, or groups of rows, instead of rows.
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
_MANY_ROWS: Final = 5_000
"""Beyond these, resamples of roc_auc are those of its linear form."""


@dataclass(frozen=True)
class Sums:
    """A statistic that looks at nothing but sums over the rows.

    Row i adds `columns[cell[i]]`, or `columns[i]` where there are no cells; `columns` has shape (cells or rows,
    sums). `finish` maps sums of shape (resamples, sums) to values of shape (resamples,).
    """

    columns: np.ndarray
    finish: Callable[[np.ndarray], np.ndarray]
    cell: np.ndarray | None = None

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Return the values for row weights of shape (resamples, rows)."""
        return self.finish(weights @ self.by_row())

    def by_row(self) -> np.ndarray:
        """Return what each row adds, of shape (rows, sums)."""
        return self.columns if self.cell is None else self.columns[self.cell]


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


def minus(one: Statistic, other: Statistic, sign: float = 1.0) -> Statistic:
    """Return `sign * (one - other)`, both of the same rows; of sums where both are."""
    if not isinstance(one, Sums) or not isinstance(other, Sums):
        return lambda weights: sign * (one(weights) - other(weights))
    num = one.columns.shape[1]

    def finish(sums: np.ndarray) -> np.ndarray:
        result: np.ndarray = sign * (one.finish(sums[:, :num]) - other.finish(sums[:, num:]))
        return result

    if one.cell is None or other.cell is None:
        return Sums(np.hstack([one.by_row(), other.by_row()]), finish)
    pairs, cell = np.unique(one.cell * len(other.columns) + other.cell, return_inverse=True)
    ours, theirs = np.divmod(pairs, len(other.columns))
    return Sums(np.hstack([one.columns[ours], other.columns[theirs]]), finish, cell)


def value(name: str, scored: Scored) -> float:
    """Return the metric of all rows, each weighing 1."""
    return float(statistic(name, scored)(np.ones((1, scored.truth.size)))[0])


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    result = np.full(np.broadcast(above, below).shape, np.nan)
    np.divide(above, below, out=result, where=below > 0)
    return result


def _ratio(sums: np.ndarray) -> np.ndarray:
    return _divide(sums[:, 0], sums[:, 1])


def _mean(per_row: np.ndarray) -> Sums:
    return Sums(np.stack([per_row, np.ones(per_row.size)], axis=1), _ratio)


def _one_hot(numbers: np.ndarray, num_classes: int) -> np.ndarray:
    return np.asarray(numbers[:, None] == np.arange(num_classes)[None, :], dtype=np.float64)


def _accuracy(scored: Scored) -> Statistic:
    return Sums(np.array([[0.0, 1.0], [1.0, 1.0]]), _ratio, (scored.truth == scored.label).astype(np.int64))


def _confusion(scored: Scored) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the cells of the confusion matrix that occur (true class, answered class), and each row's cell."""
    cells, cell = np.unique(scored.truth * scored.num_classes + scored.label, return_inverse=True)
    return cells // scored.num_classes, cells % scored.num_classes, cell


def _balanced_accuracy(scored: Scored) -> Statistic:
    """Mean recall over the classes that occur."""
    truth, label, cell = _confusion(scored)
    member = _one_hot(truth, scored.num_classes)

    def finish(sums: np.ndarray) -> np.ndarray:
        recall = _divide(sums[:, : scored.num_classes], sums[:, scored.num_classes :])
        occurs = ~np.isnan(recall)
        return _divide(np.where(occurs, recall, 0.0).sum(axis=1), occurs.sum(axis=1))

    return Sums(np.hstack([member * (truth == label)[:, None], member]), finish, cell)


def _f1(scored: Scored) -> Statistic:
    """F1 of the second of two classes, or the mean over more (macro); a class that never occurs counts 0."""
    truth, label, cell = _confusion(scored)
    member, said = _one_hot(truth, scored.num_classes), _one_hot(label, scored.num_classes)

    def finish(sums: np.ndarray) -> np.ndarray:
        per_class = np.nan_to_num(_divide(2 * sums[:, : scored.num_classes], sums[:, scored.num_classes :]))
        result: np.ndarray = per_class[:, 1] if scored.num_classes == 2 else per_class.mean(axis=1)
        return result

    return Sums(np.hstack([member * said, member + said]), finish, cell)


def _roc_auc(scored: Scored) -> Statistic:
    """Area under the ROC curve of the second of two classes, or the mean of one class against the rest."""
    assert scored.probability is not None, "roc_auc needs probabilities"
    classes = [1] if scored.num_classes == 2 else list(range(scored.num_classes))
    if scored.truth.size > _MANY_ROWS:
        return _placements([(scored.truth == k, scored.probability[:, k]) for k in classes])
    parts = [_mann_whitney(scored.truth == k, scored.probability[:, k]) for k in classes]
    return lambda weights: np.asarray(np.mean([part(weights) for part in parts], axis=0))


def _placements(parts: list[tuple[np.ndarray, np.ndarray]]) -> Sums:
    """The mean area, linear in what each row adds: the share of the other class that it beats, or that beats it.

    Exact for the rows themselves. For a resample it leaves out a term that is smaller by the square root of the
    rows. Source: DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44.
    """
    columns = []
    for positive, scores in parts:
        inside, outside = np.sort(scores[positive]), np.sort(scores[~positive])
        beaten = _divide(_num_below(outside, scores), np.full(scores.size, outside.size))
        beaten_by = 1.0 - _divide(_num_below(inside, scores), np.full(scores.size, inside.size))
        columns += [np.where(positive, beaten, 0.0), positive, np.where(positive, 0.0, beaten_by), ~positive]
    by_row = np.stack(columns, axis=1).astype(np.float64)
    totals = by_row.sum(axis=0, keepdims=True)
    areas = _divide(totals[:, 0::4], totals[:, 1::4])

    def finish(sums: np.ndarray) -> np.ndarray:
        of_class = _divide(sums[:, 0::4], sums[:, 1::4]) + _divide(sums[:, 2::4], sums[:, 3::4]) - areas
        result: np.ndarray = np.clip(of_class, 0.0, 1.0).mean(axis=1)
        return result

    return Sums(by_row, finish)


def _num_below(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return how many of `ordered` lie below each value, equal ones counting half."""
    result: np.ndarray = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
    return result


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
    return Sums(squared.columns, lambda sums: np.sqrt(squared.finish(sums)))


def _r2(scored: Scored) -> Statistic:
    # Centred first: the difference of two large sums would lose the digits that matter.
    centred = scored.truth - scored.truth.mean()
    columns = np.stack([(scored.truth - scored.label) ** 2, centred**2, centred, np.ones(centred.size)], axis=1)
    return Sums(columns, lambda sums: 1.0 - _divide(sums[:, 0], sums[:, 1] - _divide(sums[:, 2] ** 2, sums[:, 3])))


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
