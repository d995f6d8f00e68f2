"""Formulas of the regularized game that need no game: the proximal map and bounds from an exploitability."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from nashjax._math import simplex


def proximal_map(
    log_center: jax.Array,
    payoffs: jax.Array,
    step: jax.Array | float,
    beta: jax.Array,
    log_reference: jax.Array,
    sizes: tuple[int, ...] = (),
) -> jax.Array:
    """Return `normalize((s g + eta log r + log c) / (1 + eta))`, `eta = s beta`, for payoffs `g` and a center `c`.

    `beta` is a number of each game, `[*batch]`, or of each action, `[n, *batch]`; `sizes` are those of the players.
    """
    step, beta = simplex.to_rank(step, payoffs), simplex.to_rank(beta, payoffs)
    eta = step * beta
    pull = jnp.where(jnp.isneginf(log_reference), -jnp.inf, eta * log_reference)
    return simplex.normalize((step * payoffs + pull + log_center) / (1 + eta), sizes)


def rounding_floor(beta: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Return what rounding alone may add to or hide from an exploitability, about `eps^2 / beta`.

    The payoffs carry an error of about eps, so the log-ratio to the best response one of eps/beta, and the
    exploitability half the square of that, times beta; but never more than the error of the payoffs themselves, which
    is what counts at `beta = 0`. The second term is the rounding of the logarithms. Measured: benchmarks/adaptive.py,
    column `floor`.
    """
    eps = jnp.finfo(dtype).eps
    beta = jnp.asarray(beta, dtype)
    of_payoffs = jnp.where(beta > eps, eps**2 / jnp.where(beta > eps, beta, 1), eps)
    return of_payoffs + 8 * eps**2 * beta


def kl_bound(exploitability: jax.Array, beta: jax.Array, floor: jax.Array | float = 0.0) -> jax.Array:
    """Return a certified bound on `KL(p||p*)` in nats, `E_b(p) / beta` and what rounding may add; inf at `beta = 0`.

    An exploitability is the square of a distance, and `floor` that of its rounding: it is the distances that add up.
    """
    floor = jnp.asarray(floor, exploitability.dtype)
    total = exploitability + 2 * simplex.sqrt(exploitability) * simplex.sqrt(floor) + floor
    return jnp.where(beta > 0, total / jnp.where(beta > 0, beta, 1), jnp.inf)


def l1_bound(exploitability: jax.Array, beta: jax.Array, floor: jax.Array | float = 0.0) -> jax.Array:
    """Return a certified bound on `||p - p*||_1 <= sqrt(2 KL(p||p*))`, at most 2."""
    return jnp.minimum(simplex.sqrt(2 * kl_bound(exploitability, beta, floor)), 2)
