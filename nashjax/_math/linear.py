"""The linear systems of Newton's method, of interior points and of derivatives: `I` less a skew-symmetric matrix."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import gmres

from nashjax._math import layout, simplex

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


def product(subscripts: str, *arrays: jax.Array) -> jax.Array:
    """Compute `einsum` in full precision: a certificate computed in bfloat16 or TF32 is false."""
    return jnp.einsum(subscripts, *arrays, precision=jax.lax.Precision.HIGHEST)


def times(matrices: jax.Array, vectors: jax.Array) -> jax.Array:
    """Multiply small matrices `[n, n, *batch]` by vectors `[n, *batch]`, all at once.

    Not by one product for each matrix: the calls would take longer than the products.
    """
    return functools.reduce(operator.add, [matrices[:, j] * vectors[j][None] for j in range(matrices.shape[1])])


def skew_system(A: jax.Array, scale: jax.Array) -> jax.Array:
    """Return `I - S A S` with `S = diag(scale)`, for a skew-symmetric `A`; the inverse has norm <= 1.

    Args:
      A: `[*batch, n, n]`, of as many batch axes as `scale` or fewer.
      scale: `[n, *batch]`.

    Returns:
      `[*batch, n, n]`.
    """
    s = layout.actions_last(scale)
    scaled = _scale(s, A)
    return simplex.to_rank(jnp.eye(s.shape[-1], dtype=s.dtype), scaled) - scaled


def _scale(s: jax.Array, matrix: jax.Array) -> jax.Array:
    """Return `S M S` with `S = diag(s)`, `[*batch, n]`, and `[*batch, n, n]`, of as many batch axes or fewer."""
    rows = s[..., :, None]
    return rows * simplex.to_rank(matrix, rows) * s[..., None, :]


def projected_skew_system(A: jax.Array, root: jax.Array, image: jax.Array, weight: jax.Array) -> jax.Array:
    """Return `I - weight Pi S A S Pi`, `S = diag(root)`, `Pi` the projector orthogonal to `root`.

    Args:
      A: skew-symmetric, `[*batch, n, n]`.
      root: a unit vector, `[n, *batch]`.
      image: `S A S root`, `[n, *batch]`.
      weight: `[]` or `[*batch]`.

    Returns:
      `[*batch, n, n]`.
    """
    q, Kq = layout.actions_last(root), layout.actions_last(image)
    K = _scale(q, A)
    K = K + q[..., :, None] * Kq[..., None, :] - Kq[..., :, None] * q[..., None, :]
    weight = simplex.to_rank(jnp.asarray(weight)[..., None, None], K)
    return simplex.to_rank(jnp.eye(q.shape[-1], dtype=q.dtype), K) - weight * K


def support_system(A: jax.Array, support: jax.Array) -> jax.Array:
    """Return `A + 1 1^T` on the actions of `support`, bool `[n, *batch]`, and the identity on all other actions.

    Args:
      A: `[*batch, n, n]`.
      support: bool `[n, *batch]`.

    Returns:
      `[*batch, n, n]`.
    """
    inside = layout.actions_last(support)
    both = inside[..., :, None] & inside[..., None, :]
    identity = jnp.eye(inside.shape[-1], dtype=A.dtype)
    return jnp.where(both, simplex.to_rank(A + 1, both), simplex.to_rank(identity, both))


def solve_projected_by_queries(
    multiply_by_A: Callable[[jax.Array], jax.Array], root: jax.Array, weight: jax.Array, rhs: jax.Array
) -> jax.Array:
    """Solve the system of `projected_skew_system` by GMRES, which multiplies by `A` once for each of its steps.

    All games of a batch share one Krylov space, in which each right-hand side is a unit vector, so that a residual of
    the batch bounds that of each game. The solution is NaN where the residual stays above `LARGEST_RESIDUAL`.
    """
    # A game that is not valid is NaN throughout, which would spread over that space.
    playing = jnp.isfinite(jnp.sum(root, axis=0))
    playing = simplex.to_rank(playing, root)
    q, weight = jnp.where(playing, root, 0), simplex.to_rank(weight, root)

    def project(z: jax.Array) -> jax.Array:
        return z - q * jnp.sum(q * z, axis=0, keepdims=True)

    def multiply(z: jax.Array, sign: float = 1.0) -> jax.Array:
        return z - sign * weight * project(q * jnp.where(playing, multiply_by_A(q * project(z)), 0))

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


def factorize(matrix: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Factorize `[*batch, n, n]` once and return a function that solves for right-hand sides `[n, *batch]`.

    The solutions have derivatives of any order in the matrix and the right-hand side, in both modes. Under `vmap` the
    mapped axis joins the batch, so that a mapped call runs the same kernels as a call with a batch.
    """
    way = _choose(matrix.shape[-1])
    factors = way.factorize(jax.lax.stop_gradient(matrix))

    def solve_with(b: jax.Array, *, transposed: bool) -> jax.Array:
        solve = way.solve_transposed if transposed else way.solve
        columns = layout.actions_last(b)[..., None]
        return layout.actions_first(solve(jax.lax.stop_gradient(matrix), factors, columns)[..., 0])

    def solve(rhs: jax.Array) -> jax.Array:
        return jax.lax.custom_linear_solve(
            functools.partial(product, "...ij,j...->i...", matrix),
            rhs,
            solve=lambda _, b: solve_with(b, transposed=False),
            transpose_solve=lambda _, b: solve_with(b, transposed=True),
        )

    return solve


