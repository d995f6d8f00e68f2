"""Against solvers that others wrote (extra `peers`)."""

import jax
import numpy as np
import pytest

import nashjax as nj
from benchmarks.peer_solvers import Task, exploitability, newton_with_continuation
from nashjax.games.random import KINDS


@pytest.mark.parametrize("beta", [0.0, 0.01, 0.3])
def test_the_check_of_the_comparison_agrees_with_the_metrics(beta: float):
    """Random policies, one with a zero, and at beta > 0 the equilibrium that its Newton's method finds."""
    rng = np.random.default_rng(0)
    P = np.asarray(nj.games.random_game(jax.random.key(0), 6, (8,)).preferences)
    reference, policy = rng.dirichlet(np.ones(6), (2, 8))
    policy[0, 0] = 0
    policy[0] /= policy[0].sum()
    with np.errstate(divide="ignore"):
        found = exploitability(Task(P, np.log(reference), beta), np.log(policy))
    np.testing.assert_allclose(found, nj.metrics.exploitability(P, policy, beta, reference), rtol=1e-9)
    if beta > 0:
        log_policy = newton_with_continuation(P[0], np.log(reference[0]), beta)
        solution = nj.solve(P[0], beta, reference=reference[0], algorithm=nj.Newton(), tol=1e-14)
        np.testing.assert_allclose(log_policy, solution.log_policy, atol=1e-10)


@pytest.mark.peers
def test_equal_to_the_logit_equilibrium_of_gambit():
    """20 games: with a uniform reference the equilibrium is the logit one, `lambda = 1/beta` (spec 1)."""
    gambit = pytest.importorskip("pygambit", reason="needs the extra `peers`")
    drawn = [np.asarray(nj.games.random_game(jax.random.key(0), 7, (4,), kind).preferences) for kind in KINDS]
    for i in range(20):
        n, beta = 2 + i % 6, (1.0, 0.3, 0.1)[i % 3]
        P = drawn[i // 4][i % 4, :n, :n]
        game = gambit.Game.from_arrays(P, P.T)
        logit = gambit.qre.logit_solve_lambda(game, lam=[1 / beta])[0].profile
        row, column = game.players
        expected = np.array([float(logit[s]) for s in row.strategies])
        np.testing.assert_allclose(expected, [float(logit[s]) for s in column.strategies], atol=1e-6)
        solution = nj.solve(P, beta, tol=1e-16)
        assert bool(solution.converged)
        np.testing.assert_allclose(solution.policy, expected, atol=1e-6)
