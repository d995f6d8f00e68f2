"""The gradients are unbiased: their mean over many batches against the exact gradient, found by enumeration."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nashjax as nj

pytest.importorskip("optax", reason="needs the extra `train`")

from nashjax import stochastic as st
from nashjax.stochastic.methods import Roles

N, BETA, SAMPLES = 4, 0.1, 1_000_000
GAME = nj.games.random_game(jax.random.key(3), N, (), "gaussian", scale=2.0)
REFERENCE = np.array([0.1, 0.2, 0.3, 0.4])
KEYS = jax.random.split(jax.random.key(4), 3)
# Policies that are far apart, so that every ratio and every proximal term counts.
LEARNS, OPPONENT, CENTER = (jax.random.normal(key, (1, N)) for key in KEYS)


def exact_gradient(method: st.PolicyMethod, roles: Roles) -> np.ndarray:
    """The expectation of the gradient of spec 4 and spec 6 over samples and answers, by enumeration in numpy.

    With exploration, that of the samples of the policy and of the reference, each less its baseline.
    """
    P, log_r = np.asarray(GAME.preferences), np.log(REFERENCE)

    def log_policy(params: jax.Array) -> np.ndarray:
        logits = np.asarray(params)[0] + log_r
        return logits - np.log(np.exp(logits).sum())

    log_p = log_policy(LEARNS)
    p = np.exp(log_p)
    log_q = log_p if roles.opponent is None else log_policy(roles.opponent)
    if isinstance(method, st.NashMDPolicyGradient):
        log_q = (1 - method.mixture) * log_q + method.mixture * log_r
    q = np.exp(log_q) / np.exp(log_q).sum()
    score = np.eye(N) - p  # score[y] is the gradient of log p(y) in the logits
    gradient = np.zeros(N)
    values = P @ q - BETA * (log_p - log_r)
    if roles.center is not None:
        values -= float(method.prox_weight(jnp.asarray(BETA))) * (log_p - log_policy(roles.center))
    if method.exploration:
        k, far = method.batch_size, round(method.exploration * method.batch_size)
        others = ((k - far) * (p @ values) + (far - 1) * (REFERENCE @ values)) / (k - 1)
        of_policy = (p * values) @ score
        of_both = ((k - far) * of_policy + far * (REFERENCE * (values - others)) @ score) / k
        return -(of_policy + of_both) / 2 if method.both_sides else -of_both
    for y, z in itertools.product(range(N), repeat=2):
        for w in (0.0, 1.0):
            chance = p[y] * q[z] * (P[y, z] if w else 1 - P[y, z])
            margin = log_p[y] - log_r[y] - log_p[z] + log_r[z]
            if isinstance(method, st.OnlineIPO):
                slope = 2 * (margin - (w - 0.5) / BETA) * BETA**2 / 4
                gradient += chance * slope * (score[y] - score[z])
            elif isinstance(method, st.OnlineDPO):
                scale = BETA if method.scale is None else method.scale
                slope = -scale * (w - 1 / (1 + np.exp(-scale * margin)))
                gradient += chance * slope * (score[y] - score[z])
            else:
                gradient -= chance * (values[y] + w - (P @ q)[y]) * score[y]
    return gradient


METHODS = {
    "two loops": (st.StochasticNashMP(), Roles(OPPONENT, CENTER)),
    "two loops, eta": (st.StochasticNashMP(eta=0.5), Roles(OPPONENT, CENTER)),
    "proximal point": (st.AveragedNashMP.proximal_point(), Roles(None, CENTER)),
    "nash md": (st.NashMDPolicyGradient(mixture=0.4), Roles()),
    "self play": (st.SelfPlayPolicyGradient(), Roles()),
    "mmd": (st.MMDPolicyGradient(), Roles(None, CENTER)),
    "ipo": (st.OnlineIPO(), Roles()),
    "dpo": (st.OnlineDPO(scale=0.7), Roles()),
}
CASES: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in METHODS]
CASES += [(name, {"baseline": False}) for name in METHODS if name not in ("ipo", "dpo")]
CASES += [(name, {"both_sides": False, "baseline": b}) for name, b in (("two loops", True), ("nash md", False))]
CASES += [(name, {"exploration": 0.25}) for name in ("proximal point", "nash md")]
CASES += [("two loops", {"exploration": 0.25, "both_sides": both_sides}) for both_sides in (True, False)]
VOTES, PROBABILITIES = st.BernoulliOracle(GAME), st.ProbabilityOracle(GAME)
SAME_AS = {
    "two loops": (st.AveragedNashMP(), st.AveragedNashMP.target()),
    "proximal point": (st.StochasticNashProx(),),
}
"""Methods that differ in how roles move only: their gradients are those of others."""


def sampled_game(oracle: st.PreferenceOracle) -> st.SampledGame:
    return st.SampledGame(oracle, st.TabularPolicy(), jnp.asarray(BETA), jnp.log(jnp.asarray(REFERENCE))[None])


def gradient(method: Any, roles: Roles, oracle: st.PreferenceOracle, key: jax.Array) -> jax.Array:
    """Of one batch, `[n]`."""
    game = sampled_game(oracle)
    state = method.init(game, jax.random.key(0))._replace(params=LEARNS, roles=roles)
    return method.gradient(game, state, key)[0][0]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_gradient_is_unbiased(name, options):
    method, roles = METHODS[name]
    method = dataclasses.replace(method, batch_size=16, **options)
    oracles = (VOTES, PROBABILITIES) if name in ("two loops", "ipo", "dpo") and not options else (VOTES,)

    @jax.jit
    def gradients(keys: jax.Array) -> jax.Array:
        """From votes and from probabilities, `[batches, oracles, n]`."""

        def of_all(key: jax.Array) -> jax.Array:
            return jnp.stack([gradient(method, roles, oracle, key) for oracle in oracles])

        return jax.lax.map(of_all, keys, batch_size=512)

    batches = SAMPLES // 16
    found = np.asarray(gradients(jax.random.split(jax.random.key(6), batches)))
    error = found.std(axis=0, ddof=1) / np.sqrt(batches)
    assert np.all(np.abs(found.mean(axis=0) - exact_gradient(method, roles)) <= 4 * error)
    assert np.all(error <= 2e-3)  # so that the test can fail


@pytest.mark.parametrize("name", SAME_AS)
def test_methods_whose_roles_alone_move_differently_have_the_same_gradient(name):
    method, roles = METHODS[name]
    expected = gradient(method, roles, VOTES, jax.random.key(6))
    for other in SAME_AS[name]:
        other = dataclasses.replace(other, batch_size=method.batch_size)
        np.testing.assert_allclose(gradient(other, roles, VOTES, jax.random.key(6)), expected, rtol=1e-9)


def variance(params: jax.Array, roles: Roles, **options: Any) -> float:
    game = sampled_game(VOTES)
    method = st.StochasticNashMP(batch_size=16, **options)
    state = method.init(game, jax.random.key(0))._replace(params=params, roles=roles)
    found = jax.jit(jax.vmap(lambda key: method.gradient(game, state, key)[0][0]))
    return float(found(jax.random.split(jax.random.key(6), 20_000)).var(axis=0).sum())


def test_learning_from_both_sides_lowers_the_variance_at_the_equilibrium():
    solution = nj.solve(GAME, BETA, reference=REFERENCE, tol=1e-12)
    near = (solution.log_policy - jnp.log(REFERENCE))[None]
    one, both = (variance(near, Roles(near, near), both_sides=both_sides) for both_sides in (False, True))
    # Not quite half: an action against itself has no noise to share.
    assert both < 0.8 * one


def test_the_baseline_lowers_the_variance_where_the_proximal_term_is_large():
    center = LEARNS + 8.0 * jnp.eye(N)[:1]
    without, leave_one_out = (variance(LEARNS, Roles(OPPONENT, center), baseline=b) for b in (False, True))
    assert leave_one_out < 0.7 * without
