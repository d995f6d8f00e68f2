"""Every algorithm through the same checks; a new one adds a row to ALGORITHMS.

One file, though long: all methods go through the same checks.
"""

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from independent import draw_games, equilibrium

import nashjax as nj
from nashjax._math import simplex
from nashjax.games.random import KINDS


class Method(NamedTuple):
    """A method and what spec 6 promises of it."""

    algorithm: Any
    betas: tuple[float, float] = (0.1, 0.02)
    """Of the games that it is tested on; two zeros: it takes no account of beta."""
    linear: bool = True
    """Whether its last iterate converges linearly to the regularised equilibrium."""
    stays: bool = True
    """Whether the equilibrium of those games stays put."""
    max_queries: int = 100_000


ALGORITHMS = [
    Method(nj.NashMP()),
    Method(nj.AdaptiveNashMP()),
    Method(nj.Newton()),
    Method(nj.EGPO()),
    Method(nj.NashProx()),
    Method(nj.MemoryNashMP()),
    Method(nj.OnlineMirrorDescent(), betas=(0.5, 0.1)),
    Method(nj.MagneticMirrorDescent(), betas=(0.5, 0.1)),
    Method(nj.NashMD(), betas=(0.5, 0.1), linear=False, stays=False, max_queries=400),
    Method(nj.OptimisticMWU(), betas=(0.0, 0.0), linear=False, max_queries=400),
    Method(nj.SelfPlayMWU(), betas=(0.0, 0.0), linear=False, max_queries=400),
    Method(nj.PredictiveRM(), betas=(0.0, 0.0), linear=False, max_queries=400),
    Method(nj.ExtragradientRM(), betas=(0.0, 0.0), linear=False, max_queries=400),
    Method(nj.InteriorPoint(), betas=(0.0, 0.0), linear=False, stays=False),
]


def name(method: Method) -> str:
    return type(method.algorithm).__name__


every_method = pytest.mark.parametrize("method", ALGORITHMS, ids=name)
UNREGULARIZED = [method for method in ALGORITHMS if method.betas == (0.0, 0.0)]


@functools.cache
def drawn(n: int, games: int, kind: str, seed: int) -> np.ndarray:
    return draw_games(seed, n, (games,), kind)


def all_kinds(
    n: int, games: int, betas: tuple[float, ...] | list[float], seed: int = 0
) -> tuple[nj.MatrixGame, np.ndarray, np.ndarray]:
    """Games `[kinds * betas * games]` with a random reference each."""
    P = np.concatenate([drawn(n, games * len(betas), kind, seed) for kind in KINDS])
    beta = np.tile(np.repeat(betas, games), len(KINDS))
    reference = np.random.default_rng(seed).dirichlet(np.ones(n), len(beta))
    return nj.MatrixGame(jnp.array(P)), beta, reference


