"""Corrections for testing several things at once; plain arithmetic, no arrays."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Return which hypotheses are rejected, in the order given.

    The chance of rejecting one true hypothesis or more is at most `alpha`, however the tests depend on each
    other. Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    rejected = [False] * len(p_values)
    for step, index in enumerate(order):
        if not p_values[index] <= alpha / (len(p_values) - step):
            break
        rejected[index] = True
    return rejected


def spend(confidence: float, look: int, num_candidates: int = 1) -> float:
    """Return the error rate that one bound on one candidate may use at the `look`-th look, counted from 1.

    The shares (1 - confidence) / (k (k + 1)) of looks k = 1, 2, ... sum to exactly 1 - confidence, so any
    number of looks, each chosen after seeing the ones before, lets a claim that is not true through with at
    most that chance; within a look the share is divided among the candidates (Bonferroni).
    Source: alpha-spending, Foster and Stine (2008); the telescoping series is Lord's, Javanmard and Montanari (2018).
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    if look < 1 or num_candidates < 1:
        raise ValueError(f"look {look} and num_candidates {num_candidates} count from 1")
    return (1.0 - confidence) / (look * (look + 1)) / num_candidates
