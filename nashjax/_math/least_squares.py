"""Small least-squares problems, one for each game: actions and coefficients first, batch axes last."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from nashjax._math.linear import product

RIDGE = {"float64": 1e-7, "float32": 1e-6}
"""Weight of the squared coefficients, relative to the mean squared length of the columns; above rounding."""


def fit(columns: jax.Array, target: jax.Array) -> jax.Array:
    """Return the `w` that minimizes `|target - columns w|^2 + ridge |w|^2`, from its normal equations.

    Dependent columns share their weight because of the ridge. A sum over the actions leaves `k x k` numbers.

    Args:
      columns: `[n, k, *batch]`, `k >= 1`; a column of zeros gets the coefficient 0.
      target: `[n, *batch]`.

    Returns:
      `[k, *batch]`; 0 where the solution is not finite.
    """
    k = columns.shape[1]
    gram = product("ni...,nj...->ij...", columns, columns)
    projection = product("ni...,n...->i...", columns, target)
    diagonal = jnp.eye(k, dtype=bool).reshape(k, k, *(1,) * (gram.ndim - 2))
    mean = jnp.sum(jnp.where(diagonal, gram, 0), axis=(0, 1)) / k
    ridge = jnp.maximum(RIDGE[gram.dtype.name] * mean, jnp.finfo(gram.dtype).tiny)[None, None]
    found = _solve_positive(gram + jnp.where(diagonal, ridge, 0), projection, ridge[0] / 2)
    return jnp.where(jnp.isfinite(jnp.sum(found, axis=0, keepdims=True)), found, 0)


def _solve_positive(matrix: jax.Array, rhs: jax.Array, least_pivot: jax.Array) -> jax.Array:
    """Solve positive definite systems by Gauss-Jordan elimination without pivoting, all of a batch side by side.

    LAPACK is not called: two batched factorizations in one program can wait for each other forever (jaxlib 0.10.2).

    Args:
      matrix: `[k, k, *batch]`.
      rhs: `[k, *batch]`.
      least_pivot: `[1, *batch]`; a column with a smaller pivot depends on those before it and gets the coefficient 0.

    Returns:
      `[k, *batch]`.
    """
    k = len(matrix)
    rows = jnp.arange(k).reshape(k, *(1,) * (matrix.ndim - 1))

    def eliminate(j: jax.Array, augmented: jax.Array) -> jax.Array:
        row = jax.lax.dynamic_index_in_dim(augmented, j, 0)
        column = jax.lax.dynamic_index_in_dim(augmented, j, 1)
        pivot = jax.lax.dynamic_index_in_dim(row, j, 1)
        row = row / jnp.where(pivot >= least_pivot[None], pivot, jnp.inf)
        return jnp.where(rows == j, row, augmented - column * row)

    return jax.lax.fori_loop(0, k, eliminate, jnp.concatenate([matrix, rhs[:, None]], axis=1))[:, k]
