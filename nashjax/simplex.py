"""Arithmetic on the probability simplex in log space, actions along axis 0.

Every function takes `[n]` for one game or `[n, *batch]` for many. An excluded action has log-probability `-inf`;
every function accepts that.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def normalize(log_weights: jax.Array) -> jax.Array:
    """Scale weights to a policy, `v - logsumexp(v)` (spec 3).

    Args:
      log_weights: `[n, *batch]`, finite or `-inf`, at least one of each game finite.

    Returns:
      Log-probabilities, `[n, *batch]`.
    """
    return jax.nn.log_softmax(log_weights, axis=0)


def kl_divergence(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """Kullback-Leibler divergence `KL(p||q)` in nats, accurate also where `p` and `q` nearly agree.

    Summed as `sum_i p_i (expm1(d_i) - d_i)`, `d = log q - log p`, whose terms are all >= 0, so that nothing cancels:
    close to equality the error is about eps * sqrt(KL) instead of eps (spec 2).

    Args:
      log_p: log-probabilities `[n, *batch]`.
      log_q: log-probabilities `[n, *batch]`.

    Returns:
      `[*batch]`, >= 0; inf where `q` excludes an action that `p` plays.
    """
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    played = p != 0  # true for NaN, which must not be hidden
    d = jnp.where(played, log_q - log_p, 0)
    # Above 1 the exponential may overflow while p underflows; there is nothing left to cancel there.
    near = p * jnp.maximum(jnp.expm1(jnp.minimum(d, 1)) - d, 0)
    far = q - p - p * d
    # An action with p = 0 leaves its q: the sum stays that of a Bregman divergence, >= 0 term by term.
    return jnp.sum(jnp.where(played, jnp.where(d <= 1, near, far), q), axis=0)


def span(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """Span semi-norm of `log p - log q`, `max - min` over the actions that both play (spec 2); `[*batch]`, in nats."""
    both = ~jnp.isneginf(log_p) & ~jnp.isneginf(log_q)  # true for NaN, which must not be hidden
    difference = jnp.where(both, log_p - log_q, 0)
    highest = jnp.max(jnp.where(both, difference, -jnp.inf), axis=0)
    lowest = jnp.min(jnp.where(both, difference, jnp.inf), axis=0)
    return highest - lowest


def entropy(log_p: jax.Array) -> jax.Array:
    """Shannon entropy in nats, `[*batch]`; its exponential is the effective number of actions."""
    p = jnp.exp(log_p)
    return -jnp.sum(jnp.where(p > 0, p * log_p, 0), axis=0)
