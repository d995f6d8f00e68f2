"""Every method under jax's strict modes: dtype and rank promotion, transfer guard and `debug_nans`, all at once."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nashjax as nj
from nashjax import algorithms
from nashjax import stochastic as st
from nashjax.games.random import KINDS

KEY = jax.random.key(0)
GAMES = nj.games.random_game(KEY, 3, (2,)).preferences
ONE = GAMES[0]
EXCLUDING = jnp.array([0.5, 0.5, 0])
REFERENCES = jnp.array([[0.5, 0.5, 0], [0.2, 0.3, 0.5]])
POLICY = jnp.array([0.25, 0.75, 0])
LOG_POLICY = jnp.log(jnp.array([0.25, 0.5, 0.25]))
BETAS = jnp.array([0.1, 0.05])
GRID = jnp.array([[0.1], [0.2], [0.3]])
FIRST_BETA = BETAS[0]
EMBEDDING = nj.games.EmbeddingGame(
    jax.random.normal(KEY, (2, 3, 2), jnp.float32), jnp.array([[[0, 1], [-1, 0]]], jnp.float32)
)
LOW_RANK = nj.games.LowRankGame(jnp.array([[[0.5], [0.25], [0]]]), jnp.array([[[0.0], [1], [0.5]]] * 2))
METHODS = [
    name for name in algorithms.__all__ if issubclass(getattr(algorithms, name), nj.Algorithm) and name != "Algorithm"
]
LEARNERS = (
    "ClosedFormNashMP",
    "PlugIn",
    "StochasticNashMP",
    "StochasticNashProx",
    "AveragedNashMP",
    "MMDPolicyGradient",
    "NashMDPolicyGradient",
    "OnlineDPO",
    "OnlineIPO",
    "SelfPlayPolicyGradient",
)


@contextmanager
def strict() -> Iterator[None]:
    with ExitStack() as stack:
        for mode in (
            jax.numpy_dtype_promotion("strict"),
            jax.numpy_rank_promotion("raise"),
            jax.transfer_guard("disallow"),
            jax.debug_nans(True),
        ):
            stack.enter_context(mode)
        yield


def of_method(name: str) -> Callable[[], Any]:
    algorithm = getattr(algorithms, name)()
    at_zero = algorithm.betas is algorithms.Betas.ZERO

    def run() -> Any:
        solution = nj.solve(GAMES, 0.0 if at_zero else BETAS, algorithm=algorithm, reference=REFERENCES, max_queries=7)
        path = nj.trajectory(ONE, 0.0 if at_zero else 0.1, algorithm=algorithm, num_steps=2)
        return solution, solution.policy, solution.converged, path

    return run


def of_learner(name: str, oracle: Any = None, **options: Any) -> Callable[[], Any]:
    method = getattr(st, name)(batch_size=8, **options)
    oracle = st.BernoulliOracle(GAMES, contextual=True) if oracle is None else oracle

    def run() -> Any:
        return st.train(oracle, 0.1, method=method, num_comparisons=32, key=KEY, num_records=1).log_policy

    return run


def policy_of(game: Any, beta: jax.Array, reference: jax.Array) -> jax.Array:
    return nj.solve(game, beta, reference=reference).policy


def all_games() -> Any:
    return [nj.games.random_game(KEY, 3, (2,), kind) for kind in KINDS]


def metrics() -> Any:
    m = nj.metrics
    return (
        m.best_response(GAMES, POLICY, BETAS, REFERENCES),
        m.exploitability(GAMES, POLICY, GRID, EXCLUDING),
        m.exploitability(ONE, POLICY, 0.0),
        m.uniqueness(GAMES, POLICY, REFERENCES),
        m.entropy(POLICY),
        m.kl_divergence(POLICY, REFERENCES),
        m.span(LOG_POLICY, LOG_POLICY),
        m.kl_bound(BETAS, 0.1),
        m.l1_bound(GRID, BETAS),
    )


def metric_gradients() -> Any:
    m = nj.metrics
    functions = (
        m.entropy,
        lambda p: m.kl_divergence(p, EXCLUDING),
        lambda p: m.exploitability(GAMES, p, BETAS, REFERENCES),
        lambda p: m.best_response(ONE, p, 0.1, EXCLUDING),
    )
    return [jax.jit(mode(f))(POLICY) for f in functions for mode in (jax.jacfwd, jax.jacrev)]


def in_reverse(game: Any) -> Callable[[], Any]:
    return lambda: jax.jit(jax.jacrev(policy_of, argnums=(0, 1, 2)))(game, FIRST_BETA, EXCLUDING)


def from_payoffs() -> Any:
    return nj.MatrixGame.from_payoffs(MARGINS)


MARGINS = GAMES - 0.5
UNEQUAL = [np.array([[0.5, 0.8], [0.2, 0.5]]), ONE]
CASES: dict[str, Callable[[], Any]] = {
    **{name: of_method(name) for name in METHODS},
    **{name: of_learner(name) for name in LEARNERS},
    "step sizes of each game": lambda: nj.solve(GAMES, 0.1, algorithm=algorithms.NashMP(BETAS), max_queries=7),
    "a number, jax arrays": lambda: nj.solve(ONE, 0.1),
    "default": lambda: nj.solve(GAMES, BETAS, tol=1e-10, reference=EXCLUDING),
    "default at small betas": lambda: nj.solve(GAMES, 1e-4),
    "default at beta 0": lambda: nj.solve(GAMES, 0.0, reference=REFERENCES),
    "grid of betas": lambda: nj.solve(GAMES, GRID, tol=BETAS, initial=EXCLUDING, block_size=4),
    "parts on all cores": lambda: nj.solve(GAMES, GRID, block_size=1, max_queries=jnp.asarray(MOST_QUERIES)),
    "traced beta": lambda: jax.jit(policy_of)(GAMES, BETAS, REFERENCES),
    "vmap": lambda: jax.vmap(policy_of)(GAMES, BETAS, REFERENCES),
    "embedding game": lambda: nj.solve(EMBEDDING, 0.1, reference=EXCLUDING),
    "low-rank game": lambda: nj.solve(LOW_RANK, BETAS32, reference=EXCLUDING),
    "games of different sizes": lambda: nj.solve_many(UNEQUAL, 0.1, reference=[None, EXCLUDING], throw=True),
    "distances": lambda: nj.trajectory(
        GAMES, BETAS, algorithm=nj.NashMP(), num_steps=2, reference=EXCLUDING, equilibrium=EXCLUDING
    ),
    "path": lambda: nj.solve_path(GAMES, BETAS, reference=REFERENCES),
    "random games": all_games,
    "from payoffs": from_payoffs,
    "metrics": metrics,
    "gradients of metrics": metric_gradients,
    "derivatives of solutions": in_reverse(ONE),
    "derivatives without a matrix": in_reverse(EMBEDDING),
    "second derivatives": lambda: jax.jit(jax.hessian(policy_of, argnums=1))(ONE, FIRST_BETA, EXCLUDING),
    "exact gradients": of_learner("StochasticNashMP", exact=True),
    "all pairs": of_learner("StochasticNashMP", all_pairs=True, samples_per_context=2),
    "exploration": of_learner("StochasticNashProx", st.ProbabilityOracle(GAMES), exploration=0.5, max_gradient_norm=1),
    "questions at the equilibrium": of_learner("PlugIn", ask="equilibrium"),
    "a Python function answers": of_learner(
        "OnlineIPO", st.CallableOracle(lambda *asked: np.full(len(asked[0]), 0.5), 3)
    ),
}
BETAS32, MOST_QUERIES = BETAS.astype(jnp.float32), jnp.asarray(50)


@pytest.mark.parametrize("name", CASES)
def test_methods_run_in_the_strict_modes_of_jax(name):
    with strict():
        found = jax.block_until_ready(CASES[name]())
    assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(found) if leaf.dtype.kind == "f")


def test_every_method_is_among_the_cases():
    learners = {name for name in st.__all__ if hasattr(getattr(st, name), "batch_size")} - {"Method", "PolicyMethod"}
    assert {*METHODS, *learners} <= set(CASES)
    assert learners == set(LEARNERS)


def test_strict_modes_are_seen_to_refuse():
    refused = [
        lambda: jnp.ones(3, jnp.float32) + jnp.ones(3, jnp.int32),
        lambda: jnp.ones((2, 3)) + jnp.ones(3),
        lambda: jnp.asarray(np.ones(3)),
        lambda: jax.jit(jnp.log)(-POLICY),
    ]
    for operation in refused:
        with strict(), pytest.raises((TypeError, ValueError, FloatingPointError, jax.errors.JaxRuntimeError)):
            operation()
