"""Linear functions that every supported version of jax can transpose."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

TRANSPOSES_SCANS = jax.__version_info__ >= (0, 10)
"""Whether jax can transpose a linear `scan`. Earlier versions raise an `AssertionError`."""


def transposable(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Return a linear function in a form that jax can transpose, even if it contains a `scan`.

    Before jax 0.10, jax transposes a `scan` only if the `scan` is the derivative of another one. There, the returned
    function is the derivative of `function`, which is the same linear map.

    Args:
      function: a function that is linear in its argument, a floating-point array.
    """
    if TRANSPOSES_SCANS:
        return function
    return lambda x: jax.jvp(function, (jnp.zeros_like(x),), (x,))[1]