def rock_paper_scissors(games: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Games `[games, 3, 3]` of random stakes with their only equilibrium at `beta = 0`, which plays every action."""
    a, b, c = np.random.default_rng(seed).uniform(0.3, 0.5, (3, games))
    margin = np.zeros((games, 3, 3))
    margin[:, 0, 1], margin[:, 1, 2], margin[:, 2, 0] = a, c, b
    star = np.stack([c, b, a], axis=-1) / (a + b + c)[:, None]
    return 0.5 + margin - margin.transpose(0, 2, 1), star


def test_jax_tells_the_methods_apart():
    """Two methods whose pytrees have one structure would share compiled programs (see `nashjax/pytree.py`)."""
    methods = [type(method.algorithm) for method in ALGORITHMS]
    structures = [jax.tree.structure(method.algorithm) for method in ALGORITHMS]
    optional = [cls for cls in methods if getattr(cls, "step_size", 0) is None]
    structures += [jax.tree.structure(cls(step_size=1.0)) for cls in optional]
    assert len(structures) > len(ALGORITHMS)
    for i, one in enumerate(structures):
        assert all(one != other for other in structures[i + 1 :] if one is not other), one


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
    solution = nj.solve(game, beta, reference=reference, algorithm=nj.Newton(), tol=1e-29)
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
        # Each size is a program to compile for each method: the larger one for those that `solve` uses.
        for method in ALGORITHMS if n == 4 else ALGORITHMS[:3]:
            if not method.linear:
                continue
            options = {"algorithm": method.algorithm, "tol": 1e-20, "max_queries": 30_000}
            solution = nj.solve(game, beta, reference=reference, **options)
            assert bool(solution.converged.all())
            assert (np.abs(solution.policy - star).sum(-1) <= np.sqrt(2 * 1e-20 / beta) + 1e-12).all()


@every_method
def test_the_equilibrium_stays_put(method):
    if method in UNREGULARIZED:
        game, star = rock_paper_scissors(36)
        beta, reference = 0.0, None
    else:
        game, beta, reference = all_kinds(10, 3, method.betas)
        star = nj.solve(game, beta, reference=reference, tol=1e-28).policy
        star = star / star.sum(-1, keepdims=True)
    path = nj.trajectory(game, beta, algorithm=method.algorithm, num_steps=10, reference=reference, initial=star)
    furthest = np.abs(np.exp(path.log_policy) - star[:, None]).max((1, 2))
    if method.stays:
        assert furthest.max() < 1e-12
    else:
        assert np.median(furthest) > 1e-3


@every_method
def test_permuting_actions_permutes_the_answer(method):
    game, beta, reference = all_kinds(10, 3, method.betas)
    order = np.random.default_rng(0).permutation(10)
    permuted = game.preferences[:, order][:, :, order]
    options = {"algorithm": method.algorithm, "tol": 1e-12, "max_queries": method.max_queries}
    plain = nj.solve(game, beta, reference=reference, **options)
    shuffled = nj.solve(permuted, beta, reference=reference[:, order], **options)
    assert bool(plain.converged.all()) or not method.linear
    np.testing.assert_array_equal(plain.status, shuffled.status)
    np.testing.assert_allclose(plain.policy[:, order], shuffled.policy, atol=1e-9)


@every_method
def test_a_batch_gives_what_its_games_give_alone(method):
    """Within 1e-10 and 2 queries: the sums of a batch may be ordered otherwise, which shows in the last digit."""
    game, beta, reference = all_kinds(10, 3, method.betas)
    options = {"algorithm": method.algorithm, "tol": 1e-12, "max_queries": method.max_queries}
    others = [nj.solve(game, beta, reference=reference, **options)]
    if method in ALGORITHMS[:3]:  # blocks and vmap are not the methods' own: three suffice
        others.append(nj.solve(game, beta, reference=reference, block_size=7, **options))
        others.append(jax.vmap(lambda g, b, r: nj.solve(g, b, reference=r, **options))(game, beta, reference))
    for i in range(0, len(beta), 3):
        alone = nj.solve(game.preferences[i], beta[i], reference=reference[i], **options)
        for other in others:
            np.testing.assert_allclose(alone.policy, other.policy[i], atol=1e-10)
            assert abs(int(alone.queries) - int(other.queries[i])) <= 2


@every_method
def test_queries_are_counted(method):
    """Against a game that counts how often it is asked, one game at a time, without rejected trials or inner steps."""
    P = nj.games.random_game(jax.random.key(0), 5, kind="bradley_terry").preferences
    asked = []

    @jax.tree_util.register_pytree_node_class
    class Counting(nj.Game):
        num_actions, batch_shape, has_matrix = 5, (), True  # pyright: ignore

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

    algorithm = method.algorithm
    if isinstance(algorithm, nj.NashProx):
        algorithm = nj.NashProx(eta=0.1)  # so easy an inner game that every trial solves it
    path = nj.trajectory(Counting(), 0.1, algorithm=algorithm, num_steps=4)
    jax.effects_barrier()
    assert int(path.queries[0]) == 1
    assert np.diff(path.queries).max() <= algorithm.queries_per_step
    assert int(path.queries[-1]) == len(asked)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nj.NashMP(eta=0.0), "eta must be a finite number > 0, got 0.0"),
        (lambda: nj.NashMP(eta="0.2"), "eta must be a finite number > 0, got '0.2'"),  # pyright: ignore
        (lambda: nj.NashMP(eta=np.array([0.1, -1.0])), r"eta\[1\] must be a finite number > 0 and < inf, got -1.0"),  # pyright: ignore
        (lambda: nj.AdaptiveNashMP(shrink=1.0), "shrink must be a finite number > 0 and < 1, got 1.0"),
        (lambda: nj.AdaptiveNashMP(growth=np.float32(1)), "growth must be a finite number > 1, got .*1.0"),  # pyright: ignore
        (lambda: nj.InteriorPoint(max_steps=2.5), "max_steps must be an integer >= 1, got 2.5"),  # pyright: ignore
        (lambda: nj.Newton(max_inner_steps=0), "max_inner_steps must be an integer >= 1, got 0"),
    ],
)
def test_a_hyperparameter_that_is_not_valid_is_named(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


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


GUARANTEES = [
    (nj.EGPO(), lambda a, beta: 1 - a * beta),
    (nj.MagneticMirrorDescent(), lambda a, beta: 1 / (1 + a * beta)),
    # That of the magnetic step s = a / (1 - a beta), in part beyond 4 beta: what the proof gives for any step.
    (nj.OnlineMirrorDescent(), lambda a, beta: 1 / (1 + 2 * (s := a / (1 - a * beta)) * beta - s**2 / 4)),
    (nj.NashProx(), lambda eta, _: 1 / (1 + eta)),
    (nj.NashProx(eta=10.0), lambda eta, _: 1 / (1 + eta)),
]


@pytest.mark.parametrize(("algorithm", "factor"), GUARANTEES, ids=lambda x: getattr(type(x), "__name__", ""))
def test_last_iterates_contract_at_every_step(algorithm, factor):
    """`KL(p*||p)` falls by the factor of spec 6 at each step that moves, in each of 162 games; slack as above."""
    game, beta, reference = all_kinds(10, 9, [0.03, 0.1, 0.5])
    log_star = nj.solve(game, beta, reference=reference, algorithm=nj.Newton(), tol=1e-29).log_policy.T
    records = divergences(algorithm, game, beta, jnp.log(reference).T, log_star)
    before, after, step_size, moved, _, _ = map(np.asarray, records)
    promised = factor(step_size, beta)
    assert (promised < 1).all()
    slack = 1e-13 * before + 1e-13 * np.sqrt(before) + 1e-26
    excess = np.where(moved, after - before * promised - slack, -1)
    assert (excess <= 0).all(), np.unravel_index(np.argmax(excess), excess.shape)
    # The fitted slope of the logarithm, from the start to the end or to where rounding sets in.
    steps = np.argmax(after < 1e-20, axis=0)
    steps = np.where(steps == 0, len(after) - 1, steps)
    moves = np.cumsum(moved, axis=0)[steps, np.arange(len(beta))]
    slope = np.log(after[steps, np.arange(len(beta))] / before[0]) / moves
    assert (slope <= np.log(promised[0]) * (1 - 1e-9)).all()
    assert (moves > 0).all()


def test_egpo_is_nash_mirror_prox():
    """At `a = (eta / beta) / (1 + eta)`, `eta = 2 beta`, the two walk the same path but for rounding."""
    game, beta, reference = all_kinds(10, 3, [0.5, 0.02])
    mirror_prox, egpo = (
        nj.trajectory(game, beta, algorithm=algorithm, num_steps=60, reference=reference)
        for algorithm in (nj.NashMP(), nj.EGPO())
    )
    np.testing.assert_allclose(egpo.step_size, np.tile((2 / (1 + 2 * beta))[:, None], 60), rtol=1e-14)
    np.testing.assert_allclose(mirror_prox.log_policy, egpo.log_policy, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(mirror_prox.queries, egpo.queries)


def test_magnetic_and_online_mirror_descent_are_one_step():
    """`a` of the one is `a / (1 + a beta)` of the other."""
    game, beta, reference = all_kinds(10, 3, [0.2, 0.2])
    options = {"num_steps": 20, "reference": reference}
    magnetic = nj.trajectory(game, beta, algorithm=nj.MagneticMirrorDescent(step_size=0.5), **options)
    online = nj.trajectory(game, beta, algorithm=nj.OnlineMirrorDescent(step_size=0.5 / 1.1), **options)
    np.testing.assert_allclose(magnetic.log_policy, online.log_policy, rtol=1e-12, atol=1e-12)


def test_nash_md_needs_its_schedule():
    """`KL(p*||p_t) <= 8 / (beta^2 (t + 1))`; a constant step ends elsewhere, about as its square."""
    game, beta, reference = all_kinds(10, 3, [0.5, 0.1])
    log_star = np.asarray(nj.solve(game, beta, reference=reference, tol=1e-28).log_policy)

    def divergence(algorithm):
        path = nj.trajectory(game, beta, algorithm=algorithm, num_steps=1000, reference=reference)
        log_policy = np.moveaxis(np.asarray(path.log_policy), -1, 0)
        return np.asarray(simplex.kl_divergence(jnp.array(log_star.T[:, :, None]), jnp.array(log_policy)))

    scheduled = divergence(nj.NashMD())
    # From the first step on; before it the policy is the reference, of which the bound says nothing.
    bound = 8 / (beta[:, None] ** 2 * (np.arange(1001) + 1))
    assert (scheduled <= bound)[:, 1:].all()
    assert (scheduled[:, -1] <= 1e-3 * scheduled[:, 10] + 1e-9).all()
    large, small = (divergence(nj.NashMD(step_size=a)) for a in (0.4, 0.2))
    settled = np.abs(large[:, -1] - large[:, -200]) <= 1e-3 * large[:, -1]
    assert settled.mean() > 0.9
    assert (large[:, -1] > 2 * scheduled[:, -1])[settled].all()
    assert ((large[:, -1] / small[:, -1])[settled] > 2).all()


@pytest.mark.parametrize("method", UNREGULARIZED[:2], ids=name)
def test_beta_does_not_move_what_solves_the_plain_game(method):
    """The path is that of `beta = 0`, so that a solve at `beta > 0` could not end."""
    game, _, reference = all_kinds(10, 3, [0.5, 0.5])
    path = nj.trajectory(game, np.array([[0.0], [0.5]]), algorithm=method.algorithm, num_steps=100, reference=reference)
    np.testing.assert_array_equal(path.log_policy[0], path.log_policy[1])


SUPPORT = {
    "NashMD": (True, False),
    "OnlineMirrorDescent": (True, False),
    "MagneticMirrorDescent": (True, False),
    "OptimisticMWU": (False, True),
    "SelfPlayMWU": (False, True),
    "PredictiveRM": (False, True),
    "ExtragradientRM": (False, True),
    "InteriorPoint": (False, True),
}
"""Whether a method can converge at `beta > 0` and at `beta = 0`; the others do at both."""


@every_method
def test_a_beta_at_which_a_method_cannot_converge_is_refused(method):
    P, options = rock_paper_scissors(1)[0], {"algorithm": method.algorithm, "max_queries": 10}
    at_positive, at_zero = SUPPORT.get(name(method), (True, True))
    for beta, supported in ((0.5, at_positive), (0.0, at_zero)):
        if supported:
            assert (nj.solve(P, beta, **options).status != nj.Status.INVALID).all()
            continue
        requirement = "> 0" if at_positive else "0"
        use = "InteriorPoint" if at_positive else "Newton"
        said = f"beta[0, 1] must be {requirement} for {name(method)}, got {beta}. Use nashjax.{use}(), or leave"
        with pytest.raises(ValueError, match=re.escape(said)):
            nj.solve(P, np.array([[0.5 - beta, beta]]), **options)
        with pytest.raises(ValueError, match=re.escape("betas[")):
            nj.solve_path(P, np.array([0.5, 0.0]), **options)
        # A traced beta cannot be looked at.
        status = jax.jit(lambda beta: nj.solve(P, beta, **options).status)(beta)
        assert (status == nj.Status.INVALID).all()


def test_a_method_that_needs_a_matrix_names_one_that_does_not():
    game = nj.games.LowRankGame(jnp.ones((3, 1)) / 8, jnp.zeros((3, 1)))
    said = re.escape(
        "game must be a game with a matrix, dense(), for InteriorPoint, got an instance of LowRankGame. Use"
    )
    with pytest.raises(ValueError, match=said):
        nj.solve(game, 0.0, algorithm=nj.InteriorPoint())
    with pytest.raises(ValueError, match=re.escape("got 0.0. Use nashjax.AdaptiveNashMP(), or leave")):
        nj.solve(game, 0.0, algorithm=nj.NashMD())
    with pytest.raises(ValueError, match=said):
        nj.trajectory(game, 0.0, algorithm=nj.InteriorPoint(), num_steps=1)


@pytest.mark.parametrize(
    ("algorithm", "steps", "end"), [(nj.OptimisticMWU(), 20_000, 1e-3), (nj.ExtragradientRM(), 1000, 1e-8)]
)
def test_last_iterates_find_the_only_equilibrium(algorithm, steps, end):
    """Linearly, at `beta = 0`: the second half of the steps gains a digit at least, as the first one does."""
    game, star = rock_paper_scissors(30)
    path = nj.trajectory(game, 0.0, algorithm=algorithm, num_steps=steps)
    distance = np.abs(np.exp(path.log_policy) - star[:, None]).sum(-1)
    assert (distance[:, -1] <= end).all()
    assert (distance[:, -1] <= 0.1 * distance[:, steps // 2]).all()


def test_averages_keep_their_bounds():
    """At `beta = 0` and every step: multiplicative weights the bound of their proof, predictive matching `1 / t`."""
    game, _, reference = all_kinds(10, 3, [0.0, 0.0])
    plain = {"num_steps": 1500, "reference": reference}
    t = np.arange(plain["num_steps"] + 1)
    weights = np.asarray(nj.trajectory(game, 0.0, algorithm=nj.SelfPlayMWU(), **plain).exploitability)
    a = np.sqrt(np.log(10) / (t + 1))
    bound = (-np.log(reference).min(-1)[:, None] + np.cumsum(a**2) / 8) / np.cumsum(a)
    assert (weights <= bound).all()
    matching = np.asarray(nj.trajectory(game, 0.0, algorithm=nj.PredictiveRM(), **plain).exploitability)
    assert (matching <= 1.5 / (t + 1)).all()  # not proved; 1.14 at most in 96 games and 4000 steps


@pytest.mark.parametrize(
    "method",
    [
        # Averages are sums, whose last digits hang on how they are compiled.
        pytest.param(
            method, marks=pytest.mark.compiled_as_by_users if name(method) in ("SelfPlayMWU", "PredictiveRM") else ()
        )
        for method in ALGORITHMS[3:]
    ],
    ids=name,
)
def test_nothing_breaks_at_the_edges(method):
    """Float32, betas from 0 to 1, an excluded action and one hardly allowed: no NaN, and certificates that are true."""
    game, _, reference = all_kinds(6, 1, [0.0])
    reference = np.where(np.arange(6) == 3, 0, reference)
    reference[::2, 5] = 1e-30
    reference = reference / reference.sum(-1, keepdims=True)
    beta = np.array([0.0, 1e-30, 1e-6, 0.01, 0.36, 0.5, 1.0])[:, None]
    single = game.preferences.astype(jnp.float32)
    path = nj.trajectory(single, beta, algorithm=method.algorithm, num_steps=300, reference=reference)
    policy = np.exp(path.log_policy)
    assert path.log_policy.dtype == jnp.float32
    assert np.isfinite(path.exploitability).all()
    assert (policy[..., 3] == 0).all()
    assert np.abs(policy.sum(-1) - 1).max() < 1e-5
    last = policy[0, :, -1].astype(np.float64)
    gain = np.einsum("gij,gj->gi", game.preferences, last / last.sum(-1, keepdims=True)) - 0.5
    gain[:, 3] = -1
    assert np.abs(gain.max(-1) - path.exploitability[0, :, -1]).max() < 3e-7
