"""Nothing that stands in the rows and columns of excluded actions reaches an answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nashjax as nj

FIRST_ORDER = {"algorithm": nj.AdaptiveNashMP(), "tol": 1e-12}
FILLERS = [0.0, np.nan, np.inf, -7.0]


def padded(P: np.ndarray, filler: float, extra: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """A batch of games with `extra` more actions, and the reference that excludes these."""
    n = P.shape[-1]
    wide = np.full((*P.shape[:-2], n + extra, n + extra), filler)
    wide[..., :n, :n] = P
    return wide, np.where(np.arange(n + extra) < n, 1 / n, 0)


GAMES = np.asarray(nj.games.random_game(jax.random.key(0), 4, (3,)).preferences)


@pytest.mark.parametrize("filler", FILLERS)
def test_padded_games_have_the_equilibria_of_the_games(filler):
    wide, reference = padded(GAMES, filler)
    expected = nj.solve(GAMES, 0.1, **FIRST_ORDER).policy
    traced = jax.jit(lambda P, r: nj.solve(P, 0.1, reference=r, **FIRST_ORDER).policy)
    for found in (
        nj.solve(wide, 0.1, reference=reference, **FIRST_ORDER).policy,
        nj.solve(jnp.asarray(wide), 0.1, reference=reference, **FIRST_ORDER).policy,
        traced(wide, reference),
    ):
        np.testing.assert_allclose(found[:, :4], expected, atol=1e-9)
        assert (found[:, 4:] == 0).all()
    policy = np.asarray(nj.solve(wide, 0.1, reference=reference, **FIRST_ORDER).policy)
    assert (nj.metrics.exploitability(wide, policy, 0.1, reference) <= 1e-12).all()


def test_linear_solves_do_not_see_excluded_actions():
    """At a small beta and at 0, also with derivatives; more actions than are queried all at once."""
    P = np.asarray(nj.games.random_game(jax.random.key(1), 40, (2,)).preferences)
    wide, reference = padded(P, np.nan)
    expected = nj.solve(P, 0.01, algorithm=nj.Newton()).policy
    found = nj.solve(wide, 0.01, reference=reference, algorithm=nj.Newton()).policy
    np.testing.assert_allclose(found[:, :40], expected, atol=2e-3)
    plain = nj.solve(wide, 0.0, reference=reference, algorithm=nj.InteriorPoint())
    assert plain.converged.all()
    assert (plain.policy[:, 40:] == 0).all()


def test_derivatives_do_not_see_excluded_actions():
    wide, reference = padded(GAMES[0], np.nan)
    gradient = jax.jit(jax.grad(lambda P, r: nj.solve(P, 0.1, reference=r, **FIRST_ORDER).policy[0]))
    found = gradient(wide, reference)
    np.testing.assert_allclose(found[:4, :4], gradient(GAMES[0], np.full(4, 0.25)), atol=1e-6)
    assert (found[4:] == 0).all()
    assert (found[:, 4:] == 0).all()


def test_one_matrix_with_references_that_exclude_different_actions():
    P = GAMES[0].copy()
    P[0, 1] = np.nan
    references = np.array([[0, 1, 1, 1], [1, 0, 1, 1]]) / 3
    found = nj.solve(P, 0.1, reference=references, **FIRST_ORDER).policy
    for policy, kept in zip(found, ([1, 2, 3], [0, 2, 3]), strict=True):
        alone = nj.solve(GAMES[0][np.ix_(kept, kept)], 0.1, **FIRST_ORDER).policy
        np.testing.assert_allclose(policy[np.array(kept)], alone, atol=1e-9)
    references[1] = 0.25
    with pytest.raises(ValueError, match=r"game.preferences\[0, 1\] must be a finite probability, got nan\."):
        nj.solve(P, 0.1, reference=references, **FIRST_ORDER)
    with pytest.raises(ValueError, match=r"game.preferences\[0, 1\] must be a finite probability, got nan\."):
        nj.metrics.best_response(P, np.full(4, 0.25), 0.1, references)


def test_games_without_a_matrix_do_not_see_excluded_actions():
    rng = np.random.default_rng(0)
    features, reference = rng.normal(size=(5, 2)), np.array([1, 1, 1, 1, 0]) / 4
    skew = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    for make in (
        lambda x: nj.games.EmbeddingGame(jnp.asarray(x), skew),
        lambda x: nj.games.LowRankGame(0.1 * jnp.asarray(x), 0.1 * jnp.asarray(x[:, ::-1])),
    ):
        expected = nj.solve(make(features[:4]), 0.1, **FIRST_ORDER).policy
        for filler in (1e308, np.nan):  # the first overflows in the margins
            spoiled = np.where(np.arange(5)[:, None] == 4, filler, features)
            found = nj.solve(make(spoiled), 0.1, reference=reference, **FIRST_ORDER).policy
            np.testing.assert_allclose(found[:4], expected, atol=1e-9)
            assert found[4] == 0
        with pytest.raises(ValueError, match=r"\[4, 0\] must be a finite number, got nan"):
            nj.solve(make(spoiled), 0.1, **FIRST_ORDER)
