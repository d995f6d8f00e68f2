"""What is wrong with the arrays that games are made of, in sentences that name the entry."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nashjax.arguments import first_index

SYMMETRY_TOLERANCE = 1e-6
"""How far `P + P^T` may be from 1, entry by entry (spec 2)."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """The first thing found wrong with a matrix.

    Attributes:
      index: the index `(..., i, j)` of the entry.
      found: what is there.
      allowed: what is allowed there.
    """

    index: tuple[int, ...]
    found: str
    allowed: str


def first_fault(preferences: np.ndarray) -> Fault | None:
    """Find what keeps `[..., n, n]` preferences from being a game; None if nothing.

    Looks, in this order, for an entry that is not a number, one outside [0, 1] (the first of each), and a pair
    whose two probabilities do not sum to 1 within 1e-6 (the worst).
    """
    P = np.asarray(preferences)
    # Not in place: the caller's matrix may be large, but a mask of it is needed only once something is wrong.
    if not np.isfinite(P).all():
        index = first_index(~np.isfinite(P))
        return Fault(index, str(P[index]), "a finite probability")
    if P.size and (P.min() < 0 or P.max() > 1):
        index = first_index((P < 0) | (P > 1))
        return Fault(index, str(P[index]), "a probability in [0, 1]")
    excess = np.abs(P + np.swapaxes(P, -1, -2) - 1)
    if P.size and excess.max() > SYMMETRY_TOLERANCE:
        index = tuple(int(i) for i in np.unravel_index(np.argmax(excess), P.shape))
        mirrored = (*index[:-2], index[-1], index[-2])
        if index[-1] == index[-2]:
            return Fault(index, str(P[index]), "1/2 on the diagonal")
        return Fault(
            index,
            f"{P[index]}, and {P[mirrored]} at the mirrored entry, sum {P[index] + P[mirrored]}",
            "P[i, j] + P[j, i] = 1 within 1e-6",
        )
    return None


def check_factor(name: str, array: Any, allowed: str, least: int = 2) -> bool:
    """Raise ValueError unless an array has at least two axes, with `least` entries along the first of the last two.

    Returns:
      Whether it is an array at all: games also stand for what `vmap` is to do with their arrays.
    """
    if not isinstance(array, (jax.Array, np.ndarray)):
        return False
    if array.ndim < 2 or array.shape[-2] < least or array.shape[-1] < 1:
        at_least = f", at least {least} rows" if least > 1 else ""
        raise ValueError(f"{name}: has shape {list(array.shape)}; allowed is {allowed}{at_least} and 1 column")
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise ValueError(f"{name}: has dtype {array.dtype}; allowed are real numbers")
    return True


def describe_not_finite(name: str, array: jax.Array) -> str | None:
    """The first entry that is not a finite number, in words; None if there is none."""
    bad = ~np.isfinite(np.asarray(array))
    if not bad.any():
        return None
    index = first_index(bad)
    return f"{name}{list(index)} is {array[index]}; allowed are finite numbers"


def describe_not_skew(name: str, array: ArrayLike, allowed: ArrayLike) -> str | None:
    """The entry that is farthest from `A[i, j] = -A[j, i]`, in words; None if none is farther than allowed."""
    A = np.asarray(array)
    excess = np.abs(A + np.swapaxes(A, -1, -2))
    if (excess <= allowed).all():
        return None
    i = tuple(int(k) for k in np.unravel_index(np.argmax(excess), excess.shape))
    j = (*i[:-2], i[-1], i[-2])
    if i == j:
        return f"{name}{list(i)} is {A[i]}; allowed is 0 on the diagonal"
    return (
        f"{name}{list(i)} is {A[i]} and {name}{list(j)} is {A[j]}; "
        "allowed are skew-symmetric matrices, A[i, j] = -A[j, i]"
    )
