"""Do probabilities mean what they say: debiased calibration error with bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from datahall.stats.intervals import effective_size, wilson

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Bin:
    """Rows of like confidence: their mean confidence, the share that was right, and how many there are."""

    confidence: float
    share_right: float
    num: int


@dataclass(frozen=True)
class Calibration:
    """The debiased error, its one-sided bounds, the plain error, and the bins behind them."""

    estimate: float
    lower: float
    upper: float
    plain: float
    bins: tuple[Bin, ...]


def top_label(truth: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's highest probability, and 1.0 where that class is the true one.

    `truth` holds class numbers of shape (rows,), `probability` has shape (rows, classes).
    """
    best = probability.argmax(axis=1)
    return probability[np.arange(truth.size), best], (best == truth).astype(np.float64)


def choose_num_bins(num_rows: int) -> int:
    """Return a number of bins that leaves about 50 rows to each, between 3 and 15."""
    return min(max(num_rows // 50, 3), 15)


def calibration_error(
    confidence: np.ndarray,
    right: np.ndarray,
    *,
    alpha: float,
    num_bins: int | None = None,
    clusters: np.ndarray | None = None,
) -> Calibration:
    """Return the expected calibration error over bins of equal mass, less the bias that chance alone adds.

    A gap between confidence and share right is at least the noise of that share, so the plain error of a
    perfectly calibrated model is positive; the gap's expected growth under that noise (a folded normal) is
    subtracted. Sources: Roelofs et al. (2022), Mitigating bias in calibration error estimation (equal mass);
    Kumar, Liang and Ma (2019), Verified uncertainty calibration (debiasing).

    The true error is one signed sum of gaps among all signed sums, and the largest of their upper bounds covers
    it; each is bounded by square-and-add of Wilson's limits (Zou and Donner 2008). The lower bound takes off the
    most that folding can add, sqrt(2 / pi) of the noise. Both bound the binned error, itself at most the true one.
    """
    bins = _equal_mass(confidence, num_bins or choose_num_bins(confidence.size))
    plain = growth = largest_growth = reach = 0.0
    table = []
    for number in range(int(bins.max()) + 1):
        rows = bins == number
        part = Bin(float(confidence[rows].mean()), float(right[rows].mean()), int(rows.sum()))
        size = effective_size(right[rows], None if clusters is None else clusters[rows], alpha)
        weight, gap = part.num / confidence.size, abs(part.confidence - part.share_right)
        lower, upper = wilson(part.share_right * size, size, alpha)
        distance = max(part.share_right - lower, upper - part.share_right)
        noise = math.sqrt(part.share_right * (1 - part.share_right) / size)
        plain += weight * gap
        growth += weight * (_folded_mean(gap, noise) - gap)
        reach += (weight * distance) ** 2
        largest_growth += weight * math.sqrt(2 / math.pi) * distance / _NORMAL.inv_cdf(1 - alpha)
        table.append(part)
    return Calibration(
        estimate=max(0.0, plain - growth),
        lower=max(0.0, plain - largest_growth - math.sqrt(reach)),
        upper=min(1.0, plain + math.sqrt(reach)),
        plain=plain,
        bins=tuple(table),
    )


def _equal_mass(confidence: np.ndarray, num_bins: int) -> np.ndarray:
    """Return each row's bin number; equal confidences share a bin, so there may be fewer bins than asked."""
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, num_bins + 1)[1:-1]))
    return np.unique(np.searchsorted(edges, confidence, side="left"), return_inverse=True)[1]


def _folded_mean(middle: float, noise: float) -> float:
    """Return the mean of |X| for X normal around `middle`. Source: Leone, Nelson and Nottingham (1961)."""
    if noise == 0.0:
        return middle
    scaled = middle / noise
    return noise * math.sqrt(2 / math.pi) * math.exp(-(scaled**2) / 2) + middle * (1 - 2 * _NORMAL.cdf(-scaled))
