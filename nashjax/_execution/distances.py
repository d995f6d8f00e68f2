"""Distances of the recorded policies of a trajectory to the equilibrium."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from nashjax._math import layout, simplex
from nashjax.solution import Distances


@functools.partial(jax.jit, static_argnames="sizes")
def measure_distances(log_policy: jax.Array, log_equilibrium: jax.Array, sizes: tuple[int, ...]) -> Distances:
    """Return the distances of recorded policies to their equilibria; with derivatives in both.

    Args:
      log_policy: `[*batch, steps, n]`, as `Trajectory.log_policy`.
      log_equilibrium: `log p*`, `[*own_batch, n]`, which broadcasts to `[*batch, n]`.
      sizes: number of actions of each player; the span is the largest of a player.
    """
    *batch, _, n = log_policy.shape
    missing = len(batch) + 1 - log_equilibrium.ndim
    star = log_equilibrium.reshape(*(1,) * missing, *log_equilibrium.shape[:-1], 1, n)
    star, path = layout.actions_first(star), layout.actions_first(log_policy)
    parts = zip(simplex.split(path, sizes), simplex.split(jnp.broadcast_to(star, path.shape), sizes), strict=True)
    span = functools.reduce(jnp.maximum, [simplex.span(own, other) for own, other in parts])
    return Distances(kl=simplex.kl_divergence(star, path), span=span)


log_probabilities = jax.jit(simplex.log)
"""Compiled, because a comparison with a Python number is an implicit transfer."""
