"""Conversion between the layout of the public functions, batch axes first, and that of the core, actions first.

No other module but `linear.py`, which calls kernels of a layout of their own, moves axes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def actions_first(array: jax.Array, axes: int = 1) -> jax.Array:
    """Move the action axes from the end to the front: `[*batch, n]` to `[n, *batch]`, or two with `axes=2`."""
    return jnp.moveaxis(array, range(-axes, 0), range(axes))


def actions_last(array: jax.Array, axes: int = 1) -> jax.Array:
    """Move the action axes from the front to the end: `[n, *batch]` to `[*batch, n]`, or two with `axes=2`."""
    return jnp.moveaxis(array, range(axes), range(-axes, 0))
