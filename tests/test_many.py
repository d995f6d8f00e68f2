"""Games of different sizes, solved together: each answer is that of the game alone."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from independent import draw_games, equilibrium
from scipy.optimize import linprog

import nashjax as nj
from nashjax._execution import unequal
from nashjax._execution.programs import PROGRAMS

SIZES = (2, 3, 5, 8, 9)
BETAS = (0.3, 0.1, 0.05, 0.2, 0.02)


def games(dtype: type = np.float64) -> list[np.ndarray]:
    return [draw_games(7, n, (), "gaussian").astype(dtype) for n in SIZES]


def two(seed: int = 0) -> list[np.ndarray]:
    return [draw_games(seed, n, (), "gaussian") for n in (2, 4)]


def test_the_solutions_are_those_of_an_independent_program_in_order():
    references = [np.arange(1, n + 1) / (n * (n + 1) / 2) for n in SIZES]
    solutions = nj.solve_many(iter(games()), BETAS, reference=references, tol=1e-14)
    assert [type(solution) for solution in solutions] == [nj.Solution] * len(SIZES)
    for P, beta, reference, solution in zip(games(), BETAS, references, solutions, strict=True):
        assert solution.policy.shape == (len(P),)
        assert solution.status == nj.Status.CONVERGED
        np.testing.assert_allclose(solution.policy, equilibrium(P, beta, reference), rtol=1e-9)


def test_at_beta_0_the_worst_payoff_is_that_of_a_linear_program(monkeypatch):
    monkeypatch.setattr(unequal, "PROGRAM", np.inf)  # one size, to compile little
    for P, solution in zip(games(), nj.solve_many(games(), 0.0, tol=1e-12), strict=True):
        n = len(P)
        # HiGHS: the largest v with P p >= v, and whether the policy found reaches it.
        found = linprog(
            [0] * n + [-1],
            np.column_stack([-P.T, np.ones(n)]),
            np.zeros(n),
            [[1] * n + [0]],
            [1],
            [(0, 1)] * n + [(None, None)],
        )
        assert abs((P.T @ solution.policy).min() - -found.fun) < 1e-9
        assert solution.converged


@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-14), (np.float32, 1e-6)])
def test_padding_changes_an_answer_by_rounding_alone(dtype, atol, monkeypatch):
    monkeypatch.setattr(unequal, "PROGRAM", 0.0)
    monkeypatch.setattr(unequal, "MOST_PROGRAMS", 2)
    items = [draw_games(k, n, (), "gaussian").astype(dtype) for k, n in enumerate((2, 3, 3, 2, 2, 3, 2))]
    betas = np.geomspace(0.02, 0.5, 7)
    method = nj.NashMP()
    found = nj.solve_many(items, betas, algorithm=method, tol=1e-5)
    for P, beta, solution in zip(items, betas, found, strict=True):
        alone = nj.solve(P, beta, algorithm=method, tol=1e-5)
        assert solution.log_policy.dtype == dtype
        assert solution.queries == alone.queries
        for name in ("policy", "exploitability", "kl_bound"):
            np.testing.assert_allclose(getattr(solution, name), getattr(alone, name), atol=atol * 30, err_msg=name)


LOW_RANK = [nj.games.LowRankGame(*jax.random.uniform(jax.random.key(seed), (2, 6, 2), maxval=0.3)) for seed in range(2)]
EMBEDDING = nj.games.EmbeddingGame(jax.random.normal(jax.random.key(0), (5, 2)), jnp.array([[0.0, 1.0], [-1.0, 0.0]]))


def test_items_of_every_kind_keep_their_places(monkeypatch):
    monkeypatch.setattr(unequal, "PROGRAM", np.inf)
    batch = draw_games(1, 3, (2,), "uniform")
    items = [
        LOW_RANK[0],
        games()[1],
        nj.MatrixGame(jnp.asarray(games()[3])),
        batch,
        EMBEDDING,
        LOW_RANK[1],
        [[0, 1], [1, 0]],
    ]
    items[-1] = [[0.5, 1], [0, 0.5]]
    betas = [0.3, 0.2, 0.2, [0.1, 0.2], 0.3, 0.2, 0.1]
    excluding: list[Any] = [None, [0.5, 0.5, 0], None, [[0.2, 0.3, 0.5]], None, np.full(6, 1 / 6), None]
    method = nj.AdaptiveNashMP()
    solutions = nj.solve_many(items, betas, reference=excluding, algorithm=method, tol=1e-10)
    assert [solution.policy.shape for solution in solutions] == [(6,), (3,), (8,), (2, 3), (5,), (6,), (2,)]
    for item, beta, reference, solution in zip(items, betas, excluding, solutions, strict=True):
        assert isinstance(solution.log_policy, np.ndarray)
        if isinstance(item, nj.Game) and not item.has_matrix:
            item = np.asarray(item.payoffs(jnp.eye(item.num_actions)))
        P = np.asarray(item.preferences if isinstance(item, nj.MatrixGame) else item, float)
        for k, p in enumerate(np.atleast_2d(solution.policy)):
            one, b = (P[k], beta[k]) if P.ndim == 3 else (P, beta)
            r = np.full(len(one), 1 / len(one)) if reference is None else np.ravel(reference)
            kept = r > 0
            np.testing.assert_allclose(p[kept], equilibrium(one[np.ix_(kept, kept)], b, r[kept]), atol=2e-4)
            assert (p[~kept] == 0).all()


def test_excluded_actions_and_diagonals_may_hold_anything():
    small, large = two()
    damaged = np.pad(small, ((0, 1), (0, 1)), constant_values=np.nan)
    damaged[0, 0] = 7
    found = nj.solve_many([damaged, large], 0.1, reference=[np.array([0.5, 0.5, 0]), None], algorithm=nj.NashMP())
    np.testing.assert_allclose(
        found[0].policy[:2], nj.solve_many([small], 0.1, algorithm=nj.NashMP())[0].policy, atol=1e-6
    )
    assert found[0].policy[2] == 0


def test_no_games_have_no_solutions():
    assert nj.solve_many([], 0.1) == []
    assert nj.solve_many(iter(()), [], reference=[]) == []
    (none,) = nj.solve_many([np.zeros((0, 3, 3))], 0.1)
    assert none.policy.shape == (0, 3)


NOT_FINITE = nj.games.LowRankGame(jnp.full((3, 1), np.inf), jnp.ones((3, 1)))
ERRORS = [
    (
        {"games": [*two(), np.ones((3, 4))]},
        "games[2] must be a square matrix [..., n, n] with n >= 2, got shape [3, 4].",
    ),
    ({"games": [*two(), np.ones((3, 3))]}, "games[2][0, 1] must satisfy P[i, j] + P[j, i] = 1 within 1e-6"),
    ({"games": [*two(), np.full((2, 3, 3), 2)]}, "games[2][0, 0, 1] must be a probability in [0, 1], got 2.0."),
    ({"games": [*two(), None]}, "games[2] must be an array of real numbers, got None."),
    ({"games": [nj.solve]}, "games[0] must be an array of real numbers, got dtype object."),
    ({"games": 3}, "games must be an iterable of games, got 3."),
    ({"games": nj.MatrixGame(jnp.full((2, 2), 0.5))}, "Put a single game in a list."),
    ({"games": [NOT_FINITE]}, "games[0].left[0, 0] must be a finite number, got inf."),
    ({"games": [NOT_FINITE], "beta": [-1]}, "beta[0] must be finite and >= 0, got -1.0."),
    ({"beta": [0.1, -1]}, "beta[1] must be finite and >= 0, got -1.0."),
    ({"beta": np.array([0.1, -1])}, "beta[1] must be finite and >= 0, got -1.0."),
    ({"beta": np.nan}, "beta must be finite and >= 0, got nan."),
    ({"beta": [0.1]}, "beta must be a number or a list with one value for each of the 2 games, got 1 values."),
    ({"tol": [0.1, -1]}, "tol[1] must be a number >= 0"),
    ({"reference": [None, [0.2, 0.3, 0.5]]}, "reference[1] must be an array [..., 4]"),
    ({"reference": [None, [0.1, 0.2, 0.3, 0.3]]}, "reference[1] must be probabilities that sum to 1"),
    ({"reference": [None]}, "reference must be a list with one value for each of the 2 games, got 1 values."),
    ({"reference": 0.5}, "reference must be None or a list with one for each game, got 0.5."),
    ({"beta": [0.1, [0.1, 0.2, 0.3]], "games": [two()[0], np.stack([two()[1]] * 2)]}, "batch shapes of games[1] must"),
    (
        {"games": [np.ones((3, 3)), two()[0]], "reference": [np.eye(3)[[0, 1]] / 2 + np.eye(3)[[0, 2]] / 2, None]},
        "games[0][1, 1, 2] must satisfy P[i, j] + P[j, i] = 1",
    ),
    ({"algorithm": nj.InteriorPoint(), "beta": [0, 0.1]}, "beta of games[1] must be 0 for InteriorPoint"),
    ({"algorithm": nj.NashMP(eta=jnp.array([0.1, 0.2]))}, "hyperparameters are single numbers"),
    ({"max_queries": 0}, "max_queries must be an integer"),
]


@pytest.mark.parametrize(("arguments", "said"), ERRORS)
def test_errors_name_the_item_before_anything_is_solved(arguments, said, monkeypatch):
    monkeypatch.setattr("nashjax._solve.solve", lambda *_, **__: pytest.fail("solved"))
    with pytest.raises((TypeError, ValueError), match=re.escape(said)):
        nj.solve_many(**{"games": two(), "beta": 0.1} | arguments)


def test_games_that_did_not_converge_raise_on_request():
    options = {"algorithm": nj.NashMP(), "max_queries": 3}
    solutions = nj.solve_many(two(), [100.0, 0.01], **options)
    assert [bool(solution.converged) for solution in solutions] == [True, False]
    with pytest.raises(
        nj.NotConverged, match=re.escape("1 of 2 converged. The first other is games[1]: MAX_QUERIES")
    ) as raised:
        nj.solve_many(two(), [100.0, 0.01], throw=True, **options)
    assert [type(solution) for solution in raised.value.solution] == [nj.Solution] * 2


def test_inside_a_trace_games_are_solved_one_by_one_with_derivatives():
    first, second = map(jnp.asarray, two())

    def share(P: jax.Array) -> jax.Array:
        return nj.solve_many([P, second], [0.2, 0.1], algorithm=nj.NashMP())[0].policy[0]

    def alone(P: jax.Array) -> jax.Array:
        return nj.solve(P, 0.2, algorithm=nj.NashMP()).policy[0]

    np.testing.assert_allclose(jax.jit(jax.grad(share))(first), jax.grad(alone)(first), atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=60), st.integers(1, 4))
def test_the_sizes_are_those_of_least_work(sizes, most):
    chosen = unequal.choose_sizes(np.array(sizes), most)
    assert chosen[-1] == max(sizes)
    assert len(chosen) <= most
    assert set(chosen.tolist()) <= set(sizes)

    def cost(candidates):
        padded = np.array([min(size for size in candidates if size >= own) for own in sizes])
        return unequal._work(padded).sum() + (len(candidates) - 1) * unequal.PROGRAM

    others = sorted(set(sizes) - {max(sizes)})
    pairs = [[max(sizes)], *([[one, max(sizes)] for one in others] if most > 1 else [])]
    assert cost(chosen) <= min(map(cost, pairs)) * (1 + 1e-12)


def test_many_games_are_padded_to_few_sizes(monkeypatch):
    monkeypatch.setattr(unequal, "PROGRAM", 0.0)
    rng = np.random.default_rng(0)
    assert len(unequal.choose_sizes(rng.integers(2, 61, 10_000), 4)) == 4
    items = [draw_games(k, int(n), (), "gaussian") for k, n in enumerate(rng.integers(2, 12, 60))]
    before = len(PROGRAMS)
    assert all(solution.converged for solution in nj.solve_many(items, 0.5))
    assert len(PROGRAMS) - before <= unequal.MOST_PROGRAMS