def singular_values(matrix: jax.Array) -> jax.Array:
    """Return the singular values of `[*batch, n, n]`, `[*batch, n]`, on a processor one matrix after the other."""
    if jax.default_backend() != "cpu":
        return jnp.linalg.svd(matrix, compute_uv=False)
    n, batch = matrix.shape[-1], matrix.shape[:-2]
    found = jax.lax.map(_singular_values_of_one, matrix.reshape(-1, n, n))
    return found.reshape(*batch, n)


@jax.custom_batching.sequential_vmap
def _singular_values_of_one(matrix: jax.Array) -> jax.Array:
    return jnp.linalg.svd(matrix, compute_uv=False)


Factors = tuple[jax.Array, jax.Array]
"""A factorization: an array `[*batch, n, n]` and a permutation, int32 `[*batch, n]`."""


class _Way(NamedTuple):
    """A way to factorize and solve; the batch axes come first, and `vmap` adds its axis to them.

    Attributes:
      factorize: from matrices `[*batch, n, n]` to factors.
      solve: from matrices, their factors and right-hand sides `[*batch, n, k]` to solutions of the same shape.
      solve_transposed: as `solve`, for the transposed matrices.
    """

    factorize: Callable[[jax.Array], Factors]
    solve: Callable[[jax.Array, Factors, jax.Array], jax.Array]
    solve_transposed: Callable[[jax.Array, Factors, jax.Array], jax.Array]


def _choose(num_actions: int) -> _Way:
    """Choose by the number of actions alone: `vmap` can still add to the batch."""
    if jax.default_backend() != "cpu":
        return _BATCHED_LU
    return _ELIMINATION if num_actions <= MOST_ELIMINATED else _LU_ONE_BY_ONE


def _mapped_axis_joins_batch(factorize: Callable[..., Factors], solve: Callable[..., jax.Array]) -> _Way:
    """Give a way its rules for `vmap`."""

    def joined(function: Callable[..., Any]) -> Any:
        mappable = jax.custom_batching.custom_vmap(function)

        @mappable.def_vmap
        def rule(axis_size: int, in_batched: Any, *arguments: Any) -> tuple[Any, Any]:
            leaves, structure = jax.tree.flatten(arguments)
            batched = jax.tree.leaves(in_batched)
            if len(leaves) > 1 and not any(batched[:-1]):  # further right-hand sides of the same matrices
                solved = mappable(*arguments[:-1], _as_columns(leaves[-1]))
                return _from_columns(solved, axis_size), True
            whole = [
                leaf if own else jnp.broadcast_to(leaf, (axis_size, *leaf.shape))
                for leaf, own in zip(leaves, batched, strict=True)
            ]
            found = mappable(*jax.tree.unflatten(structure, whole))
            return found, jax.tree.map(lambda _: True, found)

        return mappable

    return _Way(
        joined(factorize),
        joined(functools.partial(solve, transposed=False)),
        joined(functools.partial(solve, transposed=True)),
    )


def _as_columns(rhs: jax.Array) -> jax.Array:
    """From `[m, *batch, n, k]` to `[*batch, n, m k]`."""
    moved = jnp.moveaxis(rhs, 0, -2)
    return moved.reshape(*moved.shape[:-2], -1)


def _from_columns(solved: jax.Array, m: int) -> jax.Array:
    """From `[*batch, n, m k]` to `[m, *batch, n, k]`."""
    return jnp.moveaxis(solved.reshape(*solved.shape[:-1], m, -1), -2, 0)


def _factorize_all(matrix: jax.Array) -> Factors:
    """Factorize many matrices by one call of the kernel `lu`."""
    lu, _, permutation = jax.lax.linalg.lu(matrix)
    return lu, permutation


def _solve_all(matrix: jax.Array, factors: Factors, rhs: jax.Array, *, transposed: bool) -> jax.Array:
    return _solve_permuted(factors, rhs, _solve_triangular, transposed=transposed)


def _solve_permuted(
    factors: Factors, rhs: jax.Array, solve_triangular: Callable[..., jax.Array], *, transposed: bool
) -> jax.Array:
    """Solve by `lu`, the factorization of the matrix whose rows are permuted."""
    lu, permutation = factors
    if transposed:
        solved = solve_triangular(lu, rhs, transposed=True)
        return jnp.take_along_axis(solved, jnp.argsort(permutation)[..., None], axis=-2)
    return solve_triangular(lu, jnp.take_along_axis(rhs, permutation[..., None], axis=-2), transposed=False)


def _solve_triangular(lu: jax.Array, rhs: jax.Array, *, transposed: bool) -> jax.Array:
    solve = functools.partial(jax.lax.linalg.triangular_solve, lu, left_side=True, transpose_a=transposed)
    if transposed:
        return solve(solve(rhs, lower=False), lower=True, unit_diagonal=True)
    return solve(solve(rhs, lower=True, unit_diagonal=True), lower=False)


