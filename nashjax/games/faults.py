"""Faults in the arrays of games, as messages that name the entry."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nashjax._validation import first_index, invalid, message, wrong_type

SYMMETRY_TOLERANCE = 1e-6
"""How far `P + P^T` may be from 1, entry by entry."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """The first thing found wrong with a matrix.

    Attributes:
      index: the index `(..., i, j)` of the entry.
      found: what is there.
      allowed: what the entry must be, as a requirement of `arguments.message`.
      advice: one sentence that says how to fix it, or nothing.
    """

    index: tuple[int, ...]
    found: str
    allowed: str
    advice: str = ""

    def describe(self, name: str, index: tuple[int, ...] = ()) -> str:
        """Return the message, for a matrix at `index` of the array `name`."""
        return message(f"{name}{[*index, *self.index]}", self.allowed, self.found, self.advice)


def first_fault(preferences: np.ndarray, allowed: np.ndarray | None = None) -> Fault | None:
    """Find what keeps `[..., n, n]` preferences from being a game; None if nothing.

    Looks, in this order, for an entry that is not a number, one outside [0, 1] (the first of each), and a pair
    whose two probabilities do not sum to 1 within 1e-6 (the worst). The diagonal, which carries no information, is not
    looked at, nor are the rows and columns of actions that are not `allowed`.

    Args:
      preferences: `[..., n, n]`.
      allowed: bool `[..., n]`, default all.
    """
    given = np.asarray(preferences)
    ignored = np.eye(given.shape[-1], dtype=bool)
    if allowed is not None:
        ignored = ignored | ~(allowed[..., :, None] & allowed[..., None, :])
    P = np.where(ignored, 0.5, given)
    if not np.isfinite(P).all():
        index = first_index(~np.isfinite(P))
        return Fault(index, str(given[index]), "a finite probability")
    if P.size and (P.min() < 0 or P.max() > 1):
        index = first_index((P < 0) | (P > 1))
        return Fault(index, str(given[index]), "a probability in [0, 1]", _advice(P, ignored))
    excess = np.abs(P + P.mT - 1)
    if P.size and excess.max() > SYMMETRY_TOLERANCE:
        index = tuple(int(i) for i in np.unravel_index(np.argmax(excess), P.shape))
        mirrored = (*index[:-2], index[-1], index[-2])
        found = f"{P[index]}, and {P[mirrored]} at the mirrored entry"
        return Fault(index, found, "must satisfy P[i, j] + P[j, i] = 1 within 1e-6")
    return None


def _advice(P: np.ndarray, ignored: np.ndarray) -> str:
    """Say what numbers outside [0, 1] seem to be."""
    largest, sums = np.abs(P).max(), P + P.mT
    margin = np.where(ignored, 0, sums)
    if (np.abs(margin) <= SYMMETRY_TOLERANCE * largest).all():
        return "For a skew-symmetric payoff matrix, use MatrixGame.from_payoffs."
    if (np.abs(np.where(ignored, 100, sums) - 100) <= 0.02).all() and P.min() >= 0:
        return "Divide percentages by 100."
    if (P >= 0).all() and (np.where(ignored, 0, P) == np.round(np.where(ignored, 0, P))).all():
        return "For a matrix of win counts, divide by wins + wins.T."
    return ""


def check_factor(name: str, array: Any, requirement: str, least: int = 2) -> bool:
    """Check that an array has at least two axes, with `least` entries along the first of the last two.

    Returns:
      Whether it is an array at all: a game can also hold what `vmap` is to do with its arrays.

    Raises:
      TypeError: the array does not hold real numbers.
      ValueError: its shape is wrong.
    """
    if isinstance(array, (list, tuple, str)):
        raise wrong_type(name, f"an array {requirement}", array, "Convert it with jax.numpy.array.")
    if not isinstance(array, (jax.Array, np.ndarray)):
        return False
    if array.ndim < 2 or array.shape[-2] < least or array.shape[-1] < 1:
        at_least = f"at least {least} rows and " if least > 1 else ""
        raise invalid(name, f"an array {requirement} with {at_least}at least 1 column", f"shape {list(array.shape)}")
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise TypeError(message(name, "an array of real numbers", f"dtype {array.dtype}"))
    return True


def describe_not_finite(name: str, array: jax.Array, allowed: np.ndarray | None, index: tuple[int, ...]) -> str | None:
    """Return the message for the first row `[n, k]` of an allowed action that is not finite; None if there is none."""
    bad = ~np.isfinite(np.asarray(array))
    if allowed is not None:
        bad &= allowed[:, None]
    if not bad.any():
        return None
    at = first_index(bad)
    return message(f"{name}{[*index, *at]}", "a finite number", str(array[at]))


def describe_not_skew(name: str, array: ArrayLike, tolerance: ArrayLike, index: tuple[int, ...] = ()) -> str | None:
    """Return the message for the entry farthest from `A[i, j] = -A[j, i]`; None if none is beyond the tolerance."""
    A = np.asarray(array)
    excess = np.abs(A + A.mT)
    if (excess <= tolerance).all():
        return None
    i = tuple(int(k) for k in np.unravel_index(np.argmax(excess), excess.shape))
    j = (*i[:-2], i[-1], i[-2])
    place = f"{name}{[*index, *i]}"
    if i == j:
        return message(place, "0, as all of the diagonal", str(A[i]))
    return message(place, f"-{name}{[*index, *j]}, as in a skew-symmetric matrix", f"{A[i]} and {A[j]}")
