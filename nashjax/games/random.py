"""Generators of random preference games."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from nashjax._math import simplex
from nashjax._math.linear import product
from nashjax._math.transfers import explicit
from nashjax._validation import check_choice, check_integer, check_key, check_number, check_shape
from nashjax.games.matrix import MatrixGame, half_plus

KINDS = ("gaussian", "uniform", "tournament", "cyclic", "bradley_terry", "low_rank")


def random_game(
    key: jax.Array,
    num_actions: int,
    batch_shape: tuple[int, ...] = (),
    kind: str = "gaussian",
    *,
    scale: float = 1.0,
    rank: int = 2,
) -> MatrixGame:
    """Draw random preference games.

    | kind | `P[i, j]` |
    | --- | --- |
    | `gaussian` | `sigmoid(scale * x)`, `x` an antisymmetric matrix of standard Gaussians |
    | `uniform` | uniform on [0, 1] |
    | `tournament` | 0 or 1 by a fair coin |
    | `cyclic` | generalized rock-paper-scissors: each action beats for certain the next `(n - 1) // 2` around a circle of randomly ordered actions and loses to the others (an even `n` leaves a tie with the one opposite) |
    | `bradley_terry` | `sigmoid(scale * (u_i - u_j))`, standard Gaussian ratings `u`: transitive |
    | `low_rank` | `sigmoid(scale * x)`, `x = (B C^T - C B^T) / sqrt(2 rank)`, Gaussian blades `B` and chests `C` of shape `[n, rank]` |

    Args:
      key: a jax random key. The same key gives the same games, with and without `jax_enable_x64`: all random numbers
        are drawn in float32, and only the arithmetic after that is in jax's default float type.
      num_actions: `n >= 2`.
      batch_shape: how many games, any number of axes.
      kind: one of the table.
      scale: of the logits, for `gaussian`, `bradley_terry` and `low_rank`; >= 0.
      rank: of blades and chests, for `low_rank`; >= 1.

    Returns:
      Games `[*batch_shape, n, n]` in jax's default float type, `P + P^T = 1` exactly.

    Raises:
      ValueError: an argument is not valid.

    >>> games = random_game(jax.random.key(0), num_actions=3, batch_shape=(2,), kind="cyclic")
    >>> games.preferences.sum(axis=-1).tolist()  # each beats one and loses to one
    [[1.5, 1.5, 1.5], [1.5, 1.5, 1.5]]
    """  # noqa: E501 (a table cell cannot be broken)
    check_key("key", key)
    n = check_integer("num_actions", num_actions, 2)
    batch = check_shape("batch_shape", batch_shape)
    check_choice("kind", kind, KINDS)
    check_number("scale", scale)
    margin = _margin(key, n, batch, kind, explicit(scale), check_integer("rank", rank, 1))
    return MatrixGame(_half_plus(margin))


_half_plus = jax.jit(half_plus)


@functools.partial(jax.jit, static_argnames=("n", "batch", "kind", "rank"))
def _margin(key: jax.Array, n: int, batch: tuple[int, ...], kind: str, scale: jax.Array, rank: int) -> jax.Array:
    """`P - 1/2`, antisymmetric to the last digit, `[*batch, n, n]`."""
    square, dtype = (*batch, n, n), jnp.result_type(float)

    def normal(*shape: int) -> jax.Array:
        return jax.random.normal(key, shape, jnp.float32).astype(dtype)  # in float64 the same key gives other numbers

    match kind:
        case "gaussian":
            margin = _logit_margin(scale * normal(*square))
        case "uniform":
            margin = jax.random.uniform(key, square, jnp.float32).astype(dtype) - 0.5
        case "tournament":
            margin = jax.random.bernoulli(key, jnp.float32(0.5), square).astype(dtype) - 0.5
        case "cyclic":
            margin = _circular_margin(key, n, batch)
        case "bradley_terry":
            rating = scale * normal(*batch, n)
            margin = _logit_margin(rating[..., :, None] - rating[..., None, :])
        case _:  # low_rank
            blades, chests = normal(2, *batch, n, rank)
            upper = product("...ir,...jr->...ij", blades, chests)
            margin = _logit_margin(scale * (upper - upper.mT) / math.sqrt(2 * rank))
    # Where two entries that should mirror each other differ by rounding, the upper one counts. It is kept in memory:
    # computed again for its mirror image, it could be rounded differently.
    upper = simplex.materialize(jnp.triu(margin, 1), jax.random.key_data(key))
    return upper - upper.mT


def _logit_margin(logits: jax.Array) -> jax.Array:
    """`sigmoid(x) - 1/2`."""
    return jnp.tanh(logits / 2) / 2


def _circular_margin(key: jax.Array, n: int, batch: tuple[int, ...]) -> jax.Array:
    position = jnp.argsort(jax.random.uniform(key, (*batch, n), jnp.float32), axis=-1)
    ahead = (position[..., None, :] - position[..., :, None]) % n
    beats = ((ahead >= 1) & (ahead <= (n - 1) // 2)).astype(jnp.result_type(float))
    return (beats - beats.mT) / 2
