"""The linear systems of Newton's method, of interior points and of derivatives: `I` less a skew-symmetric matrix."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import gmres

from nashjax import simplex
from nashjax.games import Game
from nashjax.games.matrix import times

MOST_ELIMINATED = 16
"""Up to this many actions many systems are solved side by side; a call of LAPACK for each would take longer."""
KRYLOV_DIMENSION = 32
"""Vectors that GMRES keeps, for games without a matrix."""
MOST_RESTARTS = 500
"""Of GMRES, whose queries grow with `|weight S A S|`: of one game of 300 actions 22 at beta 0.1, 1,600 at 1e-3."""
RESIDUAL = {"float64": 1e-12, "float32": 1e-6}
"""What GMRES goes to, relative to the right-hand side."""
LARGEST_RESIDUAL = 1e-3
"""A solution by GMRES whose residual is larger than this is not one: NaN."""


def margins(game: Game) -> jax.Array:
    """The skew-symmetric matrix `A = P - 1/2` of a game, `[*batch_shape, n, n]`.

    Raises:
      ValueError: the game has no `dense()`.
    """
    if not hasattr(game, "dense"):
        raise ValueError(
            f"game: {type(game).__name__} has no dense(); allowed for interior points and plain equilibria are games "
            "with a matrix"
        )
    return game.dense() - 0.5  # pyright: ignore[reportAttributeAccessIssue]


def skew_system(game: Game, scale: jax.Array) -> jax.Array:
    """`I - S A S` with `S = diag(scale)`, `[n, *batch]` to `[*batch, n, n]`; its inverse has norm <= 1 (spec 3)."""
    s = jnp.moveaxis(scale, 0, -1)
    scaled = _scale(s, margins(game))
    return simplex.to_rank(jnp.eye(s.shape[-1], dtype=s.dtype), scaled) - scaled


def _scale(s: jax.Array, matrix: jax.Array) -> jax.Array:
    """`S M S` with `S = diag(s)`, `[*batch, n]`, and `[*batch, n, n]`, of as many batch axes or fewer."""
    rows = s[..., :, None]
    return rows * simplex.to_rank(matrix, rows) * s[..., None, :]


def projected_skew_system(game: Game, root: jax.Array, image: jax.Array, weight: jax.Array) -> jax.Array:
    """`I - weight Pi S A S Pi`, `S = diag(root)`, `Pi` the projector orthogonal to `root`; `[*batch, n, n]` (spec 3).

    Args:
      game: `A = P - 1/2`.
      root: a unit vector, `[n, *batch]`.
      image: `S A S root`, `[n, *batch]`.
      weight: `[]` or `[*batch]`.
    """
    q, Kq = jnp.moveaxis(root, 0, -1), jnp.moveaxis(image, 0, -1)
    K = _scale(q, margins(game))
    K = K + q[..., :, None] * Kq[..., None, :] - Kq[..., :, None] * q[..., None, :]
    weight = simplex.to_rank(jnp.asarray(weight)[..., None, None], K)
    return simplex.to_rank(jnp.eye(q.shape[-1], dtype=q.dtype), K) - weight * K


def solve_projected(game: Game, root: jax.Array, image: jax.Array, weight: jax.Array, rhs: jax.Array) -> jax.Array:
    """Solve the system of `projected_skew_system` for `[n, *batch]`: by its matrix, or by queries if there is none."""
    if hasattr(game, "dense"):
        return factorise(projected_skew_system(game, root, image, weight))(rhs)
    return _solve_by_queries(game, root, weight, rhs)


def _solve_by_queries(game: Game, root: jax.Array, weight: jax.Array, rhs: jax.Array) -> jax.Array:
    """By GMRES, a query for each of its steps; NaN where the residual stays above `LARGEST_RESIDUAL`.

    All games of a batch share one Krylov space, in which each right-hand side is a unit vector: what is a residual of
    all is one of each.
    """
    # A game that is not valid is NaN throughout, which would spread over that space.
    playing = jnp.isfinite(jnp.sum(root, axis=0))
    playing = simplex.to_rank(playing, root)
    q, weight = jnp.where(playing, root, 0), simplex.to_rank(weight, root)

    def project(z: jax.Array) -> jax.Array:
        return z - q * jnp.sum(q * z, axis=0, keepdims=True)

    def multiply(z: jax.Array, sign: float = 1.0) -> jax.Array:
        v = q * project(z)
        margins = game.payoffs(v) - jnp.sum(v, axis=0, keepdims=True) / 2
        return z - sign * weight * project(q * jnp.where(playing, margins, 0))

    def find(sign: float, b: jax.Array) -> jax.Array:
        size = jnp.sqrt(jnp.sum(b**2, axis=0, keepdims=True))
        known = jnp.isfinite(size)
        b = jnp.where(known & (size > 0), b / jnp.where(size > 0, size, 1), 0)
        found, _ = gmres(
            functools.partial(multiply, sign=sign),
            b,
            tol=RESIDUAL[b.dtype.name] / math.sqrt(max(math.prod(b.shape[1:]), 1)),
            restart=min(KRYLOV_DIMENSION, b.size),
            maxiter=MOST_RESTARTS,
            solve_method="incremental",
        )
        residual = jnp.sqrt(jnp.sum((multiply(found, sign) - b) ** 2, axis=0, keepdims=True))
        return jnp.where(known & (residual <= LARGEST_RESIDUAL), found * size, jnp.nan)

    solved = jax.lax.custom_linear_solve(
        multiply,
        jnp.where(playing, rhs, 0),
        solve=lambda _, b: find(1.0, b),
        transpose_solve=lambda _, b: find(-1.0, b),  # the matrix is `I` less a skew-symmetric one
    )
    # A factor, not a choice: in reverse mode what is not chosen would get a derivative of 0.
    return solved * jnp.where(playing, 1, jnp.nan)


def on_support(game: Game, support: jax.Array) -> jax.Array:
    """`A + 1 1^T` on the actions of `support`, bool `[n, *batch]`, and the identity on the others; `[*batch, n, n]`."""
    inside = jnp.moveaxis(support, 0, -1)
    both = inside[..., :, None] & inside[..., None, :]
    A = margins(game)
    return jnp.where(both, simplex.to_rank(A + 1, both), simplex.to_rank(jnp.eye(inside.shape[-1], dtype=A.dtype), both))


def factorise(matrix: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Factorise `[*batch, n, n]` once, for a function that solves for right-hand sides `[n, *batch]`."""
    n, batch = matrix.shape[-1], matrix.shape[:-2]
    if jax.default_backend() != "cpu":
        return _factorise_all(matrix)
    if n <= MOST_ELIMINATED and math.prod(batch) > 1:
        return _eliminate(jnp.moveaxis(matrix, (-2, -1), (0, 1)))
    return _factorise_each(matrix)