def _factorize_each(matrix: jax.Array) -> Factors:
    """Factorize one matrix after the other.

    On a processor, jaxlib's kernels for many matrices wait for threads of a pool while they occupy one of them. A
    program with two independent factorizations, or a process that runs as many programs as there are cores, would
    never end (jaxlib 0.10 and 0.11). On two cores these kernels are no faster either.
    """
    n, batch = matrix.shape[-1], matrix.shape[:-2]
    lu, permutation = jax.lax.map(_factorize_all, matrix.reshape(-1, n, n))
    return lu.reshape(matrix.shape), permutation.reshape(*batch, n)


def _solve_each(matrix: jax.Array, factors: Factors, rhs: jax.Array, *, transposed: bool) -> jax.Array:
    def solve_triangular(lu: jax.Array, rhs: jax.Array, *, transposed: bool) -> jax.Array:
        each = (lu.reshape(-1, *lu.shape[-2:]), rhs.reshape(-1, *rhs.shape[-2:]))
        solved = jax.lax.map(lambda one: _solve_triangular(*one, transposed=transposed), each)
        return solved.reshape(rhs.shape)

    return _solve_permuted(factors, rhs, solve_triangular, transposed=transposed)


def _invert(matrix: jax.Array) -> Factors:
    """Invert small matrices, all side by side by Gauss-Jordan elimination; a single one by LAPACK.

    The factors are an inverse `V` whose rows and columns are permuted: the solution of `M x = b` is
    `x[i] = (V b[pivots])[pivots[i]]`.
    """
    n, batch = matrix.shape[-1], matrix.shape[:-2]
    if math.prod(batch) > 1:
        inverse, pivots = _eliminate(layout.actions_first(matrix, 2))
        return layout.actions_last(inverse, 2), layout.actions_last(pivots)
    identity = jnp.eye(n, dtype=matrix.dtype)
    one = matrix.reshape(n, n)
    inverse = _solve_all(one, _factorize_all(one), identity, transposed=False)
    return inverse.reshape(matrix.shape), jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (*batch, n))


def _solve_by_inverse(matrix: jax.Array, factors: Factors, rhs: jax.Array, *, transposed: bool) -> jax.Array:
    inverse, pivots = factors
    places = jnp.argsort(pivots) if transposed else pivots
    # Actions first, then the columns, then the batch: `[n, n, 1, *batch]`, `[n, 1, *batch]`, `[n, k, *batch]`.
    M, V = (layout.actions_first(each.mT if transposed else each, 2)[:, :, None] for each in (matrix, inverse))
    at = layout.actions_first(places)[:, None]
    b = layout.actions_first(rhs, 2)

    def solve_once(b: jax.Array) -> jax.Array:
        solved = times(V, jnp.take_along_axis(b, at, axis=0))
        return jnp.take_along_axis(solved, at, axis=0)

    solved = solve_once(b)
    solved = solved + solve_once(b - times(M, solved))  # an inverse alone is less exact than factors are
    return layout.actions_last(solved, 2)


def _eliminate(matrix: jax.Array) -> Factors:
    """Invert `[n, n, *batch]` by Gauss-Jordan elimination with partial pivoting, each operation on all at once.

    Rows are not exchanged: `pivots[k]`, `[n, *batch]`, tells which row serves column `k`, as good as an exchange.
    """
    n = len(matrix)
    rows = jnp.arange(n).reshape(n, *(1,) * (matrix.ndim - 2))

    def eliminate(k: jax.Array, carried: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        M, used, pivots = carried
        column = jax.lax.dynamic_index_in_dim(M, k, 1, keepdims=False)
        size = jnp.where(used, -1, jnp.abs(column))
        pivot = jnp.min(jnp.where(size == jnp.max(size, axis=0, keepdims=True), rows, n), axis=0, keepdims=True)
        is_pivot = rows == pivot
        row = jnp.sum(jnp.where(is_pivot[:, None], M, 0), axis=0)
        # What has been eliminated is a column of the identity: its place keeps the column of the inverse instead.
        row = jnp.where(rows == k, 1, row) / jax.lax.dynamic_index_in_dim(row, k, 0)
        others = jnp.where((rows == k)[None], 0, M) - column[:, None] * row[None]
        M = jnp.where(is_pivot[:, None], row[None], others)
        return M, used | is_pivot, jax.lax.dynamic_update_index_in_dim(pivots, pivot.astype(jnp.int32), k, 0)

    none = (matrix[0] > 0) & False  # varies over a mesh as the matrices do, which `shard_map` asks of a loop
    inverse, _, pivots = jax.lax.fori_loop(0, n, eliminate, (matrix, none, none.astype(jnp.int32)))
    return inverse, pivots


_BATCHED_LU = _mapped_axis_joins_batch(_factorize_all, _solve_all)
_LU_ONE_BY_ONE = _mapped_axis_joins_batch(_factorize_each, _solve_each)
_ELIMINATION = _mapped_axis_joins_batch(_invert, _solve_by_inverse)
