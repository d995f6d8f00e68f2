"""Plain equilibria, `beta = 0`: against linear programs, closed forms and the references of the real data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from independent import draw_games
from scipy.optimize import linprog
from test_data import every_set, load, solve_all

import nashjax as nj
from nashjax.games.random import KINDS


def expected_policy(answers: dict) -> np.ndarray:
    names = [str(item) for item in answers.get("items") or range(answers["n"])]
    p = np.zeros(len(names))
    for item, probability in answers["beta0"]["p"].items():
        p[names.index(item)] = probability
    return p


def maximin(P: np.ndarray) -> np.ndarray:
    """A plain equilibrium, by a linear program."""
    n = len(P)
    best = linprog(
        np.append(np.zeros(n), 1), np.c_[P - 0.5, -np.ones(n)], np.zeros(n),
        np.append(np.ones(n), 0)[None], [1], bounds=[(0, None)] * n + [(None, None)],
    )  # fmt: skip
    return best.x[:n]


@every_set
def test_real_data(data, name):
    """1e-10 in exploitability; 1e-6 in p where the equilibrium is unique, else inside the set and near the limit.

    Near: within 2e-3 of the regularised answer at beta = 1e-5, from which the limit is at most 3e-4 away.
    """
    P, answers = load(data, name)
    _, solution = solve_all(P, answers, tol=1e-14)
    p = np.asarray(solution.policy[-1])
    assert bool(solution.converged[-1])
    assert (P @ p).max() - 0.5 <= 1e-10
    unique = nj.metrics.uniqueness(P, p)
    assert bool(unique.unique) == answers["beta0"]["unique"]
    if unique.unique:
        assert np.abs(p - expected_policy(answers)).max() <= 1e-6
        np.testing.assert_allclose(unique.margin, answers["beta0"]["off_support_margin"], rtol=1e-6)
        return
    assert int(unique.null_dimension) > 1
    names = [str(item) for item in answers["items"]]
    ranges = answers["beta0"]["range_over_all_equilibria"]
    for item, probability in zip(names, p, strict=True):
        low, high = ranges.get(item, (0.0, 0.0))
        assert low - 1e-6 <= probability <= high + 1e-6, item
    assert np.abs(p - np.array(answers["regularised"]["1e-05"]["p"])).max() <= 2e-3


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_random_game(dtype):
    """Every game of every kind, ties and copies too; where a linear program finds the same support, the same policy."""
    n, tol = 12, 1e-12 if dtype == "float64" else 1e-6
    drawn = [draw_games(8, n, (8,), kind) for kind in KINDS]
    tied = np.round(2 * drawn[1]) / 2
    copied = drawn[2][:, np.arange(n) // 2][:, :, np.arange(n) // 2]
    P = np.concatenate([*drawn, tied, copied]).astype(dtype)
    solution = nj.solve(P, 0.0, tol=tol)
    assert bool(solution.converged.all())
    p = np.asarray(solution.policy, np.float64)
    exact = 0.5 + (P.astype(float) - np.swapaxes(P, 1, 2)) / 2
    assert (np.einsum("bij,bj->bi", exact, p).max(1) - 0.5 <= tol + 1.2e-7 * (dtype == "float32")).all()
    unique = nj.metrics.uniqueness(exact, p / p.sum(1, keepdims=True))
    assert unique.unique.sum() >= 24
    for i in np.flatnonzero(unique.unique):
        np.testing.assert_allclose(p[i], maximin(exact[i]), atol=1e-8 if dtype == "float64" else 2e-3)
    if dtype == "float64":
        assert unique.unique[: 5 * 8].sum() >= 4 * 8
        assert not unique.unique[-8:].any()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_of_several_equilibria_the_one_nearest_to_the_reference(dtype):
    """Rock-paper-scissors with copies: the copies share the third of their original in the reference's proportions."""
    original = np.array([0, 0, 1, 1, 1, 2])
    rps = np.array([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])
    P = np.broadcast_to(rps[original][:, original].astype(dtype), (24, 6, 6))  # the program of the next test
    rng = np.random.default_rng(0)
    reference = rng.permuted(np.tile([0.1, 0.2, 0.1, 0.25, 0.05, 0.3], (24, 1)), axis=1)
    share = reference / (reference @ (original[:, None] == original))
    solution = nj.solve(P, 0.0, reference=reference, tol=1e-10 if dtype == "float64" else 1e-6)
    assert bool(solution.converged.all())
    np.testing.assert_allclose(solution.policy, share / 3, atol=1e-9 if dtype == "float64" else 1e-4)