def _factorise_all(matrix: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """By the factorisation `lu` of many matrices at a time."""
    lu, _, permutation = jax.lax.linalg.lu(matrix)

    def solve(rhs: jax.Array) -> jax.Array:
        b = jnp.take_along_axis(jnp.moveaxis(rhs, 0, -1), permutation, axis=-1)[..., None]
        return jnp.moveaxis(_solve_triangular(lu, b)[..., 0], -1, 0)

    return solve


def _factorise_each(matrix: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """By the factorisation `lu`, one matrix after the other.

    The kernels of jaxlib for many matrices wait for threads of a pool while they hold one of them: a process that runs
    as many programs as there are cores would hang for ever. On two cores they are no quicker either.
    """
    n, batch = matrix.shape[-1], matrix.shape[:-2]
    lu, permutation = jax.lax.map(lambda M: jax.lax.linalg.lu(M)[::2], matrix.reshape(-1, n, n))

    def solve(rhs: jax.Array) -> jax.Array:
        b = jnp.take_along_axis(jnp.moveaxis(rhs, 0, -1).reshape(-1, n), permutation, axis=-1)[..., None]
        # The right-hand sides first: in reverse mode jax can only turn around loops over `(linear, constant)`.
        solved = jax.lax.map(lambda each: _solve_triangular(each[1], each[0]), (b, lu))
        return jnp.moveaxis(solved.reshape(*batch, n), -1, 0)

    return solve


def _solve_triangular(lu: jax.Array, b: jax.Array) -> jax.Array:
    b = jax.lax.linalg.triangular_solve(lu, b, left_side=True, lower=True, unit_diagonal=True)
    return jax.lax.linalg.triangular_solve(lu, b, left_side=True, lower=False)


def _eliminate(matrix: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """By Gauss-Jordan elimination with partial pivoting of `[n, n, *batch]`, each operation on all matrices at once.

    Rows are not exchanged: `pivots[k]` tells which row serves column `k`, and is as good as an exchange.
    """
    n = len(matrix)
    rows = jnp.arange(n).reshape(n, *(1,) * (matrix.ndim - 2))

    def eliminate(k: jax.Array, carried: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        M, used, pivots = carried
        column = jax.lax.dynamic_index_in_dim(M, k, 1, keepdims=False)
        size = jnp.where(used, -1, jnp.abs(column))
        pivot = jnp.min(jnp.where(size == jnp.max(size, axis=0, keepdims=True), rows, n), axis=0)
        is_pivot = rows == pivot[None]
        row = jnp.sum(jnp.where(is_pivot[:, None], M, 0), axis=0)
        # What has been eliminated is a column of the identity: its place keeps the column of the inverse instead.
        row = jnp.where(rows == k, 1, row) / jax.lax.dynamic_index_in_dim(row, k, 0)
        others = jnp.where((rows == k)[None], 0, M) - column[:, None] * row[None]
        M = jnp.where(is_pivot[:, None], row[None], others)
        return M, used | is_pivot, jax.lax.dynamic_update_index_in_dim(pivots, pivot.astype(jnp.int32), k, 0)

    none = (matrix[0] > 0) & False  # varies over a mesh as the matrices do, which `shard_map` asks of a loop
    inverse, _, pivots = jax.lax.fori_loop(0, n, eliminate, (matrix, none, none.astype(jnp.int32)))

    def solve_once(rhs: jax.Array) -> jax.Array:
        solved = times(inverse, jnp.take_along_axis(rhs, pivots, axis=0))
        return jnp.take_along_axis(solved, pivots, axis=0)

    def solve(rhs: jax.Array) -> jax.Array:
        solved = solve_once(rhs)
        return solved + solve_once(rhs - times(matrix, solved))  # an inverse alone is less exact than factors are

    return solve
