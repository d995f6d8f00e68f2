"""Derivatives of equilibria against central differences."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nashjax as nj

N = 6
P = np.asarray(nj.games.random_game(jax.random.key(0), N).preferences)
rng = np.random.default_rng(0)
REFERENCE = rng.dirichlet(np.ones(N))
WEIGHTS = rng.standard_normal(N)


@jax.jit
def value(preferences, beta, reference):
    return jnp.sum(WEIGHTS * nj.solve(preferences, beta, reference=reference, tol=1e-14).log_policy)


gradients = jax.jit(jax.grad(value, (0, 1, 2)))
EXACTLY: dict[str, Any] = {"algorithm": nj.NashMP(), "tol": 1e-28}
"""What has derivatives is the policy, whatever found it: here the method whose programs are the smallest."""


@jax.jit
def value_by_first_order(preferences, beta, reference):
    return jnp.sum(WEIGHTS * nj.solve(preferences, beta, reference=reference, **EXACTLY).log_policy)


def central_difference(f, size: float) -> float:
    """Of `f` at 0, with the error of the fourth order."""
    return (8 * (f(size) - f(-size)) - (f(2 * size) - f(-2 * size))) / (12 * size)


@pytest.mark.parametrize("beta", [1.0, 0.1, 0.01, 1e-3])
def test_gradients_are_central_differences(beta):
    in_game, in_beta, in_reference = gradients(P, beta, REFERENCE)
    skew = rng.standard_normal((N, N))
    skew = skew - skew.T
    # `P - P^T` is what counts: a change that is not skew-symmetric changes nothing.
    np.testing.assert_allclose(in_game, -in_game.T, atol=1e-9 * np.abs(in_game).max())
    numeric = central_difference(lambda h: value(P + h * skew, beta, REFERENCE), 2e-4 * beta)
    np.testing.assert_allclose(np.sum(in_game * skew), numeric, rtol=1e-6)
    numeric = central_difference(lambda h: value(P, beta * (1 + h), REFERENCE), 1e-3)
    np.testing.assert_allclose(in_beta * beta, numeric, rtol=1e-6)
    shift = rng.standard_normal(N) * REFERENCE
    shift -= REFERENCE * shift.sum()
    numeric = central_difference(lambda h: value(P, beta, REFERENCE + h * shift), 1e-3)
    np.testing.assert_allclose(np.sum(in_reference * shift), numeric, rtol=1e-6)


@pytest.mark.parametrize("copies", [[0, 0, 1, 1], [0, 0, 1, 2]])
def test_gradients_where_payoffs_tie(copies):
    """Copies of actions earn exactly the same, and some are the best."""
    base = P[:3, :3]
    tied = base[copies][:, copies]
    reference = np.array([0.3, 0.2, 0.4, 0.1])
    weights = WEIGHTS[:4]
    skew = np.random.default_rng(3).standard_normal((4, 4))
    skew -= skew.T

    def total(P):
        return jnp.sum(weights * nj.solve(P, 0.1, reference=reference, **EXACTLY).log_policy)

    numeric = central_difference(lambda h: total(tied + h * skew), 1e-4)
    np.testing.assert_allclose(np.sum(jax.grad(total)(tied) * skew), numeric, rtol=1e-6)
    flat = central_difference(lambda h: total(np.full((4, 4), 0.5) + h * skew), 1e-4)
    np.testing.assert_allclose(np.sum(jax.grad(total)(np.full((4, 4), 0.5)) * skew), flat, rtol=1e-6)


def test_gradients_reach_the_parameters_of_the_matrix():
    """Embeddings of items feed the matrix; the derivative is that of the whole."""
    embeddings = rng.standard_normal((2, N, 3))

    def total(x):
        blades, chests = x
        return value_by_first_order(jax.nn.sigmoid(blades @ chests.T - chests @ blades.T), 0.05, REFERENCE)

    gradient = jax.grad(total)(embeddings)
    direction = rng.standard_normal(embeddings.shape)
    numeric = central_difference(lambda h: total(embeddings + h * direction), 1e-4)
    np.testing.assert_allclose(np.sum(gradient * direction), numeric, rtol=1e-6)


def test_second_derivatives_forward_mode_and_vmap():
    f = lambda b: value_by_first_order(P, b, REFERENCE)  # noqa: E731
    slope = jax.jit(jax.grad(f))
    numeric = central_difference(lambda h: slope(0.05 + h), 1e-4)
    np.testing.assert_allclose(jax.hessian(f)(0.05), numeric, rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(f, (0.05,), (1.0,))[1], slope(0.05), rtol=1e-9)
    betas = jnp.array([0.05, 0.1])
    np.testing.assert_allclose(jax.vmap(slope)(betas), [slope(0.05), slope(0.1)], rtol=1e-9)
    # The same from one batched solve.
    batched = jax.grad(lambda b: jnp.sum(nj.solve(P, b, reference=REFERENCE, **EXACTLY).log_policy @ WEIGHTS))(betas)
    np.testing.assert_allclose(batched, jax.vmap(slope)(betas), rtol=1e-8)


def test_excluded_actions_have_no_derivative():
    reference = np.array([0.3, 0.3, 0.4, 0, 0, 0])
    gradient = jax.grad(lambda P: jnp.sum(nj.solve(P, 0.1, reference=reference, **EXACTLY).policy * WEIGHTS))(P)
    assert np.isfinite(gradient).all()
    assert (gradient[3:] == 0).all()
    assert (gradient[:, 3:] == 0).all()
    alone = jax.grad(lambda P: jnp.sum(nj.solve(P, 0.1, reference=reference[:3], **EXACTLY).policy * WEIGHTS[..., :3]))(
        P[:3, :3]
    )
    np.testing.assert_allclose(gradient[:3, :3], alone, rtol=1e-8, atol=1e-12)


def test_a_game_without_a_matrix_says_what_is_missing():
    @jax.tree_util.register_pytree_node_class
    class Rank1(nj.Game):
        batch_shape = ()  # pyright: ignore

        def __init__(self, u):
            self.u = u

        num_actions = 4  # pyright: ignore

        def payoffs(self, weights):
            v = jnp.arange(4.0) / 8
            return weights.sum(0) / 2 + self.u * (v @ weights) - v * (self.u @ weights)

        def tree_flatten(self):
            return (self.u,), None

        @classmethod
        def tree_unflatten(cls, _, leaves):
            return cls(*leaves)

    u = jnp.array([0.1, -0.2, 0.3, 0.0])
    dense = jax.vmap(Rank1(u).payoffs, 1, 1)(jnp.eye(4))
    by_hand = nj.solve(dense, 0.1, algorithm=nj.AdaptiveNashMP()).policy
    np.testing.assert_allclose(nj.solve(Rank1(u), 0.1).policy, by_hand, atol=1e-9)
    found = jax.grad(lambda u: nj.solve(Rank1(u), 0.1, tol=1e-14).policy[0])(u)
    expected = jax.grad(lambda u: nj.solve(jax.vmap(Rank1(u).payoffs, 1, 1)(jnp.eye(4)), 0.1, **EXACTLY).policy[0])(u)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(
        ValueError,
        match=r"game must be a game with a matrix, dense\(\), for InteriorPoint, got an instance of Rank1",
    ):
        nj.solve(Rank1(u), 0.0, algorithm=nj.InteriorPoint())