def test_least_divergence_against_linear_programs():
    """Games with ties: the optimality condition of the least divergence over all equilibria, a linear program.

    `KL(.||r)` is convex: `p` is the nearest equilibrium if no equilibrium `q` has `<log(p/r), q - p> < 0`.
    """
    rng = np.random.default_rng(0)
    tied = np.asarray(nj.games.random_game(jax.random.key(5), 6, (24,), "uniform").preferences)
    tied = np.round(2 * tied) / 2
    references = rng.dirichlet(5 * np.ones(6), 24)
    solution = nj.solve(tied, 0.0, reference=references, tol=1e-10)
    assert bool(solution.converged.all())
    several = 0
    for P, r, p in zip(tied, references, np.asarray(solution.policy), strict=True):
        several += not nj.metrics.uniqueness(P, p).unique
        slope = np.log(np.maximum(p, 1e-12) / r)
        best = linprog(slope, P - 0.5, np.zeros(6), np.ones((1, 6)), [1])
        assert slope @ p - best.fun <= 1e-4
    assert several >= 12


def test_excluded_actions_and_mixed_betas():
    """Games of beta 0, tiny and moderate share a batch; an excluded winner is not played."""
    P = np.asarray(nj.games.random_game(jax.random.key(2), 7).preferences)
    reference = np.array([0.0, 1, 1, 1, 0, 1, 1]) / 5
    betas = np.array([0.0, 1e-5, 0.1])
    solution = nj.solve(P, betas, reference=reference, tol=1e-12)
    assert bool(solution.converged.all())
    assert (np.asarray(solution.policy)[:, [0, 4]] == 0).all()
    inside = [1, 2, 3, 5, 6]
    left = P[np.ix_(inside, inside)]
    alone = [maximin(left), *nj.solve(left, betas[1:], algorithm=nj.Newton(), tol=1e-12).policy]
    np.testing.assert_allclose(np.asarray(solution.policy)[:, inside], alone, atol=1e-9)


NINE = np.asarray(nj.games.random_game(jax.random.key(0), 9, (4,)).preferences)


def solve_nine(beta: float, tol: float, initial: np.ndarray | jax.Array | None = None, **options) -> nj.Solution:
    """Four games at `beta = 0` and four at a small beta: always the same program."""
    start = np.full((4, 9), 1 / 9)
    initial = np.stack([start, start if initial is None else initial])
    return nj.solve(NINE, np.array([[0.0], [beta]]), tol=np.array([[1e-11], [tol]]), initial=initial, **options)


def half(solution: nj.Solution, row: int) -> nj.Solution:
    return jax.tree.map(lambda x: x[row], solution)


def test_budgets_are_kept_at_beta_zero():
    for budget in (1, 2, 4, 8, 20):
        cut = half(solve_nine(1e-4, 1e-9, max_queries=budget), 0)
        assert (cut.queries <= budget).all()
        exploitability = np.einsum("bij,bj->bi", NINE, cut.policy).max(1) - 0.5
        np.testing.assert_allclose(cut.exploitability, exploitability, atol=1e-14)
        assert ((cut.status == nj.Status.CONVERGED) == (exploitability <= 1e-11)).all()
    assert (half(solve_nine(1e-4, 1e-9), 0).queries > 8).all()


def test_uniqueness_says_why_not():
    rps = np.array([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])
    found = nj.metrics.uniqueness(rps, np.full(3, 1 / 3))
    assert (float(found.margin), int(found.null_dimension), bool(found.unique)) == (np.inf, 1, True)
    found = nj.metrics.uniqueness(np.full((4, 4), 0.5), np.full(4, 0.25))
    assert (int(found.null_dimension), bool(found.unique)) == (4, False)
    found = nj.metrics.uniqueness(np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([1.0, 0.0]))
    assert (float(found.margin), int(found.null_dimension), bool(found.unique)) == (0.0, 1, False)
    pure = np.array([[0.5, 0.7, 0.6], [0.3, 0.5, 0.5], [0.4, 0.5, 0.5]])
    found = nj.metrics.uniqueness(pure, np.array([1.0, 0, 0]))
    np.testing.assert_allclose(found.margin, 0.1)
    assert bool(found.unique)


