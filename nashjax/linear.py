"""The linear systems of Newton's method, of interior points and of derivatives: `I` less a skew-symmetric matrix."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from nashjax.games import Game


def margins(game: Game) -> jax.Array:
    """The skew-symmetric matrix `A = P - 1/2` of a game, `[*batch_shape, n, n]`.

    Raises:
      TypeError: the game has no `dense()`.
    """
    if not hasattr(game, "dense"):
        raise TypeError(f"{type(game).__name__} has no dense(), which Newton's method and derivatives need")
    return game.dense() - 0.5  # pyright: ignore[reportAttributeAccessIssue]


def skew_system(game: Game, scale: jax.Array) -> jax.Array:
    """`I - S A S` with `S = diag(scale)`, `[n, *batch]` to `[*batch, n, n]`; its inverse has norm <= 1 (spec 3)."""
    s = jnp.moveaxis(scale, 0, -1)
    return jnp.eye(s.shape[-1], dtype=s.dtype) - s[..., :, None] * margins(game) * s[..., None, :]


def projected_skew_system(game: Game, root: jax.Array, image: jax.Array, weight: jax.Array) -> jax.Array:
    """`I - weight Pi S A S Pi`, `S = diag(root)`, `Pi` the projector orthogonal to `root`; `[*batch, n, n]` (spec 3).

    Args:
      game: `A = P - 1/2`.
      root: a unit vector, `[n, *batch]`.
      image: `S A S root`, `[n, *batch]`.
      weight: `[]` or `[*batch]`.
    """
    q, Kq = jnp.moveaxis(root, 0, -1), jnp.moveaxis(image, 0, -1)
    K = q[..., :, None] * margins(game) * q[..., None, :]
    K = K + q[..., :, None] * Kq[..., None, :] - Kq[..., :, None] * q[..., None, :]
    return jnp.eye(q.shape[-1], dtype=q.dtype) - jnp.asarray(weight)[..., None, None] * K


def on_support(game: Game, support: jax.Array) -> jax.Array:
    """`A + 1 1^T` on the actions of `support`, bool `[n, *batch]`, and the identity on the others; `[*batch, n, n]`."""
    inside = jnp.moveaxis(support, 0, -1)
    both = inside[..., :, None] & inside[..., None, :]
    A = margins(game)
    return jnp.where(both, A + 1, jnp.eye(inside.shape[-1], dtype=A.dtype))


def factorise(matrix: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Factorise `[*batch, n, n]` once, for a function that solves for right-hand sides `[n, *batch]`."""
    lu, _, permutation = jax.lax.linalg.lu(matrix)

    def solve(rhs: jax.Array) -> jax.Array:
        b = jnp.take_along_axis(jnp.moveaxis(rhs, 0, -1), permutation, axis=-1)[..., None]
        b = jax.lax.linalg.triangular_solve(lu, b, left_side=True, lower=True, unit_diagonal=True)
        b = jax.lax.linalg.triangular_solve(lu, b, left_side=True, lower=False)
        return jnp.moveaxis(b[..., 0], -1, 0)

    return solve
