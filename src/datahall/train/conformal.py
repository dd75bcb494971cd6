"""How wide a prediction interval must be to hold the truth as often as it says."""

from __future__ import annotations

import math

import numpy as np

CONFIDENCE = 0.9
HALF_WIDTH_METRIC = "interval_half_width_90"
"""The name under which a fit's half width stands among its figures."""


def half_width(residuals: np.ndarray, confidence: float = CONFIDENCE) -> float | None:
    """Return q such that prediction ± q holds a new row's truth with probability >= `confidence`.

    `residuals`, shape (rows,), are of rows that the fit did not see. q is the ceil((n + 1) * confidence)-th smallest
    absolute residual; None where n is too small for any finite q. Source: split conformal prediction, Lei, G'Sell,
    Rinaldo, Tibshirani and Wasserman, JASA 113 (2018), section 2.2. The promise needs rows drawn alike; where a search
    has chosen settings on the same rows it is slightly too narrow, which the calibration claim measures on the holdout.
    """
    rank = math.ceil(round((len(residuals) + 1) * confidence, 9))  # 0.9 * 10 must not become 9.000000000000002
    if rank > len(residuals):
        return None
    return float(np.sort(np.abs(residuals))[rank - 1])
