"""Arithmetic on products of probability simplices in log space, actions along axis 0.

Every function takes `[n]` for one game or `[n, *batch]` for many. An excluded action has log-probability `-inf`;
every function accepts that. In games of several players, the actions of all players follow each other on axis 0, and
a static tuple of sizes tells where each player ends.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

T = TypeVar("T")

NEARBY = 0.5
"""Log-ratios up to this need the series of a divergence."""


def to_rank(x: Any, array: jax.Array) -> Any:
    """Put axes of size 1 in front of numbers `[*batch]` until they have the rank of `array`, `[..., *batch]`.

    Broadcasting alone would do, but `jax.numpy_rank_promotion("raise")` forbids it. A single number stays as it is.
    """
    missing = array.ndim - np.ndim(x)
    return jax.lax.expand_dims(x, range(missing)) if np.ndim(x) and missing > 0 else x


def choose(condition: jax.Array, yes: T, no: Any) -> T:
    """Choose between two pytrees, game by game.

    Args:
      condition: bool `[*batch]`.
      yes: a pytree of arrays `[..., *batch]`.
      no: a pytree of arrays of the same shapes, or of shapes that broadcast with them.
    """
    return jax.tree.map(lambda a, b: jnp.where(to_rank(condition, a), a, b), yes, no)


def log(probabilities: jax.Array) -> jax.Array:
    """Take the logarithm of probabilities; that of 0 is `-inf` with derivative 0, where `jnp.log` would give NaN."""
    positive = probabilities != 0  # true for NaN, which must not be hidden
    return jnp.where(positive, jnp.log(jnp.where(positive, probabilities, 1)), -jnp.inf)


def sqrt(x: jax.Array) -> jax.Array:
    """Take the square root of numbers >= 0; that of 0 has derivative 0, where `jnp.sqrt` would give NaN."""
    positive = x != 0  # true for NaN, which must not be hidden
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def normalize(log_weights: jax.Array, sizes: tuple[int, ...] = ()) -> jax.Array:
    """Scale weights to a policy of each player, `v - logsumexp(v)`.

    Args:
      log_weights: `[n, *batch]`, finite or `-inf`, at least one of each player finite.
      sizes: number of actions of each player; by default one player has all.

    Returns:
      Log-probabilities, `[n, *batch]`.
    """
    if len(sizes) < 2:
        return jax.nn.log_softmax(log_weights, axis=0)
    return jnp.concatenate([jax.nn.log_softmax(part, axis=0) for part in split(log_weights, sizes)])


def split(x: jax.Array, sizes: tuple[int, ...]) -> list[jax.Array]:
    """Split `[n, *batch]` into the part of each player, `[n_g, *batch]`."""
    return [x[end - size : end] for size, end in zip(sizes, itertools.accumulate(sizes), strict=True)]


def sums(x: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    """Sum over the actions of each player, `[n, *batch]` to `[players, *batch]`."""
    return jnp.stack([jnp.sum(part, axis=0) for part in split(x, sizes)])


def maxima(x: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    """Take the largest entry among the actions of each player, `[n, *batch]` to `[players, *batch]`."""
    return jnp.stack([jnp.max(part, axis=0) for part in split(x, sizes)])


def spread(x: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    """Repeat a number of each player for all of its actions, `[players, *batch]` to `[n, *batch]`."""
    if len(sizes) == 1:
        return x  # broadcasts along axis 0
    return jnp.concatenate([jnp.broadcast_to(x[g][None], (size, *x.shape[1:])) for g, size in enumerate(sizes)])


def kl_divergence(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """Kullback-Leibler divergence `KL(p||q)` in nats, accurate also where `p` and `q` nearly agree.

    Summed as `sum_i p_i (exp(d_i) - 1 - d_i)`, `d = log q - log p`, whose terms are all >= 0, so that nothing cancels:
    close to equality the error is about eps * sqrt(KL) instead of eps.

    Args:
      log_p: log-probabilities `[n, *batch]`.
      log_q: log-probabilities `[n, *batch]`.

    Returns:
      `[*batch]`, >= 0; inf where `q` excludes an action that `p` plays.
    """
    return jnp.sum(compute_apart(divergence_terms, log_p, log_q), axis=0)


def divergence_terms(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """Return the terms `p_i (exp(d_i) - 1 - d_i) >= 0` of `kl_divergence`, `[n, *batch]`."""
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    played = p != 0  # true for NaN, which must not be hidden
    d = jnp.where(played, log_q, 0) - jnp.where(played, log_p, 0)
    near = played & (jnp.abs(d) <= NEARBY)
    x = jnp.where(near, d, 0)
    # Elsewhere nothing cancels. An action with p = 0 leaves its q: the sum stays that of a Bregman divergence.
    return jnp.where(near, p * x * x * _remainder(x), jnp.maximum(q - p - p * d, 0))


def materialize(x: jax.Array, witness: jax.Array) -> jax.Array:
    """Return an array as it is, but keep the compiler from computing it again inside of everything that uses it.

    XLA for processors merges what is cheap into each of its consumers and drops `lax.optimization_barrier` before it
    does; what goes into a branch or comes out of one it leaves alone. Half of the time of small games depends on this.

    Args:
      x: the array.
      witness: an array that does not depend on `x`, as derivatives may be linear in that: the branch is chosen by a
        test of its first entry that always succeeds.
    """
    return _in_a_branch(_identity, witness, x)


def compute_apart(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """Compute a function, entry by entry, of arrays that are materialized before, as is the result after."""
    return _in_a_branch(function, arrays[0], *arrays)


def _identity(x: jax.Array) -> jax.Array:
    return x


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _in_a_branch(function: Callable[..., jax.Array], witness: jax.Array, *arrays: jax.Array) -> jax.Array:
    shape = np.broadcast_shapes(*(x.shape for x in arrays))
    small = len(shape) < 2 or math.prod(shape) == 0  # one game is not worth the time to compile it
    # Spread over devices by its type, an array has no first entry to look at.
    spread = AxisType.Explicit in jax.typeof(witness).sharding.mesh.axis_types
    if jax.default_backend() != "cpu" or small or spread or witness.dtype == bool:
        return function(*arrays)
    bits = jax.lax.bitcast_convert_type(witness[(0,) * witness.ndim], f"int{8 * witness.dtype.itemsize}")
    always = (bits & 1) < 2  # which the compiler does not find out
    return jax.lax.cond(always, function, lambda *arrays: -functools.reduce(operator.add, arrays), *arrays)


@_in_a_branch.defjvp
def _in_a_branch_jvp(
    function: Callable[..., jax.Array], primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    return _in_a_branch(function, *primals), jax.jvp(function, primals[1:], tangents[1:])[1]


def _remainder(x: jax.Array) -> jax.Array:
    """`(exp(x) - 1 - x) / x^2` for `|x| <= NEARBY`, to rounding: the series (Horner).

    Not from `expm1`, which would take most of the time of a solve: XLA makes no vector code of it on processors.
    """
    terms = 15 if x.dtype == jnp.float64 else 8
    series = jnp.full_like(x, 1 / math.factorial(terms))
    for k in range(terms - 1, 1, -1):
        series = series * x + 1 / math.factorial(k)
    return series


def span(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """Span semi-norm of `log p - log q`, `max - min` over the actions that both play; `[*batch]`, in nats."""
    both = ~jnp.isneginf(log_p) & ~jnp.isneginf(log_q)  # true for NaN, which must not be hidden
    difference = jnp.where(both, log_p, 0) - jnp.where(both, log_q, 0)
    highest = jnp.max(jnp.where(both, difference, -jnp.inf), axis=0)
    lowest = jnp.min(jnp.where(both, difference, jnp.inf), axis=0)
    return highest - lowest


def entropy(log_p: jax.Array) -> jax.Array:
    """Shannon entropy in nats, `[*batch]`; its exponential is the effective number of actions."""
    p = jnp.exp(log_p)
    # An action with p = 0 counts as 0, not as `0 * -inf`.
    return -jnp.sum(p * jnp.where(p != 0, log_p, 0), axis=0)
