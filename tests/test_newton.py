"""Newton's method and the default that ends with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from independent import draw_games
from test_data import every_set, load, solve_all

import nashjax as nj
from nashjax.algorithms.auto import first_order_budget
from nashjax.games.random import KINDS


@every_set
def test_real_data_to_machine_precision(data, name):
    """Every beta of the references: 1e-9 in p and 1e-6 in log p wherever p > 1e-280."""
    P, answers = load(data, name)
    expected = np.array([answer["p"] for answer in answers["regularised"].values()])
    betas, solution = solve_all(P, answers, tol=1e-14)
    solution = jax.tree.map(lambda x: x[betas > 0], solution)
    assert bool(solution.converged.all())
    assert (solution.exploitability <= 1e-14).all()
    assert np.abs(solution.policy - expected).max() <= 1e-9
    log_expected = np.log(np.maximum(expected, 1e-290))
    common = expected > 1e-280
    assert np.abs(solution.log_policy - log_expected)[common].max() <= 1e-6


def test_random_games_at_any_beta():
    """Every game of every kind converges; those with ties and copies of actions, whose equilibria are many, too.

    The small version of benchmarks/robustness.py.
    """
    n = 10
    drawn = [draw_games(8, n, (8,), kind) for kind in KINDS]
    tied = np.round(2 * drawn[1]) / 2
    copied = drawn[2][:, np.arange(n) // 2][:, :, np.arange(n) // 2]
    P = np.concatenate([*drawn, tied, copied])
    betas = np.array([1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-6])[:, None]
    for algorithm in (None, nj.Newton()):
        solution = nj.solve(P, betas, algorithm=algorithm, tol=1e-14)
        assert bool(solution.converged.all())
        again = nj.metrics.exploitability(P, np.exp(solution.log_policy), betas)
        # Judged again from rounded probabilities; at small beta that alone weighs more than the tolerance.
        assert (again <= 1e-14 + 1e-28 / betas).all()


def games_in_float32():
    """Games of all kinds, with ties and copies of actions, too; their betas, `[7, 1]`."""
    n = 10
    drawn = [draw_games(9, n, (8,), kind) for kind in KINDS]
    tied = np.round(2 * drawn[1]) / 2
    copied = drawn[2][:, np.arange(n) // 2][:, :, np.arange(n) // 2]
    P = np.concatenate([*drawn, tied, copied]).astype(np.float32)
    return P, np.array([1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 0.0])[:, None]


@pytest.mark.compiled_as_by_users
def test_in_float32_every_game_converges_or_stalls():
    """The small version of benchmarks/robustness.py in float32; what is said to be converged is, in float64."""
    (P, betas), tol = games_in_float32(), 1e-6
    n = P.shape[-1]
    solution = nj.solve(P, betas, tol=tol)
    assert np.isin(solution.status, (nj.Status.CONVERGED, nj.Status.STALLED)).all()
    assert solution.converged[:4].all()  # betas of 1e-3 and more
    assert solution.converged.mean() > 0.9
    log_p = jax.nn.log_softmax(np.asarray(solution.log_policy, np.float64))
    exact = 0.5 + (P.astype(float) - np.swapaxes(P, 1, 2)) / 2
    problem = nj.RegularizedGame(nj.MatrixGame(jnp.array(exact)), jnp.array(betas), jnp.full((n, 1, 1), -np.log(n)))
    actions_first = jnp.moveaxis(log_p, -1, 0)
    true = problem.exploitability(actions_first, problem.payoffs(actions_first))
    eps = np.finfo(np.float32).eps
    floor = np.where(betas > eps, eps**2 / np.maximum(betas, eps), eps) + 8 * eps**2 * betas
    allowed = np.where(betas > 0, (np.sqrt(tol) + np.sqrt(floor)) ** 2, tol + 4 * eps)
    assert (np.where(solution.converged, true, 0) <= allowed).all()


def test_rare_actions_have_accurate_logarithms():
    """Against the fixed point itself: `log p_i - log p_j = ((P p)_i - (P p)_j) / beta`, down to p of 1e-100."""
    P = np.asarray(nj.games.random_game(jax.random.key(3), 10, kind="bradley_terry").preferences)
    solution = nj.solve(P, 1e-3, tol=1e-14)
    log_p = np.asarray(solution.log_policy)
    assert log_p.min() < np.log(1e-100)
    payoffs = P @ np.exp(log_p)
    np.testing.assert_allclose(log_p - log_p[0], (payoffs - payoffs[0]) / 1e-3, atol=1e-9)
    rough = nj.solve(P, 1e-3, tol=1e-14, algorithm=nj.AdaptiveNashMP())
    assert np.abs(rough.log_policy - log_p).max() > 1e-3


def test_the_default_hands_over_where_it_says():
    """Loose tolerances of easy games see no linear solve; hard and tight ones do, each game for itself."""
    P = nj.games.random_game(jax.random.key(0), 10, (8,)).preferences
    betas = jnp.array([0.1, 1e-3])[:, None]  # below 1e-3 interior points come first
    first_order = nj.solve(P, betas, algorithm=nj.AdaptiveNashMP())
    default = nj.solve(P, betas)
    np.testing.assert_array_equal(first_order.log_policy[0], default.log_policy[0])
    np.testing.assert_array_equal(first_order.queries[0], default.queries[0])
    mixed = nj.solve(P, betas, tol=1e-8)
    slow = nj.solve(P, betas, tol=1e-8, algorithm=nj.AdaptiveNashMP())
    few = np.asarray(slow.queries) <= first_order_budget(10)
    assert few[0].all()
    assert not few[1].all()
    np.testing.assert_array_equal(np.asarray(mixed.queries)[few], np.asarray(slow.queries)[few])
    assert np.asarray(mixed.queries)[~few].sum() < np.asarray(slow.queries)[~few].sum() / 5
    assert bool(mixed.converged.all())


def test_many_hard_games_are_finished_in_chunks():
    """More games than a chunk holds, some hard: what each gives alone."""
    P = np.asarray(nj.games.random_game(jax.random.key(1), 10, (10, 40), "uniform").preferences)
    betas = np.where(np.arange(400).reshape(10, 40) % 7 == 0, 1e-4, 0.1)
    whole = nj.solve(P, betas, tol=1e-10)
    assert bool(whole.converged.all())
    hard = np.argwhere(betas < 0.01)[:20]
    alone = nj.solve(P[*hard.T], betas[*hard.T], tol=1e-10)
    np.testing.assert_allclose(whole.policy[*hard.T], alone.policy, atol=1e-9)
    np.testing.assert_array_equal(whole.queries[*hard.T], alone.queries)


@pytest.mark.compiled_as_by_users
def test_in_float32_what_newton_cannot_solve_ends_in_a_status():
    P, betas = games_in_float32()
    solution = nj.solve(P, betas, tol=1e-7, max_queries=400)
    policy = jax.nn.softmax(solution.log_policy.astype(float))
    exact = np.asarray(nj.metrics.exploitability(0.5 + (P.astype(float) - np.swapaxes(P, 1, 2)) / 2, policy, betas))
    assert bool(solution.converged[:3].all())
    assert not bool(solution.converged.all())
    assert (solution.queries <= 400).all()
    assert np.isin(solution.status, (nj.Status.CONVERGED, nj.Status.MAX_QUERIES, nj.Status.STALLED)).all()
    allowed = np.where(betas > 0, 1e-7 + 4 * 1.2e-7**2 / np.maximum(betas, 1e-7), 1e-7 + 4 * 1.2e-7)
    assert (np.where(solution.converged, exact, 0) <= allowed).all()


@pytest.mark.compiled_as_by_users
def test_in_float32_no_prediction_is_so_large_that_a_policy_is_lost():
    """Coarse margins, rare actions in the reference and a tiny beta: one of these games once ended with no policy."""
    rng = np.random.default_rng(14)
    margin = np.triu(np.clip(np.round(rng.normal(size=(64, 16, 16))), -2, 2) / 4, 1)
    P = (0.5 + margin - np.swapaxes(margin, 1, 2)).astype(np.float32)
    beta = (10 ** rng.uniform(-6, -5.3, 64)).astype(np.float32)
    reference = rng.dirichlet(np.full(16, 0.3), 64) + 1e-6
    solution = nj.solve(P, beta, reference=(reference / reference.sum(-1, keepdims=True)).astype(np.float32))
    assert solution.converged.mean() > 0.9
    assert (solution.status != nj.Status.INVALID).all()
    np.testing.assert_allclose(solution.policy.sum(-1), 1, atol=1e-5)


def test_polishing_keeps_within_a_tolerance_below_rounding():
    P, _ = games_in_float32()
    solution = nj.solve(P, 0.01, algorithm=nj.Newton(), tol=1e-12)
    assert solution.converged.any()
    assert (solution.exploitability[solution.converged] <= 1e-12).all()


@pytest.mark.compiled_as_by_users
def test_in_float32_a_certificate_is_that_of_the_policy_returned():
    """Logarithms near 1e6, rounded once for a policy and again for its query, certified 0.36 and 0.42 by 1e-6."""
    halves = [
        "11201220 11201220 00102022 22210210 11021002 00202121 00012012 22020101",
        "10220012 21210002 00121220 01012220 22101002 22002101 12002210 00220121",
    ]
    P = np.array([[[int(digit) / 2 for digit in row] for row in game.split()] for game in halves], np.float32)
    beta = np.array([2.343317419217783e-06, 1.0395615390734747e-06], np.float32)
    reference = np.array(
        [
            [0.0, 0.0, 0.17986264824867249, 0.0, 0.0, 0.0020554212387651205, 0.5573532581329346, 0.260728657245636],
            [0.0, 0.0012374521465972066, 0.36761412024497986, 0.1389790028333664, 0.0, 0.0, 0.0, 0.49216943979263306],
        ],
        np.float32,
    )
    solution = nj.solve(P, beta, reference=reference)
    policy = np.asarray(solution.policy, np.float64)
    payoffs = np.where(reference > 0, np.einsum("gij,gj->gi", P, policy), 0)
    gain = payoffs.max(1) - 0.5
    assert (gain <= 1e-4).all()
    # At so small a beta the certificate is the gain, but for beta times a divergence of some nats.
    assert (np.abs(gain - solution.exploitability) <= 100 * beta).all()
