"""Zero-sum games of two and more players, against HiGHS, exact values and finite differences."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import nashjax as nj
from tests.mistyped import anything

ROCK_PAPER_SCISSORS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])


@pytest.fixture(autouse=True)
def in_double_precision():
    with jax.enable_x64(True):
        yield


def value_by_highs(payoffs):
    """The value for the row player and optimal strategies of both, by the simplex method of HiGHS."""
    n1, n2 = payoffs.shape
    options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    found = linprog(
        np.r_[np.zeros(n1), -1],
        A_ub=np.c_[-payoffs.T, np.ones(n2)],
        b_ub=np.zeros(n2),
        A_eq=[np.r_[np.ones(n1), 0]],
        b_eq=[1],
        bounds=[(0, None)] * n1 + [(None, None)],
        method="highs-ds",
        options=options,
    )
    return -found.fun, found.x[:n1], -found.ineqlin.marginals


def polymatrix_by_highs(matrix, sizes):
    """The least sum of payoff levels of all players, which is 0, and an equilibrium (Cai et al. 2016)."""
    n, players = len(matrix), len(sizes)
    member = np.repeat(np.eye(players), sizes, axis=0)
    return linprog(
        np.r_[np.zeros(n), np.ones(players)],
        A_ub=np.c_[matrix, -member],
        b_ub=np.zeros(n),
        A_eq=np.c_[member.T, np.zeros((players, players))],
        b_eq=np.ones(players),
        bounds=[(0, None)] * n + [(None, None)] * players,
    )


def gap(payoffs, p, q):
    return (payoffs @ q).max() - (p @ payoffs).min()


def test_values_and_gaps_are_those_of_highs():
    rng = np.random.default_rng(0)
    for shape in ((1, 4), (5, 3), (8, 8), (40, 60)):
        payoffs = rng.normal(size=(4, *shape)) * 10.0 ** rng.integers(-2, 3) + rng.normal()
        solution = nj.solve(nj.ZeroSumGame(payoffs), 0, tol=1e-12)
        assert np.asarray(solution.converged).all()
        largest = np.abs(payoffs).max()
        for game, p, q, value in zip(payoffs, *solution.policies, np.asarray(solution.value), strict=True):
            assert value == pytest.approx(value_by_highs(game)[0], abs=1e-9 * largest)
            assert gap(game, np.asarray(p), np.asarray(q)) <= 1e-9 * largest


def test_kuhn_poker_is_worth_minus_one_eighteenth():
    payoffs = kuhn_poker()
    assert payoffs.shape == (27, 64)
    assert value_by_highs(payoffs)[0] == pytest.approx(-1 / 18)
    for beta in (0.0, 1e-7):
        solution = nj.solve(nj.ZeroSumGame(payoffs), beta, tol=1e-9)
        assert solution.converged
        assert float(solution.value) == pytest.approx(-1 / 18, abs=1e-6)


def kuhn_poker():
    """Expected payoffs of the first player for all pure strategies of both, after a bet or a pass on three cards."""
    # First player, for each card: pass and fold, pass and call, bet. Second: after a pass and after a bet, 0 or 1.
    first = list(itertools.product(range(3), repeat=3))
    second = list(itertools.product(itertools.product(range(2), repeat=2), repeat=3))
    payoffs = np.zeros((len(first), len(second)))
    for (i, own), (j, other) in itertools.product(enumerate(first), enumerate(second)):
        for mine, theirs in itertools.permutations(range(3), 2):
            wins = 1 if mine > theirs else -1
            after_pass, after_bet = other[theirs]
            if own[mine] == 2:
                payoffs[i, j] += 2 * wins if after_bet else 1
            elif not after_pass:
                payoffs[i, j] += wins
            else:
                payoffs[i, j] += 2 * wins if own[mine] == 1 else -1
    return payoffs / 6


@pytest.mark.parametrize("beta", [0.0, 0.05])
def test_a_skew_symmetric_matrix_gives_the_equilibrium_of_the_preference_game(beta):
    A = np.random.default_rng(1).uniform(-1, 1, size=(3, 6, 6))
    A = A - np.swapaxes(A, -1, -2)
    bound = np.abs(A).max(axis=(-2, -1))
    unit = 2 * bound
    both = nj.solve(nj.ZeroSumGame(A), beta * unit, tol=1e-14)
    alone = nj.solve(0.5 + A / unit[:, None, None], beta, tol=1e-14)
    for policy in both.policies:
        np.testing.assert_allclose(policy, alone.policy, atol=1e-12)
    np.testing.assert_allclose(both.value, 0, atol=1e-12)


def test_the_symmetrized_game_has_the_same_solution():
    """Gale, Kuhn and Tucker (1950): an optimal strategy of the symmetric game holds those of both players."""
    payoffs = np.random.default_rng(2).uniform(0.5, 1.5, size=(4, 5))  # positive, so that the value is, too
    n1, n2 = payoffs.shape
    skew = np.zeros((n1 + n2 + 1,) * 2)
    skew[:n1, n1:-1], skew[:n1, -1], skew[n1:-1, -1] = payoffs, -1, 1
    skew -= skew.T
    large = nj.solve(0.5 + skew / 4, 0, tol=1e-13).policy
    small = nj.solve(nj.ZeroSumGame(payoffs), 0, tol=1e-13)
    p, q = large[:n1], large[n1:-1]
    np.testing.assert_allclose(p / p.sum(), small.policies[0], atol=1e-9)
    np.testing.assert_allclose(q / q.sum(), small.policies[1], atol=1e-9)
    assert float(large[-1] / p.sum()) == pytest.approx(float(small.value), abs=1e-9)


def test_nash_averaging_of_agents_and_tasks_has_maximal_entropy():
    """Redundant tasks share the weight of one, and no copy of an agent is left out (Balduzzi et al. 2018)."""
    scores = ROCK_PAPER_SCISSORS[:, [0, 1, 2, 2]][[0, 1, 2, 0]]
    solution = nj.solve(nj.ZeroSumGame(scores), 0, tol=1e-10)
    np.testing.assert_allclose(solution.policies[0], [1 / 6, 1 / 3, 1 / 3, 1 / 6], atol=1e-5)
    np.testing.assert_allclose(solution.policies[1], [1 / 3, 1 / 3, 1 / 6, 1 / 6], atol=1e-5)


def test_regularized_policies_solve_the_logit_equations_with_a_beta_for_each_player():
    rng = np.random.default_rng(3)
    payoffs, r1, r2 = rng.normal(size=(6, 4)), rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(4))
    for b1, b2 in ((0.2, 0.2), (0.1, 0.7), (2.0, 1e-3)):
        solution = nj.solve(nj.ZeroSumGame(payoffs), (b1, b2), reference=(r1, r2), tol=1e-14)
        p, q = map(np.asarray, solution.policies)
        for own, earned, reference, beta in ((p, payoffs @ q, r1, b1), (q, -payoffs.T @ p, r2, b2)):
            logits = np.log(reference) + earned / beta
            response = np.exp(logits - logits.max())
            np.testing.assert_allclose(own, response / response.sum(), atol=1e-6)
        assert float(solution.value) == pytest.approx(p @ payoffs @ q, abs=1e-12)


def test_certificates_bound_the_divergence_from_the_equilibrium():
    rng = np.random.default_rng(4)
    payoffs = rng.normal(size=(16, 5, 4)) * 3 + 2
    loose = nj.solve(nj.ZeroSumGame(payoffs), (0.3, 0.5), tol=1e-2)
    exact = nj.solve(nj.ZeroSumGame(payoffs), (0.3, 0.5), tol=1e-15)
    divergence = sum(
        beta * np.sum(p * (np.log(p) - np.log(e)), axis=-1)
        for beta, p, e in zip((0.3, 0.5), loose.policies, exact.policies, strict=True)
    )
    assert (divergence <= np.asarray(loose.exploitability) * (1 + 1e-9)).all()
    assert (divergence / 0.5 <= np.asarray(loose.kl_bound)).all()
    again = nj.metrics.exploitability(nj.ZeroSumGame(payoffs), loose.policies, (0.3, 0.5))
    np.testing.assert_allclose(again, loose.exploitability, rtol=1e-9)


def ring(seed, sizes, batch=()):
    rng = np.random.default_rng(seed)
    pairs = [(g, k) for g in range(len(sizes)) for k in range(g) if (g + k) % 3]
    return {(g, k): rng.normal(size=(*batch, sizes[g], sizes[k])) * 2 for g, k in pairs}


def test_polymatrix_games_agree_with_a_linear_program():
    sizes = (3, 4, 2)
    game = nj.PolymatrixGame(sizes, ring(0, sizes, (5,)))
    matrix = np.asarray(game.dense())
    np.testing.assert_array_equal(matrix, -np.swapaxes(matrix, -1, -2))
    solution = nj.solve(game, 0, tol=1e-10)
    assert np.asarray(solution.converged).all()
    p = np.concatenate(solution.policies, axis=-1)
    for one, policy, earned in zip(matrix, p, np.asarray(solution.earnings), strict=True):
        found = polymatrix_by_highs(one, sizes)
        assert found.fun == pytest.approx(0, abs=1e-9)
        best = [part.max() for part in np.split(one @ policy, np.cumsum(sizes)[:-1])]
        np.testing.assert_allclose(best, earned, atol=1e-8)
    np.testing.assert_allclose(np.asarray(solution.earnings).sum(axis=-1), 0, atol=1e-12)
    regularized = nj.solve(game, 0.2, tol=1e-13)
    for one, policy in zip(matrix, np.concatenate(regularized.policies, axis=-1), strict=True):
        for own, earned in zip(
            np.split(policy, np.cumsum(sizes)[:-1]), np.split(one @ policy, np.cumsum(sizes)[:-1]), strict=True
        ):
            response = np.exp((earned - earned.max()) / 0.2)
            np.testing.assert_allclose(own, response / response.sum(), atol=1e-5)


def test_of_many_equilibria_of_three_players_the_reference_is_closest_to_itself():
    """Both actions of each player earn the same against all policies, so that every combination is an equilibrium."""
    indifferent = [[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]
    game = nj.PolymatrixGame((2, 2, 2), {(0, 1): indifferent[0], (2, 1): indifferent[1]})
    reference = ([0.3, 0.7], [0.2, 0.8], [0.5, 0.5])
    solution = nj.solve(game, 0, reference=reference, tol=1e-10)
    for found, expected in zip(solution.policies, reference, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    "algorithm",
    [
        nj.NashMP(),
        nj.AdaptiveNashMP(),
        nj.MemoryNashMP(),
        nj.Newton(),
        nj.NashProx(),
        nj.EGPO(),
        nj.OnlineMirrorDescent(),
        nj.MagneticMirrorDescent(),
        nj.NashMD(),
    ],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_regularized_methods_agree_with_the_default(algorithm):
    payoffs = ROCK_PAPER_SCISSORS[:2] + 0.25
    tol = 1e-4 if isinstance(algorithm, nj.NashMD) else 1e-8
    found = nj.solve(nj.ZeroSumGame(payoffs), 0.5, algorithm=algorithm, tol=tol)
    assert found.converged
    expected = nj.solve(nj.ZeroSumGame(payoffs), 0.5, tol=1e-14)
    for one, other in zip(found.policies, expected.policies, strict=True):
        np.testing.assert_allclose(one, other, atol=10 * tol**0.5)


@pytest.mark.parametrize(
    "algorithm",
    [nj.InteriorPoint(), nj.PredictiveRM(), nj.ExtragradientRM(), nj.SelfPlayMWU(), nj.OptimisticMWU()],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_methods_for_beta_0_find_the_value(algorithm):
    payoffs = ROCK_PAPER_SCISSORS[:2] + 0.25
    found = nj.solve(nj.ZeroSumGame(payoffs), 0, algorithm=algorithm, tol=2e-2, max_queries=20_000)
    assert found.converged
    assert float(found.value) == pytest.approx(value_by_highs(payoffs)[0], abs=2e-2)


def test_an_adaptive_step_contracts_the_divergence_that_it_proves():
    rng = np.random.default_rng(5)
    payoffs, betas = rng.normal(size=(4, 6)), (0.02, 0.1)
    game = nj.ZeroSumGame(payoffs)
    exact = nj.solve(game, betas, tol=1e-15)
    path = nj.trajectory(game, betas, algorithm=nj.AdaptiveNashMP(), num_steps=40)
    star, log_p = np.concatenate(exact.policies), np.asarray(path.log_policy)
    unit = 2 ** np.ceil(np.log2(payoffs.max() - payoffs.min()))
    accepted = np.flatnonzero(np.diff(np.asarray(path.queries)) == 2)
    assert len(accepted) > 10
    for t in accepted:
        before, after = (
            [np.sum(s * (np.log(s) - x)) for s, x in zip(np.split(star, [4]), np.split(log_p[i], [4]), strict=True)]
            for i in (t, t + 1)
        )
        s = float(path.step_size[t]) / (max(betas) / unit)
        contracted = sum((1 + s * beta / unit) * kl for beta, kl in zip(betas, after, strict=True))
        assert contracted <= sum(before) + 1e-12


def test_derivatives_are_those_of_finite_differences():
    rng = np.random.default_rng(6)
    payoffs, weights = rng.normal(size=(3, 4)) + 5, rng.normal(size=7)
    r1, r2 = rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(4))

    def objective(payoffs, betas, r1):
        r1 = r1 / r1.sum()
        solution = nj.solve(nj.ZeroSumGame(payoffs), (betas[0], betas[1]), reference=(r1, r2), tol=1e-15)
        return jnp.concatenate(solution.policies) @ weights + solution.value

    arguments = (jnp.asarray(payoffs), jnp.array([0.3, 0.8]), jnp.asarray(r1))
    found = jax.grad(objective, argnums=(0, 1, 2))(*arguments)
    for k, gradient in enumerate(found):
        direction = np.asarray(rng.normal(size=gradient.shape))
        step = 1e-5

        def moved(sign, k=k, direction=direction, step=step):
            return float(objective(*(x + sign * step * direction if i == k else x for i, x in enumerate(arguments))))

        difference = (moved(1) - moved(-1)) / (2 * step)
        assert float(np.sum(np.asarray(gradient) * direction)) == pytest.approx(difference, rel=1e-5, abs=1e-7)


def test_traced_and_mapped_calls_equal_plain_calls():
    payoffs = np.random.default_rng(7).normal(size=(4, 3, 5))
    plain = nj.solve(nj.ZeroSumGame(payoffs), 0.3, tol=1e-12)

    def one(payoffs):
        solution = nj.solve(nj.ZeroSumGame(payoffs), 0.3, tol=1e-12)
        return (*solution.policies, solution.value, solution.exploitability)

    for found in (jax.jit(one)(payoffs), jax.jit(jax.vmap(one))(payoffs)):
        for array, expected in zip(found[:3], (*plain.policies, plain.value), strict=True):
            np.testing.assert_allclose(array, expected, atol=1e-9)
        assert np.asarray(found[3]).max() <= 1e-12 * np.abs(payoffs).max()


def test_paths_end_at_the_solution_of_the_last_beta():
    payoffs = np.random.default_rng(8).normal(size=(3, 4)) * 50
    path = nj.solve_path(nj.ZeroSumGame(payoffs), np.array([10.0, 1.0, 0.0]), tol=1e-10)
    assert path.policies[1].shape == (3, 4)
    assert path.value.shape == (3,)
    assert float(path.value[-1]) == pytest.approx(value_by_highs(payoffs)[0], abs=1e-8)
    np.testing.assert_allclose(path[1].value, nj.solve(nj.ZeroSumGame(payoffs), 1.0, tol=1e-10).value, atol=1e-4)


def test_other_units_and_constants_change_nothing():
    payoffs = np.random.default_rng(9).normal(size=(3, 4))
    one = nj.solve(nj.ZeroSumGame(payoffs), 0.1, tol=1e-12)
    other = nj.solve(nj.ZeroSumGame(payoffs * 1024 + 7), 102.4, tol=1e-12)
    for p, q in zip(one.policies, other.policies, strict=True):
        np.testing.assert_allclose(p, q, atol=1e-6)
    assert float(other.value) == pytest.approx(1024 * float(one.value) + 7, rel=1e-9)


def test_excluded_actions_may_hold_anything():
    payoffs = np.array([[3.0, -1.0, np.nan], [-1.0, 1.0, np.inf], [np.nan, 1e300, -np.inf]])
    reference = ([0.5, 0.5, 0.0], [0.5, 0.5, 0.0])
    solution = nj.solve(nj.ZeroSumGame(payoffs), 0, reference=reference, tol=1e-10)
    assert float(solution.value) == pytest.approx(1 / 3)
    np.testing.assert_allclose(solution.policies[0], [1 / 3, 2 / 3, 0], atol=1e-9)


def test_a_solution_of_players_names_what_it_has():
    solution = nj.solve(nj.ZeroSumGame([[[3, -1], [-1, 1]]] * 2), 0.1)
    with pytest.raises(AttributeError, match="Use policies"):
        _ = solution.policy
    assert solution[0].policies[0].shape == (2,)
    assert solution[0].value.shape == ()
    assert "policies 2 + 2" in repr(solution)
    assert set(solution.to_dict()) >= {"policy_0", "policy_1", "earnings"}
    assert list(solution.to_pandas().columns[:4]) == [0, 1, 2, 3]
    with pytest.raises(AttributeError, match="value must be that of a zero-sum game"):
        _ = nj.solve(np.array([[0.5, 0.9], [0.1, 0.5]]), 0.1).value


PENNIES = [[1.0, -1.0], [-1.0, 1.0]]
LARGE = nj.ZeroSumGame(np.array(PENNIES, np.float32) * np.float32(1e10))


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda: nj.ZeroSumGame([1.0, 2.0]), "payoff_matrix must be an array [..., n1, n2]"),
        (lambda: nj.solve(nj.ZeroSumGame([[1.0, np.nan]]), 0.1), "payoff_matrix[0, 1] must be a finite number"),
        (lambda: nj.solve(nj.ZeroSumGame(PENNIES), -1.0), "beta must be finite and >= 0"),
        (lambda: nj.solve(nj.ZeroSumGame(PENNIES), (0.1, -1.0)), "beta[1] must be finite and >= 0"),
        (lambda: nj.solve(nj.ZeroSumGame(PENNIES), (0.1, 0.1, 0.1)), "tuple of 2 of these"),
        (lambda: nj.solve(nj.ZeroSumGame(PENNIES), ([0.1, 0.2], [0.1, 0.2, 0.3])), "batch shapes that broadcast"),
        (lambda: nj.solve(nj.ZeroSumGame(PENNIES), 0.1, reference=[0.5, 0.5]), "reference must be a tuple of 2"),
        (lambda: nj.solve(nj.ZeroSumGame(PENNIES), 0.1, reference=([0.5, 0.5],)), "got 1 of them"),
        (lambda: nj.solve(nj.ZeroSumGame(PENNIES), 0.1, reference=([1.0], [0.5, 0.5])), "reference[0] must be"),
        (lambda: nj.solve(nj.ZeroSumGame(PENNIES), 0.1, initial=([0.5, 0.5], [0.9, 0.3])), "initial[1] must be"),
        (lambda: nj.solve(0.5 + np.zeros((2, 2)), (0.1, 0.1)), "beta must be a number or an array"),
        (lambda: nj.solve(LARGE, np.float32(1e-30)), "beta must be 0 or, divided by the largest payoff"),
        (lambda: nj.solve(LARGE, (1.0, 1e-30)), "beta[1] must be 0 or, divided by the largest payoff"),
        (lambda: nj.solve_path(LARGE, np.array([1.0, 1e-30])), "betas[1] must be 0 or, divided by the largest payoff"),
        (
            lambda: nj.solve(nj.ZeroSumGame(PENNIES), (0.1, np.zeros(2)), algorithm=nj.MagneticMirrorDescent()),
            "beta[1][0] must be > 0",
        ),
        (lambda: nj.PolymatrixGame((2, 2), {}), "at least one pair"),
        (lambda: nj.PolymatrixGame((2,), {(0, 1): PENNIES}), "at least two players"),
        (lambda: nj.PolymatrixGame((2, 2), {(0, 2): PENNIES}), "two different players from 0 to 1"),
        (lambda: nj.PolymatrixGame((2, 2), anything({0: PENNIES})), "two different players from 0 to 1"),
        (lambda: nj.PolymatrixGame((2, 3), {(0, 1): PENNIES}), "pair_payoffs[0, 1] must be an array [..., 2, 3]"),
        (lambda: nj.PolymatrixGame((2, 2), {(0, 1): PENNIES, (1, 0): PENNIES}), "Give one of the two"),
        (lambda: nj.stochastic.BernoulliOracle(nj.ZeroSumGame(PENNIES)), "game must be a preference game"),
        (
            lambda: nj.metrics.uniqueness(nj.ZeroSumGame(PENNIES), np.array([0.5, 0.5])),
            "game must be a preference game",
        ),
        (lambda: nj.metrics.exploitability(nj.ZeroSumGame(PENNIES), [0.5, 0.5], 0.1), "policy must be a tuple of 2"),
    ],
)
def test_wrong_arguments_raise_before_any_compute(call, found):
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    assert found in str(error.value)


def test_both_matrices_of_a_pair_may_be_given():
    A = np.array([[1.0, 2.0, 3.0]])
    game = nj.PolymatrixGame((1, 3), {(0, 1): A, (1, 0): np.broadcast_to(-A.T, (4, 3, 1))})
    assert game.batch_shape == (4,)
    earnings = nj.solve(game, 0).earnings
    assert earnings is not None
    assert float(earnings[3, 0]) == pytest.approx(1.0)


def test_invalid_games_inside_a_trace_say_so():
    solve = jax.jit(lambda payoffs: nj.solve(nj.ZeroSumGame(payoffs), 0.3, tol=1e-12))
    payoffs = np.random.default_rng(7).normal(size=(4, 3, 5))
    payoffs[2, 1, 1] = np.inf
    found = solve(payoffs)
    assert [nj.Status(int(status)).name for status in found.status] == ["CONVERGED"] * 2 + ["INVALID", "CONVERGED"]
    assert np.isnan(found.policies[0][2]).all()
    assert np.isnan(found.value[2])
