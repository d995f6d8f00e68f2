"""Every algorithm through the same checks; a new one adds a row to ALGORITHMS."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from independent import equilibrium

import nashjax as nj
from nashjax import simplex
from nashjax.games.random import KINDS

ALGORITHMS = [nj.NashMP(), nj.AdaptiveNashMP(), nj.Newton()]
names = [type(a).__name__ for a in ALGORITHMS]
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=names)


@functools.cache
def drawn(n: int, games: int, kind: str, seed: int) -> np.ndarray:
    return np.asarray(nj.games.random_game(jax.random.key(seed), n, (games,), kind).preferences)


def all_kinds(n: int, games: int, betas: list[float], seed: int = 0) -> tuple[nj.MatrixGame, np.ndarray, np.ndarray]:
    """Games `[kinds * betas * games]` with a random reference each."""
    P = np.concatenate([drawn(n, games * len(betas), kind, seed) for kind in KINDS])
    beta = np.tile(np.repeat(betas, games), len(KINDS))
    reference = np.random.default_rng(seed).dirichlet(np.ones(n), len(beta))
    return nj.MatrixGame(jnp.array(P)), beta, reference


@jax.jit
def divergences(algorithm, game, beta, log_reference, log_star):
    """At every step, `[steps, games]`: `KL(p*||p)` before and after, eta, whether p moved, `E(p)` and `KL(p||p*)`."""
    problem = nj.RegularizedGame(game, beta, log_reference)

    def advance(state, _):
        following = algorithm.step(problem, state)
        before = simplex.kl_divergence(log_star, state.log_policy)
        after = simplex.kl_divergence(log_star, following.log_policy)
        moved = jnp.any(following.log_policy != state.log_policy, axis=0)
        exploitability = problem.exploitability(following.log_policy, following.payoffs)
        reverse = simplex.kl_divergence(following.log_policy, log_star)
        return following, (before, after, following.step_size, moved, exploitability, reverse)

    return jax.lax.scan(advance, algorithm.init(problem, log_reference), length=400)[1]


@pytest.mark.parametrize(("n", "games"), [(2, 180), (3, 180), (10, 180), (50, 20)])
def test_every_step_contracts_in_every_game(n, games):
    """`KL(p*||p_{k+1}) <= KL(p*||p_k) / (1 + eta)` (spec 3) at each of 400 steps of 10,080 games in all.

    And the sandwich `beta KL(p||p*) <= E(p) <= (beta + 1/(4 beta)) KL(p||p*)` (spec 2) at each. Rounding slack: 1e-13
    of the divergence, and `1e-13 sqrt(KL) + 1e-26` because `log p*` is itself rounded.
    """
    game, beta, reference = all_kinds(n, games, [0.03, 0.1, 0.5])
    solution = nj.solve(game, beta, reference=reference, tol=1e-29)
    assert (solution.exploitability <= 1e-29).all()
    log_star, log_reference = solution.log_policy.T, jnp.log(reference).T
    for algorithm in (nj.NashMP(), nj.AdaptiveNashMP()):
        records = divergences(algorithm, game, beta, log_reference, log_star)
        before, after, eta, moved, exploitability, reverse = map(np.asarray, records)
        slack = 1e-13 * before + 1e-13 * np.sqrt(before) + 1e-26
        excess = np.where(moved, after - before / (1 + eta) - slack, -1)
        assert (excess <= 0).all(), (algorithm, np.unravel_index(np.argmax(excess), excess.shape))
        assert (after[-1] <= 1e-9 * before[0] + 1e-24).all()
        slack = 1e-13 * reverse + 1e-13 * np.sqrt(reverse) + 1e-26
        assert (beta * reverse <= exploitability + slack).all()
        assert (exploitability <= (beta + 1 / (4 * beta)) * (reverse + slack)).all()


def test_equal_to_a_high_precision_numpy_solve():
    """216 games over the kinds, references and betas; `|p - p*|_1 <= sqrt(2 E / beta)` is the bound."""
    for n in (4, 20):
        game, beta, reference = all_kinds(n, 9, [0.3, 0.05], seed=n)
        games = zip(np.asarray(game.preferences), beta, reference, strict=True)
        star = np.array([equilibrium(P, b, r) for P, b, r in games])
        for algorithm in ALGORITHMS:
            solution = nj.solve(game, beta, reference=reference, algorithm=algorithm, tol=1e-20, max_queries=30_000)
            assert bool(solution.converged.all())
            assert (np.abs(solution.policy - star).sum(-1) <= np.sqrt(2 * 1e-20 / beta) + 1e-12).all()


@every_algorithm
def test_the_equilibrium_stays_put(algorithm):
    game, beta, reference = all_kinds(10, 3, [0.1, 0.02])
    star = nj.solve(game, beta, reference=reference, tol=1e-28).policy
    star = star / star.sum(-1, keepdims=True)
    path = nj.trajectory(game, beta, algorithm=algorithm, num_steps=10, reference=reference, initial=star)
    assert np.abs(np.exp(path.log_policy) - star[:, None]).max() < 1e-12


@every_algorithm
def test_permuting_actions_permutes_the_answer(algorithm):
    game, beta, reference = all_kinds(10, 3, [0.1, 0.02])
    order = np.random.default_rng(0).permutation(10)
    permuted = game.preferences[:, order][:, :, order]
    options = {"algorithm": algorithm, "tol": 1e-12}
    plain = nj.solve(game, beta, reference=reference, **options)
    shuffled = nj.solve(permuted, beta, reference=reference[:, order], **options)
    np.testing.assert_array_equal(plain.status, shuffled.status)
    np.testing.assert_allclose(plain.policy[:, order], shuffled.policy, atol=1e-9)


@every_algorithm
def test_a_batch_gives_what_its_games_give_alone(algorithm):
    """Within 1e-10 and 2 queries: the sums of a batch may be ordered otherwise, which shows in the last digit."""
    game, beta, reference = all_kinds(10, 3, [0.1, 0.02])
    options = {"algorithm": algorithm, "tol": 1e-12}
    batch = nj.solve(game, beta, reference=reference, **options)
    blocks = nj.solve(game, beta, reference=reference, block_size=7, **options)
    mapped = jax.vmap(lambda g, b, r: nj.solve(g, b, reference=r, **options))(game, beta, reference)
    for i in range(0, len(beta), 3):
        alone = nj.solve(game.preferences[i], beta[i], reference=reference[i], **options)
        for other in (batch, blocks, mapped):
            np.testing.assert_allclose(alone.policy, other.policy[i], atol=1e-10)
            assert abs(int(alone.queries) - int(other.queries[i])) <= 2


@every_algorithm
def test_queries_are_counted(algorithm):
    """Against a game that counts how often it is asked, one game at a time, without rejected trials or inner steps."""
    P = nj.games.random_game(jax.random.key(0), 5, kind="bradley_terry").preferences
    asked = []

    @jax.tree_util.register_pytree_node_class
    class Counting:
        num_actions, batch_shape = 5, ()

        def payoffs(self, weights):
            jax.debug.callback(lambda: asked.append(1))
            return P @ weights

        def dense(self):
            return P

        def tree_flatten(self):
            return (), None

        @classmethod
        def tree_unflatten(cls, _, __):
            return cls()

    path = nj.trajectory(Counting(), 0.1, algorithm=algorithm, num_steps=4)
    jax.effects_barrier()
    assert int(path.queries[0]) == 1
    assert np.diff(path.queries).max() <= algorithm.queries_per_step
    assert int(path.queries[-1]) == len(asked)


def test_fixed_step_is_the_papers_and_can_be_set():
    P = nj.games.random_game(jax.random.key(0), 5).preferences
    path = nj.trajectory(P, 0.1, algorithm=nj.NashMP(), num_steps=3)
    np.testing.assert_allclose(path.step_size, 0.2)
    etas = jnp.array([0.02, 0.1, 0.2])
    paths = jax.vmap(lambda eta: nj.trajectory(P, 0.1, algorithm=nj.NashMP(eta=eta), num_steps=3))(etas)
    np.testing.assert_allclose(paths.step_size, np.repeat(etas[:, None], 3, 1))
    # One step by hand, from the formula of spec 3.
    A, s, eta = np.asarray(P), 2.0, 0.2
    log_r = np.full(5, -np.log(5))

    def prox(log_c, g):
        u = (s * g + eta * log_r + log_c) / (1 + eta)
        return u - np.log(np.exp(u).sum())

    h = prox(log_r, A @ np.exp(log_r))
    np.testing.assert_allclose(path.log_policy[1], prox(log_r, A @ np.exp(h)), rtol=1e-13)


def test_adaptive_wastes_no_rejected_query():
    """A rejected trial repeats the policy, costs one query, and the next one tries a smaller step."""
    game, beta, _ = all_kinds(10, 3, [0.01, 0.01])
    path = nj.trajectory(game, beta, algorithm=nj.AdaptiveNashMP(), num_steps=60)
    cost = np.diff(path.queries)
    repeated = (path.log_policy[:, 1:] == path.log_policy[:, :-1]).all(-1)
    assert set(np.unique(cost)) == {1, 2}
    assert repeated[cost == 1].all()
    after_rejection = (cost[:, :-1] == 1) & (np.asarray(path.step_size)[:, :-1] > 2 * 0.01 * 1.001)
    smaller = np.asarray(path.step_size)[:, 1:] < np.asarray(path.step_size)[:, :-1]
    assert after_rejection.any()
    assert smaller[after_rejection].all()
    assert (path.step_size >= 2 * 0.01 * (1 - 1e-12)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_adaptive_never_needs_more_queries_than_the_fixed_step(kind):
    """At n = 100, beta = 0.01, exploitability 1e-6 (64 games, spec 3); for `gaussian` 1/7 in the median."""
    game = nj.games.random_game(jax.random.key(5), 100, (64,), kind)
    reference = None
    if kind == "cyclic":  # whose equilibrium is the uniform reference
        reference = np.random.default_rng(6).dirichlet(np.ones(100), 64)
    fixed = nj.solve(game, 0.01, reference=reference, algorithm=nj.NashMP())
    adaptive = nj.solve(game, 0.01, reference=reference, algorithm=nj.AdaptiveNashMP())
    assert bool(fixed.converged.all())
    assert bool(adaptive.converged.all())
    assert (adaptive.queries <= fixed.queries).all()
    if kind == "gaussian":
        assert np.median(adaptive.queries) <= np.median(fixed.queries) / 7