def test_a_path_gives_what_single_solves_give():
    games = nj.games.random_game(jax.random.key(3), 12, (3,), "uniform")
    references = np.random.default_rng(0).dirichlet(np.ones(12), (2, 1))
    betas = np.array([0.5, 0.1, 0.02, 1e-3, 1e-4, 0.0])
    path = nj.solve_path(games, betas, reference=references, tol=1e-13)
    assert path.policy.shape == (6, 2, 3, 12)
    assert bool(path.converged.all())
    alone = nj.solve(games, betas[:, None, None], reference=references, tol=1e-13)
    np.testing.assert_allclose(path.policy, alone.policy, atol=1e-9)
    assert int(path.queries[:3].sum()) < int(alone.queries[:3].sum())


def test_a_path_may_differ_per_game_and_has_derivatives():
    games = nj.games.random_game(jax.random.key(3), 5, (3,), "uniform")
    betas = np.array([[0.3, 0.2, 0.1], [0.2, 0.1, 0.05]])
    exactly = {"algorithm": nj.NashMP(), "tol": 1e-27}

    @jax.jit
    def follow(betas):
        return nj.solve_path(games, betas, **exactly).policy

    alone = nj.solve(games, betas, **exactly)
    np.testing.assert_allclose(follow(betas), alone.policy, atol=1e-9)
    h = 1e-5
    numeric = (follow(betas + h) - follow(betas - h)) / (2 * h)
    slope = jax.jvp(follow, (betas,), (np.ones_like(betas),))[1]
    np.testing.assert_allclose(slope, numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        (0.1, r"betas must be an array \[num_betas, ...\] with at least one beta, got shape \[\]"),
        ([], r"betas must be .*, got shape \[0\]"),
        ([0.1, 0.2], r"betas\[1\] must be at most the beta before it, got 0.2"),
        ([0.1, -0.2], r"betas\[1\] must be finite and >= 0, got -0.2"),
        (["x"], "betas must be real numbers"),
    ],
)
def test_a_path_refuses(betas, message):
    with pytest.raises((TypeError, ValueError), match=message):
        nj.solve_path(np.full((2, 2), 0.5), betas)


def test_there_are_no_derivatives_at_beta_zero():
    """NaN and not a number that means nothing, forwards and backwards; beside other games theirs alone."""
    P = np.asarray(nj.games.random_game(jax.random.key(0), 4).preferences)
    reference = np.full(4, 0.25)

    def weighted(P, beta, reference):
        return jnp.sum(nj.solve(P, beta, reference=reference, tol=1e-12).policy * jnp.arange(8.0).reshape(2, 4))

    betas = np.array([0.0, 0.1])
    in_game, in_beta, in_reference = jax.grad(weighted, (0, 1, 2))(np.stack([P, P]), betas, np.stack([reference] * 2))
    in_game = in_game[:, ~np.eye(4, dtype=bool)]  # the diagonal is not looked at
    for gradient in (in_game, in_beta, in_reference):
        assert np.isnan(gradient[0]).all()
        assert np.isfinite(gradient[1]).all()
    other = {"algorithm": nj.NashMP(), "tol": 1e-25, "max_queries": 2000}  # derivatives do not depend on the method
    slope = jax.jvp(lambda b: nj.solve(P, b, reference=reference, **other).policy, (betas,), (np.ones(2),))[1]
    assert np.isnan(slope[0]).all()
    np.testing.assert_allclose(np.sum(slope[1] * np.arange(4, 8)), in_beta[1], rtol=1e-9)


def test_budgets_and_warm_starts_at_a_small_beta():
    lowest = np.full(4, np.inf)
    cuts = {}
    for budget in (1, 2, 3, 4, 6, 9, 14, 30):
        cuts[budget] = cut = half(solve_nine(1e-4, 1e-9, max_queries=budget), 1)
        assert (cut.queries <= budget).all()
        assert ((cut.status == nj.Status.CONVERGED) == (cut.exploitability <= 1e-9)).all()
        lowest = np.minimum(lowest, cut.exploitability)
    assert (lowest <= 1e-9).all()
    assert (cuts[9].exploitability < cuts[1].exploitability / 10).all()
    answer = half(solve_nine(1e-4, 1e-9), 1)
    again = half(solve_nine(1e-4, 1e-8, initial=answer.policy), 1)
    assert (again.queries == 1).all()
    near = half(solve_nine(0.98e-4, 1e-9, initial=answer.policy), 1)
    assert (near.queries < answer.queries).all()


def test_a_solved_game_spends_few_steps_on_the_limit_in_float32():
    """These are solved after a dozen steps; the limit, which rounding hides from them, once took a thousand more."""
    games = nj.games.random_game(jax.random.key(1), 100, (64,)).preferences[np.array([7, 12, 23, 33])]
    solution = nj.solve(games.astype(jnp.float32), 0.0)
    assert solution.converged.all()
    assert solution.steps.max() < 250
