"""What is wrong with the arrays that games without a matrix are made of."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


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
    index = tuple(int(i) for i in np.unravel_index(np.argmax(bad), bad.shape))
    return f"{name}{list(index)} is {array[index]}; allowed are finite numbers"
