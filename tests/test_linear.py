import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nashjax as nj
from nashjax import linear


@pytest.mark.parametrize(("n", "batch"), [(2, (3,)), (5, (2, 4)), (16, (7,)), (17, (3,)), (6, ())])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_way_to_solve_agrees_with_numpy(n, batch, dtype):
    rng = np.random.default_rng(n)
    M = rng.normal(size=(*batch, n, n))
    if batch:
        M[(0,) * len(batch)] = np.eye(n)[::-1]  # no pivot where it is looked for first
    rhs = rng.normal(size=(n, *batch))
    expected = np.moveaxis(np.linalg.solve(M, np.moveaxis(rhs, 0, -1)[..., None])[..., 0], -1, 0)
    for factorise in (linear.factorise, linear._factorise_all):  # the second is that of accelerators
        solved = jax.jit(lambda M, b, factorise=factorise: factorise(M)(b))(M.astype(dtype), rhs.astype(dtype))
        assert solved.dtype == dtype
        error = np.abs(solved - expected) / (np.linalg.cond(M) * np.abs(expected).max(0))
        assert error.max() < 4 * np.finfo(dtype).eps


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
