import dataclasses
import functools
import subprocess
import sys
import textwrap
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from independent import equilibrium

import nashjax as nj
from nashjax._math.pytree import register_dataclass
from nashjax.algorithms.base import BasicState
from nashjax.games.random import KINDS


def weighted_rps(a: float, b: float, c: float) -> np.ndarray:
    """Rock-paper-scissors whose plain equilibrium is proportional to `(b, c, a)`, in closed form."""
    A = np.array([[0, a, -c], [-a, 0, b], [c, -b, 0]])
    return 0.5 + A / 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_call_returns_what_it_says(dtype):
    game = nj.games.random_game(jax.random.key(0), 6, (4,))
    solution = nj.solve(game.preferences.astype(dtype), 0.1)
    assert solution.log_policy.dtype == solution.exploitability.dtype == solution.kl_bound.dtype == dtype
    assert solution.policy.shape == (4, 6)
    assert solution.exploitability.shape == solution.queries.shape == solution.status.shape == (4,)
    np.testing.assert_allclose(solution.policy.sum(-1), 1, rtol=1e-6)
    assert (solution.exploitability <= 1e-6).all()
    assert (solution.status == nj.Status.CONVERGED).all()
    assert bool(solution.converged.all())
    assert (solution.queries >= solution.steps).all()
    floor = np.finfo(dtype).eps ** 2 * (1 / 0.1 + 8 * 0.1)
    bound = (np.sqrt(np.asarray(solution.exploitability, float)) + np.sqrt(floor)) ** 2 / 0.1
    np.testing.assert_allclose(solution.kl_bound, bound, rtol=1e-5)
    for i in range(4):
        star = equilibrium(np.asarray(game.preferences[i]), 0.1, np.full(6, 1 / 6))
        assert np.abs(solution.policy[i] - star).sum() <= np.sqrt(2 * 1e-6 / 0.1)


def test_float32_in_by_default_where_x64_is_off():
    with jax.enable_x64(False):
        game = nj.games.random_game(jax.random.key(0), 2)
        assert nj.solve(game, 0.1, algorithm=nj.NashMP()).policy.dtype == jnp.float32
        P = np.array([[0.5, 1.0], [0.0, 0.5]])
        assert nj.solve(P, 0.1, algorithm=nj.NashMP()).policy.dtype == jnp.float32


def test_integers_and_booleans_are_promoted_and_half_precision_is_solved_in_float32():
    tournament = np.array([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])
    options = {"reference": np.array([0.5, 0.3, 0.2]), "algorithm": nj.AdaptiveNashMP()}
    expected = nj.solve(tournament, 0.1, **options)
    half = nj.solve(jnp.array(tournament, jnp.bfloat16), 0.1, **options)
    assert half.policy.dtype == jnp.float32
    np.testing.assert_allclose(half.policy, expected.policy, atol=5e-3)
    assert nj.MatrixGame.from_payoffs(np.array([[0, 1], [-1, 0]])).preferences.dtype == jnp.float64


def test_betas_references_and_games_broadcast_as_in_numpy():
    games = nj.games.random_game(jax.random.key(0), 5, (3, 1))
    betas = jnp.array([0.5, 0.1, 0.02, 0.3])
    references = jax.random.dirichlet(jax.random.key(1), jnp.ones(5), (2, 1, 1))
    exactly = {"algorithm": nj.NashMP(), "tol": 1e-21}  # each shape is a program, and this method's is the smallest
    whole = nj.solve(games, betas, reference=references, **exactly)
    blocks = nj.solve(games, betas, reference=references, tol=1e-12, block_size=7)
    assert whole.policy.shape == blocks.policy.shape == (2, 3, 4, 5)
    for i, j, k in np.ndindex(2, 3, 4):
        alone = nj.solve(games.preferences[j, 0], betas[k], reference=references[i, 0, 0], **exactly)
        np.testing.assert_allclose(whole.policy[i, j, k], alone.policy, atol=1e-9)
        np.testing.assert_allclose(blocks.policy[i, j, k], alone.policy, atol=1e-9)


def test_tolerance_may_differ_per_game():
    game = nj.games.random_game(jax.random.key(0), 8)
    solution = nj.solve(game, 0.05, tol=jnp.array([1e-3, 1e-6, 1e-12]))
    assert (solution.exploitability <= np.array([1e-3, 1e-6, 1e-12])).all()
    assert (np.diff(solution.queries) > 0).all()


