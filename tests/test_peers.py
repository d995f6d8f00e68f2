"""Against solvers that others wrote (extra `peers`)."""

import jax
import numpy as np
import pytest

import nashjax as nj
from nashjax.games.random import KINDS

pytestmark = pytest.mark.peers


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
