"""The usual score, for comparison: one number an item, blind to cycles."""

from __future__ import annotations

import numpy as np

from nashjax.ranking.battles import Counts

_SHRINKAGE = 0.01
"""Imagined comparisons of each pair, shared between all items; keeps the scores of items without a loss finite."""


def bradley_terry(counts: Counts) -> np.ndarray:
    """Maximum-likelihood Bradley-Terry scores, `P(i beats j) = sigmoid(s_i - s_j)`, natural logarithms, mean 0.

    A tie is half a win for both. Fitted by the package choix (iterative Luce spectral ranking), with a tiny prior that
    keeps the scores finite where an item has won or lost all of its comparisons, or is connected with no other.

    Args:
      counts: who was compared with whom how often, and with what result.

    Returns:
      Scores `[n]`, float64.

    Raises:
      ImportError: choix, of the extra `rank`, is missing.
    """
    try:
        import choix
    except ImportError as error:
        raise ImportError(f'nashjax.ranking needs {error.name}: python -m pip install "nashjax[rank]"') from error

    wins = (counts.comparisons + counts.lead) / 2
    n = len(wins)
    scores = choix.ilsr_pairwise_dense(wins, alpha=_SHRINKAGE / n, max_iter=1000, tol=1e-7)
    return np.asarray(scores - scores.mean(), np.float64)
