import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from independent import equilibrium
from scipy.optimize import linprog, minimize
from scipy.special import logsumexp

import nashjax as nj
from nashjax._math import simplex
from nashjax.games.random import KINDS


@functools.cache
def drawn(seed: int, kind: str) -> np.ndarray:
    return np.asarray(nj.games.random_game(jax.random.key(seed), 10, kind=kind).preferences)


def draw(seed: int, n: int, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A game, a reference and a policy."""
    P = drawn(seed % 64, kind)[:n, :n]
    rng = np.random.default_rng(seed)
    return P, rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(n))


def regularized(P: np.ndarray, p: np.ndarray, q: np.ndarray, beta: float, r: np.ndarray) -> float:
    """`P_b(p > q)` from its definition."""
    kl = lambda a: np.sum(a * np.log(np.maximum(a, 1e-300) / r))  # noqa: E731
    return p @ P @ q - beta * kl(p) + beta * kl(q)


@pytest.mark.parametrize("beta", [1.0, 0.1, 0.01])
def test_exploitability_is_what_the_best_response_gains(beta):
    """Against the definition, maximised numerically over softmax policies."""
    P, r, p = draw(0, 5, "gaussian")
    found = float(nj.metrics.exploitability(P, p, beta, r))
    response = np.asarray(nj.metrics.best_response(P, p, beta, r))
    np.testing.assert_allclose(regularized(P, response, p, beta, r) - 0.5, found, rtol=1e-12)

    def loss(u):
        q = np.exp(u - logsumexp(u))
        slope = P @ p - beta * np.log(np.maximum(q, 1e-300) / r)
        return -regularized(P, q, p, beta, r), -q * (slope - q @ slope)

    # From several starts: far from the optimum a softmax policy is flat.
    starts = np.random.default_rng(0).normal(np.log(r), [[0], [1], [1], [3], [3]], (5, 5))
    best = min(minimize(loss, u, jac=True, method="BFGS", options={"gtol": 1e-12}).fun for u in starts)
    np.testing.assert_allclose(-best - 0.5, found, rtol=1e-6)


def test_exploitability_without_regularisation_is_the_best_payoff_over_one_half():
    P, r, p = draw(1, 8, "uniform")
    best = linprog(-(P @ p), A_eq=np.ones((1, 8)), b_eq=[1])
    np.testing.assert_allclose(nj.metrics.exploitability(P, p, 0.0, r), -best.fun - 0.5, rtol=1e-12)
    response = np.asarray(nj.metrics.best_response(P, p, 0.0, r))
    assert np.argmax(response) == np.argmax(P @ p)
    np.testing.assert_allclose(response.max(), 1)
    # An action that the reference excludes is no response, and not to be played.
    allowed = np.where(np.arange(8) == np.argmax(P @ p), 0.0, 1.0)
    allowed /= allowed.sum()
    q = p * (allowed > 0) / p[allowed > 0].sum()
    expected = np.where(allowed > 0, P @ q, -np.inf).max() - 0.5
    np.testing.assert_allclose(nj.metrics.exploitability(P, q, 0.0, allowed), expected, rtol=1e-12, atol=1e-15)
    assert nj.metrics.exploitability(P, p, 0.0, allowed) == np.inf
    assert nj.metrics.exploitability(P, p, 0.1, allowed) == np.inf


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.sampled_from([2, 3, 10]), st.floats(0.03, 1))
def test_both_forms_of_the_exploitability_agree(seed, kind, n, beta):
    P, r, p = draw(seed, n, kind)
    subtracting = beta * logsumexp(np.log(r) + P @ p / beta) + beta * np.sum(p * np.log(p / r)) - 0.5
    found = float(nj.metrics.exploitability(P, p, beta, r))
    assert found >= 0
    np.testing.assert_allclose(found, subtracting, atol=4e-15 * (1 + beta))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.sampled_from([2, 3, 10]), st.sampled_from([0.03, 0.1, 0.5]))
def test_certificates_hold(seed, kind, n, beta):
    """The sandwich of spec 2, and the bounds made from it, against an equilibrium found by other means."""
    P, r, p = draw(seed, n, kind)
    star = equilibrium(P, beta, r)
    E = float(nj.metrics.exploitability(P, p, beta, r))
    divergence = float(nj.metrics.kl_divergence(p, star))
    slack = 1 + 1e-9
    assert beta * divergence <= E * slack
    assert (beta + 1 / (4 * beta)) * divergence * slack >= E
    np.testing.assert_allclose(regularized(P, p, star, beta, r), 0.5 - beta * divergence, atol=1e-12)
    assert divergence <= float(nj.metrics.kl_bound(E, beta)) * slack
    assert np.abs(p - star).sum() <= float(nj.metrics.l1_bound(E, beta)) * slack


def test_bounds_allow_for_rounding():
    """An exploitability of 0 in float32 says no more than that it is below what rounding shows."""
    games = nj.games.random_game(jax.random.key(7), 3, (6,), "uniform").preferences.astype(jnp.float32)
    solution = nj.solve(games, 1.0, tol=0.0)
    for P, p, bound in zip(games, solution.policy, nj.metrics.l1_bound(solution.exploitability, 1.0), strict=True):
        star = equilibrium(np.asarray(P, np.float64), 1.0, np.full(3, 1 / 3))
        assert 0 < np.abs(np.asarray(p, np.float64) - star).sum() <= bound


@pytest.mark.parametrize("beta", [1.0, 0.1, 0.01])
def test_every_float32_certificate_is_true(beta):
    """2,000 games of two actions, whose equilibrium solves `logit p = (P01 - 1/2) / beta`, at the default tolerance."""
    margin = np.random.default_rng(0).uniform(-0.5, 0.5, 2000).astype(np.float32)
    P = np.stack([np.full(2000, 0.5), 0.5 + margin, 0.5 - margin, np.full(2000, 0.5)], -1).reshape(-1, 2, 2)
    solution = nj.solve(P.astype(np.float32), beta)
    assert bool(solution.converged.all())
    exact = (P.astype(np.float32)[:, 0, 1].astype(np.longdouble) - P[:, 1, 0].astype(np.float32)) / 2 / beta
    log_star = -np.logaddexp(0, np.stack([-exact, exact], -1))
    log_p = np.asarray(solution.log_policy, np.longdouble)
    log_p -= np.logaddexp(log_p[:, :1], log_p[:, 1:])
    divergence = np.sum(np.exp(log_p) * (log_p - log_star), -1)
    assert (divergence <= np.asarray(solution.kl_bound, np.longdouble)).all()
    assert np.median(np.asarray(solution.kl_bound) / np.maximum(divergence, 1e-12)) < 10


def test_distances_broadcast_over_batches_and_refuse_what_is_no_policy():
    p = np.random.default_rng(0).dirichlet(np.ones(3), (5, 3))
    q = p[0, 1]
    expected = np.sum(p * np.log(p / q), -1)
    np.testing.assert_allclose(nj.metrics.kl_divergence(p, q), expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(nj.metrics.kl_divergence(p[:3, :1], q), expected[:3, :1], rtol=1e-12, atol=1e-15)
    with pytest.raises(ValueError, match=r"policy\[0\] must be a probability >= 0, got nan"):
        nj.metrics.kl_divergence(np.array([np.nan, 1.0]), np.array([0.5, 0.5]))
    with pytest.raises(ValueError, match="policy and other must have equal last axes"):
        nj.metrics.kl_divergence(np.array([1.0, 0.0]), q)
    with pytest.raises(ValueError, match=r"policy must be probabilities that sum to 1 within 1e-06, got the sum 2"):
        nj.metrics.entropy(np.array([1.0, 1.0]))
    assert np.isnan(simplex.kl_divergence(jnp.array([np.nan, 0.0]), jnp.log(jnp.array([0.5, 0.5]))))


def test_the_rounding_floor_is_never_above_that_of_the_payoffs():
    """A tiny beta does not let an exploitability that float32 can well show count as rounding."""
    P = np.array([[0.5, 1.0, 0.45], [0.0, 0.5, 0.65], [0.55, 0.35, 0.5]], np.float32)
    solution = nj.solve(P, 1e-12, reference=np.array([0.8, 0.1, 0.1]), algorithm=nj.NashMP(), max_queries=500)
    assert int(solution.status) == nj.Status.MAX_QUERIES
    assert float(solution.exploitability) > 1e-4


def test_bounds_at_beta_zero_say_nothing():
    assert nj.metrics.kl_bound(0.1, 0.0) == np.inf
    assert nj.metrics.l1_bound(0.1, 0.0) == 2
    with pytest.raises(ValueError, match=r"^exploitability\[1\] must be >= 0, got -0.1"):
        nj.metrics.kl_bound(np.array([0.1, -0.1]), 0.1)
    with pytest.raises(ValueError, match=r"^beta must be >= 0, got nan"):
        nj.metrics.l1_bound(0.1, np.nan)


@pytest.mark.parametrize("step", [0.5, 2.0, 50.0])
def test_proximal_map_maximises_its_objective(step):
    P, r, c = draw(3, 6, "gaussian")
    beta = 0.1
    g = P @ np.random.default_rng(0).dirichlet(np.ones(6))
    problem = nj.RegularizedGame(nj.MatrixGame(jnp.array(P)), jnp.array(beta), jnp.log(r))
    p = np.exp(problem.proximal_map(jnp.log(c), jnp.array(g), step))

    def objective(q):
        return q @ g - beta * np.sum(q * np.log(q / r)) - np.sum(q * np.log(q / c)) / step

    np.testing.assert_allclose(p.sum(), 1, rtol=1e-14)
    rng = np.random.default_rng(1)
    for size in (1e-3, 0.1, 1):
        for _ in range(50):
            q = p * np.exp(size * rng.standard_normal(6))
            assert objective(q / q.sum()) < objective(p)


def test_a_policy_of_float32_is_certified_to_the_stated_floor():
    """The exploitability that float32 reports and the true one differ by no more than the floor, every game."""
    beta = jnp.array([[1.0], [0.1], [0.01], [1e-3]])
    for n in (3, 100):
        P = nj.games.random_game(jax.random.key(n), n, (16,)).preferences.astype(jnp.float32)
        solution = nj.solve(P, beta, tol=0.0, max_queries=3000)
        assert solution.log_policy.dtype == jnp.float32
        log_p = np.moveaxis(np.asarray(solution.log_policy, np.float64), -1, 0)
        log_p = jnp.array(log_p - logsumexp(log_p, axis=0))
        problem = nj.RegularizedGame(nj.MatrixGame(P.astype(jnp.float64)), beta, jnp.full((n, 1, 1), -jnp.log(n)))
        true = problem.exploitability(log_p, problem.payoffs(log_p))
        floor = np.finfo(np.float32).eps ** 2 * (1 / beta + 8 * beta)
        assert (np.abs(true - solution.exploitability) <= floor).all()
        assert (solution.exploitability <= 4 * floor).all()


def test_metrics_take_batches_and_refuse_what_is_no_policy():
    game = nj.games.random_game(jax.random.key(0), 4, (3, 1))
    p = np.random.default_rng(0).dirichlet(np.ones(4), 5)
    E = nj.metrics.exploitability(game, p, 0.1)
    assert E.shape == (3, 5)
    for i, j in np.ndindex(3, 5):
        np.testing.assert_allclose(E[i, j], nj.metrics.exploitability(game.preferences[i, 0], p[j], 0.1), rtol=1e-12)
    pure = np.array([0.0, 1.0, 0.0, 0.0])
    assert np.isfinite(nj.metrics.exploitability(game, pure, 0.1)).all()
    with pytest.raises(
        ValueError, match=r"policy\[1\] must be probabilities that sum to 1 within 1e-06, got the sum 2"
    ):
        nj.metrics.exploitability(game, p * np.array([[1], [2], [1], [1], [1]]), 0.1)
    with pytest.raises(
        ValueError, match=r"policy must be an array \[..., 4\] with a probability for each action, got shape \[3\]"
    ):
        nj.metrics.best_response(game, p[0, :3], 0.1)
    log_p = np.log(p)
    assert np.isnan(nj.metrics.span(np.array([-1.0, np.nan]), np.array([0.0, -1.0])))
    np.testing.assert_allclose(nj.metrics.span(log_p, log_p[0])[1], np.ptp(log_p[1] - log_p[0]), rtol=1e-12)
    np.testing.assert_allclose(nj.metrics.entropy(p), -np.sum(p * log_p, -1), rtol=1e-12)
    np.testing.assert_allclose(simplex.entropy(jnp.array(log_p.T)), nj.metrics.entropy(p), rtol=1e-12)
