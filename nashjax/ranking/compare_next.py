"""Which comparisons would tell the most: the spread of the Nash average, by the delta method."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_IMAGINED = 2.0
"""Comparisons added to each pair, half won by each: the preference of a pair that was never compared is not certain."""
SMALLEST_BETA = 0.01
"""The derivative grows without bound as beta falls; smaller ones are taken as this."""


class Suggestion(NamedTuple):
    """A pair to compare.

    Attributes:
      items: their positions.
      comparisons: how often they were compared.
      reduction: share of the summed variance of all payoffs that one more comparison takes away.
    """

    items: tuple[int, int]
    comparisons: float
    reduction: float


def compare_next(
    preferences: np.ndarray, comparisons: np.ndarray, policy: np.ndarray, beta: float, num: int = 5
) -> tuple[Suggestion, ...]:
    """The pairs of which one more comparison shrinks the intervals of the payoffs most.

    With `p` the equilibrium at `beta` and `D = diag(p) - p p^T`, a change `dP` of the preferences moves the equilibrium
    by `dp = (beta I - D P)^-1 D dP p` (the derivative of its fixed point) and the payoffs by `dP p + P dp`.

    Args:
      preferences: `[n, n]`.
      comparisons: of each pair, `[n, n]`.
      policy: the equilibrium at `beta`, `[n]`.
      beta: >= `SMALLEST_BETA`.
      num: how many pairs.
    """
    P, p = preferences, policy
    n = len(p)
    D = np.diag(p) - np.outer(p, p)
    payoffs_by = np.eye(n) + P @ np.linalg.solve(beta * np.eye(n) - D @ P, D)  # d payoffs / d (dP p)
    square = payoffs_by.T @ payoffs_by
    # One pair (i, j) changes `dP p` by p_j in i and by -p_i in j.
    own = np.diag(square)
    influence = p[None, :] ** 2 * own[:, None] + p[:, None] ** 2 * own[None, :] - 2 * np.outer(p, p) * square
    known = comparisons + _IMAGINED
    smoothed = (P * comparisons + _IMAGINED / 2) / known
    variance = influence * smoothed * (1 - smoothed) / known
    saved = np.triu(variance / (known + 1), 1)  # of 1/known, one more takes away the share 1/(known + 1)
    total = np.triu(variance, 1).sum()
    if not total > 0:
        return ()
    best = np.argsort(-saved, axis=None, kind="stable")[: min(num, n * (n - 1) // 2)]
    found = (divmod(int(place), n) for place in best)
    return tuple(Suggestion((i, j), float(comparisons[i, j]), float(saved[i, j] / total)) for i, j in found)
