import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nashjax as nj
from nashjax._math import linear

WAYS = ["_ELIMINATION", "_LU_ONE_BY_ONE", "_BATCHED_LU"]  # the last is that of accelerators


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("n", "batch"), [(2, (3,)), (5, (2, 4)), (17, (3,)), (6, ())])
def test_every_way_to_solve_agrees_with_numpy(monkeypatch, way, n, batch):
    monkeypatch.setattr(linear, "_choose", lambda num_actions: getattr(linear, way))
    rng = np.random.default_rng(n)
    M = rng.normal(size=(*batch, n, n))
    if batch:
        M[(0,) * len(batch)] = np.eye(n)[::-1]  # no pivot where it is looked for first
    rhs = rng.normal(size=(n, *batch))

    def solve_both(M, b):
        """The solutions of the systems and of the transposed ones."""
        solved, transpose = jax.vjp(linear.factorize(M), b)
        return solved, transpose(b)[0]

    for dtype in ("float32", "float64"):
        found = jax.jit(solve_both)(M.astype(dtype), rhs.astype(dtype))
        for solved, matrix in zip(found, (M, np.swapaxes(M, -1, -2)), strict=True):
            expected = np.moveaxis(np.linalg.solve(matrix, np.moveaxis(rhs, 0, -1)[..., None])[..., 0], -1, 0)
            assert solved.dtype == dtype
            error = np.abs(solved - expected) / (np.linalg.cond(M) * np.abs(expected).max(0))
            assert error.max() < 4 * np.finfo(dtype).eps


@pytest.mark.parametrize("way", WAYS)
def test_mapped_systems_and_their_derivatives_agree_with_numpy(monkeypatch, way):
    monkeypatch.setattr(linear, "_choose", lambda num_actions: getattr(linear, way))
    rng = np.random.default_rng(0)
    M, b, change = rng.normal(size=(3, 4, 4)) + 3 * np.eye(4), rng.normal(size=(2, 4)), rng.normal(size=(3, 4, 4))

    def solve(M, b):
        return linear.factorize(M)(b)

    @jax.jit
    def all_at_once(M, b, change):
        of_all = jax.vmap(jax.vmap(solve, (None, 0)), (0, None))(M, b)
        forward = jax.vmap(lambda M, change: jax.jvp(lambda M: solve(M, b[0]), (M,), (change,))[1])(M, change)
        backward = jax.vmap(jax.grad(lambda M: solve(M, b[0])[1]))(M)
        second = jax.vmap(jax.hessian(lambda t, M, change: solve(M + t * change, b[0])[2]), (None, 0, 0))(
            0.0, M, change
        )
        return of_all, forward, backward, second

    of_all, forward, backward, second = all_at_once(M, b, change)
    inverse = np.linalg.inv(M)
    np.testing.assert_allclose(of_all, np.einsum("mij,kj->mki", inverse, b), rtol=1e-12)
    x = inverse @ b[0]
    derivative = -np.einsum("mij,mjk,mk->mi", inverse, change, x)
    np.testing.assert_allclose(forward, derivative, rtol=1e-11)
    np.testing.assert_allclose(np.sum(backward * change, (1, 2)), derivative[:, 1], rtol=1e-11)
    np.testing.assert_allclose(second, -2 * np.einsum("mij,mjk,mk->mi", inverse, change, derivative)[:, 2], rtol=1e-10)


@pytest.mark.parametrize("n", [6, 20])
def test_derivatives_of_a_batch_are_those_of_its_games(n):
    P = np.asarray(nj.games.random_game(jax.random.key(n), n, (3,)).preferences)
    weights = np.random.default_rng(0).normal(size=(3, n))

    def value(P, weights):
        solution = nj.solve(P, 0.05, tol=1e-26, algorithm=nj.NashMP())
        return jnp.sum(weights * solution.log_policy)

    gradient = jax.jit(jax.grad(value))
    whole = gradient(P, weights)
    for k in range(3):
        alone = gradient(P[k], weights[k])
        np.testing.assert_allclose(whole[k], alone, atol=1e-8 * np.abs(alone).max())
