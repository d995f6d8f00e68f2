"""From counts of comparisons to preferences, and what in the counts makes an answer less sure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nashjax.files.errors import shortened
from nashjax.games.matrix import half_plus

FEW_COMPARISONS = 10


def preferences_of_counts(lead: np.ndarray, comparisons: np.ndarray, prior: float) -> np.ndarray:
    """`(wins + ties/2 + prior/2) / (comparisons + prior)`, 1/2 where that is 0/0.

    Args:
      lead: wins less losses, antisymmetric `[..., n, n]`.
      comparisons: symmetric `[..., n, n]`.
      prior: imagined comparisons of each pair, half of them won by each side.
    """
    weight = comparisons + prior
    return half_plus(np.divide(lead, 2 * weight, out=np.zeros_like(lead), where=weight > 0))


def data_warnings(items: Sequence[str], comparisons: np.ndarray, ties: float) -> list[str]:
    """Say what in the counts makes the answer less sure.

    Args:
      items: the `n` names.
      comparisons: of each pair, `[n, n]`, symmetric.
      ties: how many of all comparisons were ties.
    """
    n = len(items)
    warnings = []
    pairs = n * (n - 1) // 2
    never = int(np.count_nonzero(np.triu(comparisons == 0, 1)))
    if never:
        warnings.append(f"{never} of {pairs} pairs ({percent(never / pairs)}) were never compared; they count as 1/2.")
    per_item = comparisons.sum(axis=1)
    rare = np.flatnonzero(per_item < FEW_COMPARISONS)
    if rare.size:
        named = [
            f"{shortened(items[int(i)])} ({per_item[i]:.10g})" for i in rare[np.argsort(per_item[rare], kind="stable")]
        ]
        more = f" and {len(named) - 5} more" if len(named) > 5 else ""
        warnings.append(
            f"{len(named)} of {n} items have fewer than {FEW_COMPARISONS} comparisons: {', '.join(named[:5])}{more}; "
            "a prior shrinks rarely compared pairs towards 1/2."
        )
    total = per_item.sum() / 2
    if ties:
        warnings.append(
            f"{ties:.10g} of {total:.10g} comparisons ({percent(ties / total)}) are ties; "
            "each counts as half a win for both."
        )
    return warnings


def percent(share: float) -> str:
    """A share in three digits."""
    return f"{100 * share:.3g} %"