def test_games_of_different_sizes_share_a_batch():
    """Zeros in the reference exclude actions: what is left gives what it gives alone (1e-9).

    Alone by other means for every game, and by `solve` for some: each size is a program to compile.
    """
    sizes = np.arange(3, 21)
    rng = np.random.default_rng(0)
    kinds = [nj.games.random_game(jax.random.key(1), 20, (3,), kind).preferences for kind in KINDS]
    P = np.concatenate(kinds)  # what lies outside the first n actions must not matter
    reference = np.zeros((len(sizes), 20))
    for i, n in enumerate(sizes):
        reference[i, :n] = rng.dirichlet(np.ones(n))
    batch = nj.solve(P, 0.05, reference=reference, tol=1e-20)
    assert bool(batch.converged.all())
    for i, n in enumerate(sizes):
        star = equilibrium(P[i, :n, :n], 0.05, reference[i, :n])
        np.testing.assert_allclose(batch.policy[i, :n], star, atol=1e-9)
        assert (batch.policy[i, n:] == 0).all()
        assert np.isneginf(batch.log_policy[i, n:]).all()
    for i, n in ((0, 3), (6, 9), (16, 19)):
        alone = nj.solve(P[i, :n, :n], 0.05, reference=reference[i, :n], algorithm=nj.NashMP(), tol=1e-21)
        np.testing.assert_allclose(batch.policy[i, :n], alone.policy, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_warm_start_with_zeros_excludes_nothing(dtype):
    """A probability that has underflowed must not change the game: the answer is the one of a cold start."""
    P = np.array([[0.5, 0.9, 0.6], [0.1, 0.5, 0.2], [0.4, 0.8, 0.5]], dtype)
    pure = np.array([1.0, 0.0, 0.0], dtype)
    algorithm = nj.AdaptiveNashMP()  # by which the default begins
    cold = nj.solve(P, 0.5, algorithm=algorithm)
    warm = nj.solve(P, 0.5, algorithm=algorithm, initial=pure)
    assert bool(warm.converged)
    np.testing.assert_allclose(cold.policy, warm.policy, atol=2e-3)
    star = equilibrium(P.astype(float), 0.5, np.full(3, 1 / 3))
    assert np.abs(warm.policy - star).sum() <= np.sqrt(2 * float(warm.kl_bound)) * 1.001
    assert int(nj.solve(P, 0.5, algorithm=algorithm, initial=warm.policy).queries) == 1


def test_copies_of_a_game_give_the_same_bits():
    P = nj.games.random_game(jax.random.key(0), 11).preferences
    for dtype in (jnp.float32, jnp.float64):
        rows = nj.solve(jnp.broadcast_to(P.astype(dtype), (7, 11, 11)), 0.02)
        assert (rows.log_policy == rows.log_policy[0]).all()
        assert (rows.queries == rows.queries[0]).all()


def test_a_game_that_has_ended_never_changes_while_others_go_on():
    """The same bits beside an easy neighbour and beside one that takes ten times longer."""
    games = nj.games.random_game(jax.random.key(0), 9, (2,)).preferences
    beside_easy = nj.solve(games, jnp.array([0.1, 0.5]), tol=1e-8)
    beside_hard = nj.solve(games, jnp.array([0.1, 2e-3]), tol=1e-8)
    assert int(beside_hard.queries[1]) > 10 * int(beside_easy.queries[1])
    for field in ("log_policy", "exploitability", "queries", "steps", "status"):
        assert np.array_equal(getattr(beside_easy, field)[0], getattr(beside_hard, field)[0]), field


def test_jit_and_vmap_give_the_same():
    game = nj.games.random_game(jax.random.key(0), 7, (6,))
    plain = nj.solve(game, 0.05, tol=1e-12)
    jitted = jax.jit(lambda g, b: nj.solve(g, b, tol=1e-12))(game, 0.05)
    mapped = jax.vmap(lambda P: nj.solve(P, 0.05, tol=1e-12))(game.preferences)
    for other in (jitted, mapped):
        np.testing.assert_allclose(plain.policy, other.policy, atol=1e-9)
        np.testing.assert_array_equal(plain.status, other.status)


def test_games_that_a_trace_closes_over():
    """Under `jit` and `scan` a game that is not traced is still checked, and nothing else changes."""
    game = nj.games.random_game(jax.random.key(0), 4)
    solve = functools.partial(nj.solve, algorithm=nj.AdaptiveNashMP())
    expected = solve(game, jnp.array([0.1, 0.3]))
    found = jax.lax.scan(lambda _, b: (None, solve(game, b).policy), None, jnp.array([0.1, 0.3]))[1]
    np.testing.assert_allclose(found, expected.policy, atol=1e-12)
    reference = jnp.full(4, 0.25)
    P = np.asarray(game.preferences)
    cut = jax.jit(lambda b, m: solve(P, b, reference=reference, initial=reference, max_queries=m))(0.1, 2)
    assert int(cut.queries) <= 2
    assert np.isfinite(jax.jit(lambda b: nj.metrics.exploitability(game, reference, b))(0.1))
    with pytest.raises(ValueError, match=r"game.preferences\[0, 2\] must be a finite probability, got nan"):
        jax.jit(lambda b: solve(np.where(np.eye(3)[::-1] > 0, np.nan, 0.5), b).policy)(0.1)


def test_empty_batches_are_solved():
    for block_size in (None, 2):
        assert nj.solve(np.zeros((0, 3, 3)), 0.1, block_size=block_size).policy.shape == (0, 3)


def test_small_float32_tolerances_stall_at_the_documented_level():
    """`eps^2 (1/beta + 8 beta)` four times over, about 6e-14 / beta in float32; slow progress is no stall."""
    beta = jnp.array([[1.0], [0.1], [0.01], [1e-3]])
    P = nj.games.random_game(jax.random.key(1), 30, (8,)).preferences.astype(jnp.float32)
    solution = nj.solve(P, beta, tol=1e-22)
    ended = (solution.status == nj.Status.STALLED) | (solution.exploitability <= 1e-22)
    assert bool(ended.all())
    assert (solution.exploitability <= 4 * 1.193e-7**2 * (1 / beta + 8 * beta)).all()
    assert (solution.queries < 20_000).all()
    slow = nj.solve(
        weighted_rps(1.0, 0.1, 0.1).astype(np.float32), 1e-4, tol=1e-9, algorithm=nj.NashMP(), max_queries=500
    )
    assert int(slow.status) == nj.Status.MAX_QUERIES


def test_the_best_iterate_is_returned_when_queries_run_out():
    P = nj.games.random_game(jax.random.key(0), 20, (5,)).preferences
    budget = 41
    cut = nj.solve(P, 1e-3, algorithm=nj.NashMP(), max_queries=budget)
    assert (cut.status == nj.Status.MAX_QUERIES).all()
    assert (cut.queries <= budget).all()
    path = nj.trajectory(P, 1e-3, algorithm=nj.NashMP(), num_steps=20)
    # Two programs, each compiled in its own way, may differ in the last digits.
    np.testing.assert_allclose(cut.exploitability, path.exploitability.min(-1), rtol=1e-13)
    np.testing.assert_allclose(nj.metrics.exploitability(P, cut.policy, 1e-3), cut.exploitability, rtol=1e-9)
    assert (nj.solve(P, 1e-3, algorithm=nj.NashMP(), max_queries=1).queries == 1).all()
    # The default changes methods on the way, and keeps to the budget too.
    for budget in (1, 2, 30, 161, 165):
        cut = nj.solve(P, 1e-3, tol=1e-12, max_queries=budget)
        assert (cut.queries <= budget).all()
        assert (cut.status == nj.Status.MAX_QUERIES).all()


def test_beta_zero_is_certified_by_the_best_payoff():
    P = weighted_rps(0.5, 0.8, 1.0)
    solution = nj.solve(P, 0.0, tol=1e-7)
    assert bool(solution.converged)
    assert float(solution.kl_bound) == np.inf
    assert (P @ np.asarray(solution.policy)).max() - 0.5 <= 1e-7
    np.testing.assert_allclose(solution.policy, np.array([0.8, 1.0, 0.5]) / 2.3, atol=1e-5)


def test_a_bad_game_inside_a_trace_ends_as_invalid_and_harms_no_other():
    good = nj.games.random_game(jax.random.key(0), 4, (6,)).preferences
    bad = good.at[1, 0, 2].set(jnp.nan).at[2, 3, 1].add(0.1).at[3].add(2.0)
    beta = jnp.array([0.1, 0.1, 0.1, 0.1, -0.1, jnp.nan])
    solution = jax.jit(nj.solve)(bad, beta)
    assert list(solution.status) == [nj.Status.CONVERGED] + [nj.Status.INVALID] * 5
    assert np.isnan(solution.log_policy[1:]).all()
    assert np.isposinf(solution.exploitability[1:]).all()
    assert np.isposinf(solution.kl_bound[1:]).all()
    np.testing.assert_array_equal(solution.policy[0], jax.jit(nj.solve)(good, jnp.full(6, 0.1)).policy[0])
    reference = jnp.array([[0.5, 0.5, 0, 0], [0.5, 0.6, 0, 0], [1.5, -0.5, 0, 0], [0, 0, 0, 0]])
    algorithm = nj.AdaptiveNashMP()
    status = jax.jit(lambda r: nj.solve(good[0], 0.1, reference=r, algorithm=algorithm).status)(reference)
    assert list(status) == [nj.Status.CONVERGED] + [nj.Status.INVALID] * 3
    path = jax.jit(lambda P: nj.trajectory(P, 0.1, algorithm=nj.NashMP(), num_steps=2))(bad)
    assert np.isposinf(path.exploitability[1]).all()
    assert np.isfinite(path.exploitability[0]).all()


def test_a_method_that_holds_wrong_payoffs_does_not_certify_itself():
    @register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Flatters(nj.Algorithm):
        queries_per_step: ClassVar[int] = 1

        def init(self, problem, log_policy):
            return BasicState.start(problem, log_policy)

        def step(self, problem, state):
            return state._replace(payoffs=jnp.full_like(state.payoffs, 0.5), queries=state.queries + 1)

    games = nj.games.random_game(jax.random.key(0), 5, (3,))
    solution = nj.solve(games, 0.1, algorithm=Flatters(), max_queries=9)
    assert (solution.status == nj.Status.MAX_QUERIES).all()
    np.testing.assert_allclose(solution.exploitability, nj.metrics.exploitability(games, solution.policy, 0.1))
    # With a tolerance that the true certificate is within, after a false one that is better still, it has converged.
    start = np.eye(5) * 0.5 + 0.1
    good_enough = nj.solve(games, 0.1, algorithm=Flatters(), initial=start[:3], tol=0.05)
    true = nj.metrics.exploitability(games, good_enough.policy, 0.1)
    np.testing.assert_allclose(good_enough.exploitability, true)
    np.testing.assert_array_equal(good_enough.converged, true <= 0.05)


def test_a_method_that_loses_its_policy_certifies_nothing():
    """Weights that sum to 0 have a divergence of 1 from the best response, so a certificate of `beta` (no policy)."""

    @register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Loses(nj.Algorithm):
        queries_per_step: ClassVar[int] = 1

        def init(self, problem, log_policy):
            return BasicState.start(problem, log_policy)

        def step(self, problem, state):
            nothing = jnp.full_like(state.log_policy, -jnp.inf)
            return state._replace(log_policy=nothing, payoffs=problem.payoffs(nothing), queries=state.queries + 1)

    game = nj.games.random_game(jax.random.key(0), 5)
    solution = jax.jit(lambda P: nj.solve(P, 1e-4, algorithm=Loses(), tol=1e-3, max_queries=9))(game.preferences)
    assert solution.status == nj.Status.INVALID
    assert jnp.isinf(solution.exploitability)
    assert jnp.isnan(solution.policy).all()


def test_trajectory_records_every_step():
    game = nj.games.random_game(jax.random.key(0), 5, (2, 3))
    path = nj.trajectory(game, 0.1, algorithm=nj.AdaptiveNashMP(), num_steps=8)
    assert path.log_policy.shape == (2, 3, 9, 5)
    assert path.exploitability.shape == path.queries.shape == (2, 3, 9)
    assert path.step_size.shape == (2, 3, 8)
    np.testing.assert_allclose(np.exp(path.log_policy[:, :, 0]), 0.2, rtol=1e-12)
    again = nj.metrics.exploitability(nj.MatrixGame(game.preferences[:, :, None]), np.exp(path.log_policy), 0.1)
    np.testing.assert_allclose(path.exploitability, again, rtol=1e-9, atol=1e-18)
    solved = nj.solve(game, 0.1, algorithm=nj.AdaptiveNashMP(), tol=1e-3)
    reached = np.maximum.accumulate(path.exploitability <= 1e-3, axis=-1)
    np.testing.assert_array_equal(solved.steps, np.argmax(reached, axis=-1))
    none = nj.trajectory(game, 0.1, algorithm=nj.NashMP(), num_steps=0)
    assert none.log_policy.shape == (2, 3, 1, 5)
    with pytest.raises(TypeError, match=r"algorithm must be an instance of an algorithm, .*, got None"):
        nj.trajectory(game, 0.1, algorithm=None, num_steps=1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"num_steps must be an integer from 0 to .*, got -1"):
        nj.trajectory(game, 0.1, algorithm=nj.NashMP(), num_steps=-1)


def test_status_says_itself_in_words():
    assert [int(s) for s in nj.Status] == [0, 1, 2, 3]
    assert all(s.describe().endswith(".") for s in nj.Status)


def test_import_needs_jax_only():
    """`import nashjax` loads nothing that only the command line or an extra needs."""
    code = textwrap.dedent("""
        import sys
        import nashjax
        extra = {"typer", "rich", "flax", "optax", "orbax", "chex", "pandas", "matplotlib", "scipy.optimize"}
        print(sorted(extra & set(sys.modules)))
    """)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
