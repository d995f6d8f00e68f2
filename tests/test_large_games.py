"""Games without a matrix, against the same games with theirs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from independent import equilibrium

import nashjax as nj
from nashjax.games import embedding


def embedding_game(n: int, d: int, batch: tuple[int, ...] = (), seed: int = 0, scale: float = 1.0):
    """A game, and its matrix by numpy."""
    rng = np.random.default_rng(seed)
    x, s = rng.normal(size=(*batch, n, d)), rng.normal(size=(*batch, d, d)) * scale
    s = s - np.swapaxes(s, -1, -2)
    logits = x @ s @ np.swapaxes(x, -1, -2)
    P = 1 / (1 + np.exp(-logits))
    return nj.games.EmbeddingGame(jnp.asarray(x), jnp.asarray(s)), (P + 1 - np.swapaxes(P, -1, -2)) / 2


def low_rank_game(n: int, r: int, batch: tuple[int, ...] = (), seed: int = 0):
    rng = np.random.default_rng(seed)
    left, right = rng.uniform(-1, 1, (2, *batch, n, r)) / (2 * np.sqrt(r))
    P = 0.5 + left @ np.swapaxes(right, -1, -2) - right @ np.swapaxes(left, -1, -2)
    return nj.games.LowRankGame(jnp.asarray(left), jnp.asarray(right)), P


@settings(deadline=None, max_examples=15)
@example(n=3, d=2, tile=7, seed=0)
@example(n=7, d=2, tile=7, seed=0)
@example(n=15, d=2, tile=7, seed=0)
@given(n=st.integers(2, 40), d=st.integers(1, 5), tile=st.integers(1, 17), seed=st.integers(0, 99))
def test_tiles_of_any_size_answer_as_the_matrix(n, d, tile, seed):
    game, P = embedding_game(n, d, seed=seed)
    weights = np.random.default_rng(seed).normal(size=(n, 3))  # a query is linear in any real vector
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(embedding.TILE, "cpu", tile)
        answer = game.payoffs(jnp.asarray(weights))
        transposed = jax.linear_transpose(game.payoffs, weights)(jnp.asarray(weights))[0]
    np.testing.assert_allclose(answer, P @ weights, atol=1e-12)
    np.testing.assert_allclose(transposed, P.T @ weights, atol=1e-12)


@pytest.mark.parametrize("make", [embedding_game, low_rank_game])
@pytest.mark.parametrize("batch", [(), (3,), (2, 1)])
def test_queries_of_batches(make, batch):
    game, P = make(7, 3, batch)
    assert (game.num_actions, game.batch_shape) == (7, batch)
    weights = np.random.default_rng(1).normal(size=(7, *batch))
    expected = np.moveaxis(np.einsum("...ij,j...->...i", P, weights), -1, 0)
    np.testing.assert_allclose(game.payoffs(jnp.asarray(weights)), expected, atol=1e-12)


@pytest.mark.parametrize("make", [embedding_game, low_rank_game])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_solves_and_certificates_are_those_of_the_matrix(make, dtype):
    game, P = make(60, 4, (3,))
    game = jax.tree.map(lambda x: x.astype(dtype), game)
    reference = np.random.default_rng(0).dirichlet(np.ones(60))
    reference[:5] = 0
    reference /= reference.sum()
    beta = np.array([0.3, 0.1, 0.03])
    found = nj.solve(game, beta, reference=reference, tol=1e-6)
    assert found.policy.dtype == dtype
    assert found.converged.all()
    exploitability = nj.metrics.exploitability(P, np.asarray(found.policy, np.float64), beta, reference)
    np.testing.assert_allclose(found.exploitability, exploitability, atol=1e-7)
    exact = nj.solve(P, beta, reference=reference, tol=1e-14)
    assert (nj.metrics.kl_divergence(found.policy, exact.policy) <= found.kl_bound + 1e-7).all()
    both = nj.solve(game, beta[:, None], reference=reference, tol=1e-6)
    assert both.policy.shape == (3, 3, 60)
    np.testing.assert_allclose(both.policy[1, 1], found.policy[1], atol=1e-3)


def test_a_game_of_low_rank_logits_is_an_embedding_game():
    """`random_game(kind="low_rank")` with its blades and chests as features."""
    key, n, rank = jax.random.key(5), 9, 2
    blades, chests = jax.random.normal(key, (2, n, rank), jnp.float32).astype(float)
    features = jnp.concatenate([blades, chests], axis=-1)
    one, zero = jnp.eye(rank), jnp.zeros((rank, rank))
    skew = jnp.block([[zero, one], [-one, zero]]) / np.sqrt(2 * rank)
    P = nj.games.random_game(key, n, kind="low_rank", rank=rank).preferences
    np.testing.assert_allclose(nj.games.EmbeddingGame(features, skew).payoffs(jnp.eye(n)), P, atol=1e-12)


def test_sums_over_very_many_actions_are_not_rounded_away():
    """In float32 a sum over 300,000 actions is as exact as one over a few."""
    rng = np.random.default_rng(0)
    left, right = rng.uniform(0, 1, (2, 300_000, 3)) / np.sqrt(6)
    policy = rng.dirichlet(np.ones(300_000))
    game = nj.games.LowRankGame(jnp.asarray(left, jnp.float32), jnp.asarray(right, jnp.float32))
    found = np.asarray(game.payoffs(jnp.asarray(policy, jnp.float32)), np.float64)
    exact = left @ (right.T @ policy) - right @ (left.T @ policy)
    margins = found - found.mean()  # a constant added to payoffs changes nothing
    assert np.abs(margins - (exact - exact.mean())).max() < 5e-7


def of_factors(make, factors):
    first, second = factors
    if make is low_rank_game:
        return 0.5 + first @ second.T - second @ first.T
    skew = (second - second.T) / 2
    return 0.5 + jnp.tanh(first @ skew @ first.T / 2) / 2


@pytest.mark.parametrize(("make", "beta"), [(embedding_game, 0.1), (low_rank_game, 0.01)])
def test_derivatives_without_a_matrix(make, beta, monkeypatch):
    """Forward, reverse and second, by queries, against those of the matrix game."""
    monkeypatch.setitem(embedding.TILE, "cpu", 7)
    game, _ = make(20, 3)
    factors = tuple(jax.tree.leaves(game))
    value = jnp.cos(jnp.arange(20.0))

    def by_queries(factors, beta):
        return nj.solve(type(game)(*factors), beta, tol=1e-22).policy @ value

    def by_matrix(factors, beta):
        matrix = of_factors(make, factors)
        return nj.solve(matrix, beta, tol=1e-22, algorithm=nj.AdaptiveNashMP()).policy @ value

    for derivative in (jax.grad, jax.jacfwd):
        found, expected = (derivative(f, argnums=(0, 1))(factors, beta) for f in (by_queries, by_matrix))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), found, expected)
    second, expected = (jax.grad(jax.grad(f, argnums=1), argnums=1)(factors, beta) for f in (by_queries, by_matrix))
    np.testing.assert_allclose(second, expected, rtol=1e-6)


def test_a_game_that_is_not_valid_spoils_no_other_derivative():
    game, _ = embedding_game(6, 2, (3,))
    bad = jnp.zeros((3, 6, 2)).at[1, 2, 0].set(jnp.nan)

    def policy(shift):
        features = game.features + shift + bad
        return nj.solve(nj.games.EmbeddingGame(features, game.skew), 0.1, tol=1e-20).policy

    found = jax.jacfwd(policy)(0.0)
    good = jax.jacfwd(lambda shift: nj.solve(of_factors(embedding_game, (game.features[2] + shift, game.skew[2])), 0.1,
                                             tol=1e-20).policy)(0.0)  # fmt: skip
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[2], good, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize(("make", "action"), [(embedding_game, 0), (embedding_game, 3), (low_rank_game, 0)])
def test_a_game_that_is_not_valid_spoils_no_other_solve(make, action, bad):
    """Wherever it is: also the first number of the first game."""
    game, _ = make(6, 2, (3,))
    first, second = jax.tree.leaves(game)
    spoilt = type(game)(first.at[0, action, 0].set(bad), second)
    found = jax.jit(lambda game: nj.solve(game, 0.1))(spoilt)
    assert found.status.tolist() == [nj.Status.INVALID, nj.Status.CONVERGED, nj.Status.CONVERGED]
    np.testing.assert_allclose(found.policy[1:], nj.solve(game, 0.1).policy[1:], atol=1e-6)


@pytest.mark.parametrize("make", [embedding_game, low_rank_game])
def test_features_of_half_precision_are_computed_with_in_full(make):
    """A certificate of what bfloat16 makes of the margins would be one of another game."""
    game, _ = make(40, 4)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), game)
    single = jax.tree.map(lambda x: x.astype(jnp.float32), half)
    weights = jnp.full(40, 1 / 40, jnp.float32)
    np.testing.assert_allclose(half.payoffs(weights), single.payoffs(weights), rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", [embedding_game, low_rank_game])
def test_a_batch_of_no_games(make):
    game, _ = make(5, 2, (0,))
    assert nj.solve(game, 0.1).policy.shape == (0, 5)


def test_newton_without_a_matrix():
    game, P = embedding_game(30, 4, (2,))
    found = nj.solve(game, 0.01, algorithm=nj.Newton(), tol=1e-14)
    assert found.converged.all()
    expected = [equilibrium(one, 0.01, np.full(30, 1 / 30)) for one in P]
    np.testing.assert_allclose(found.log_policy, np.log(expected), atol=1e-8)


def test_linear_solves_that_fail_are_nan(monkeypatch):
    monkeypatch.setattr("nashjax._math.linear.MOST_RESTARTS", 1)
    monkeypatch.setattr("nashjax._math.linear.KRYLOV_DIMENSION", 2)
    game, _ = embedding_game(40, 6)

    def derivative():
        return jax.jacfwd(lambda s: nj.solve(nj.games.EmbeddingGame(s * game.features, game.skew), 1e-3).policy)(1.0)

    assert np.isnan(derivative()).all()
    monkeypatch.undo()
    jax.clear_caches()
    assert np.isfinite(derivative()).all()


def test_memory_is_that_of_features_and_a_tile():
    """The compiled solve and its gradient hold far less than the matrix."""
    n, d = 8192, 8
    game, _ = embedding_game(4, d)
    features = jax.ShapeDtypeStruct((n, d), jnp.float32)

    def value(features):
        made = nj.games.EmbeddingGame(features, game.skew.astype(jnp.float32))
        return nj.solve(made, 0.1, validate=False).policy[0]

    for function in (value, jax.grad(value)):
        held = jax.jit(function).lower(features).compile().memory_analysis()
        assert held is not None
        assert held.temp_size_in_bytes < 4 * n * n / 10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nj.games.EmbeddingGame(jnp.ones((1, 3)), jnp.zeros((3, 3))),
            "features must be an array [*batch, n, d] with at least 2 rows and at least 1 column, got shape [1, 3].",
        ),
        (
            lambda: nj.games.EmbeddingGame(jnp.ones((5, 3)), jnp.zeros((2, 2))),
            "skew must be an array of shape [3, 3] beside features [5, 3]",
        ),
        (
            lambda: nj.games.EmbeddingGame(jnp.ones((4, 5, 3)), jnp.zeros((3, 3))),
            "must be an array of shape [1, 3, 3] beside",
        ),
        (
            lambda: nj.games.EmbeddingGame(jnp.ones((5, 3)), jnp.eye(3)),
            "game.skew[0, 0] must be 0, as all of the diagonal, got 1.0.",
        ),
        (
            lambda: nj.games.EmbeddingGame(jnp.ones((5, 3)).at[3, 1].set(jnp.inf), jnp.zeros((3, 3))),
            "game.features[3, 1] must be a finite number, got inf.",
        ),
        (
            lambda: nj.games.LowRankGame(jnp.ones((5, 3)), jnp.ones((5, 2))),
            "right must be an array of the shape of left, [5, 3]",
        ),
        (
            lambda: nj.games.LowRankGame(jnp.ones((5, 3)) + 1j, jnp.ones((5, 3))),
            "left must be an array of real numbers, got dtype complex128.",
        ),
        (
            lambda: nj.games.LowRankGame(jnp.ones(5), jnp.ones(5)),
            "left must be an array [*batch, n, r] with at least 2 rows and at least 1 column, got shape [5].",
        ),
        (
            lambda: nj.games.LowRankGame(jnp.ones((2, 5, 3)), jnp.ones((2, 5, 3)).at[1, 0, 2].set(jnp.nan)),
            "game.right[1, 0, 2] must be a finite number, got nan.",
        ),
    ],
)
def test_what_is_no_game_is_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        nj.solve(make(), 0.1)


def test_trees_of_anything_have_the_structure_of_a_game():
    """Such as sums of its arrays: what jax puts in their place is not checked."""
    game, _ = embedding_game(4, 2)
    sums = jax.tree.map(jnp.sum, game)
    assert sums.features.shape == ()
    both = jax.tree.map(lambda x: jnp.stack([x, x]), game)
    axes = nj.games.EmbeddingGame(0, 0)  # pyright: ignore[reportArgumentType]
    assert jax.vmap(lambda g: g.payoffs(jnp.ones(4)), (axes,))(both).shape == (2, 4)


def test_entries_outside_of_probabilities_are_not_looked_for():
    """As documented: finding them would take the matrix."""
    left = jnp.array([[2.0], [0.0], [-1.0]])
    solution = nj.solve(nj.games.LowRankGame(left, jnp.array([[0.0], [1.0], [1.0]])), 0.5)
    assert solution.converged
