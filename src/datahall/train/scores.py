"""Figures of a fit on validation rows, by the names that searches and claims share."""

from __future__ import annotations

import numpy as np

from datahall.core.errors import UserError
from datahall.core.records import Task
from datahall.engines.finish import decide

METRICS: dict[Task, tuple[str, ...]] = {
    "classification": ("accuracy", "balanced_accuracy", "f1", "f1_macro", "log_loss", "roc_auc"),
    "regression": ("mae", "r2", "rmse"),
}
SMALLER_IS_BETTER = frozenset({"log_loss", "mae", "rmse"})


def measure(task: Task, target: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Return every metric of the task that these rows allow.

    `scores` is as an engine gives it: probabilities of shape (rows, classes), or values of shape (rows,). `f1` is that
    of the second class for two classes, else `f1_macro`, the mean over classes; `roc_auc` for more than two is the mean of each
    class against the rest (Fawcett 2006), and is left out where some class has no row; `r2` needs two rows.
    """
    from sklearn import metrics as m  # noqa: PLC0415  (heavy, only to fit)

    if task == "regression":
        figures = {
            "mae": float(m.mean_absolute_error(target, scores)),
            "rmse": float(m.root_mean_squared_error(target, scores)),
        }
        return {**figures, "r2": float(m.r2_score(target, scores))} if len(target) > 1 else figures
    num_classes = scores.shape[1]
    classes = list(range(num_classes))
    answered = decide(scores, None)
    recalls = m.recall_score(target, answered, labels=sorted(set(target.tolist())), average=None, zero_division=0)
    f1 = m.f1_score(target, answered, labels=classes, average=None, zero_division=0)
    figures = {
        "accuracy": float(m.accuracy_score(target, answered)),
        "balanced_accuracy": float(np.mean(recalls)),
        "f1": float(f1[1] if num_classes == 2 else np.mean(f1)),
        "f1_macro": float(np.mean(f1)),
        "log_loss": float(m.log_loss(target, _normalised(scores), labels=classes)),
    }
    if len(set(target.tolist())) == num_classes:
        ranked = scores[:, 1] if num_classes == 2 else _normalised(scores)
        figures["roc_auc"] = float(m.roc_auc_score(target, ranked, multi_class="ovr", labels=classes))
    return figures


def check_metric(task: Task, metric: str) -> None:
    """Raise UserError where `metric` is none of the task's."""
    if metric not in METRICS[task]:
        raise UserError(
            f"a search for {task} cannot use '{metric}'",
            where="metric",
            hint=f"choose one of: {', '.join(METRICS[task])}",
        )


def goodness(metric: str, figures: dict[str, float]) -> float:
    """Return the figure of `metric`, turned so that more is better. Raises UserError where it was left out."""
    if metric not in figures:
        raise UserError(
            f"'{metric}' has no value on these validation rows",
            hint="some class has no row there; choose another metric",
        )
    return -figures[metric] if metric in SMALLER_IS_BETTER else figures[metric]


def _normalised(probability: np.ndarray) -> np.ndarray:
    # Sums may miss 1 by an ulp or, after float32, by 1e-7; scikit-learn warns about that.
    total: np.ndarray = probability / probability.sum(axis=1, keepdims=True)
    return total
