"""What is wrong with the arrays that games are made of, in sentences that name the entry."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nashjax.arguments import first_index


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
