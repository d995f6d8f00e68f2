"""The gradients are unbiased: their mean over many batches against the exact gradient, found by enumeration."""

import dataclasses
import itertools

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
    """The expectation of the gradient of spec 4 and spec 6 over samples and answers, by enumeration in numpy."""
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
                value = w - BETA * (log_p[y] - log_r[y])
                if roles.center is not None:
                    value -= float(method.prox_weight(jnp.asarray(BETA))) * (log_p[y] - log_policy(roles.center)[y])
                gradient -= chance * value * score[y]
    return gradient


METHODS = {
    "two loops": (st.StochasticNashMP(), Roles(OPPONENT, CENTER)),
    "two loops, eta": (st.StochasticNashMP(eta=0.5), Roles(OPPONENT, CENTER)),
    "averages": (st.AveragedNashMP(), Roles(OPPONENT, CENTER)),
    "proximal point": (st.AveragedNashMP.proximal_point(), Roles(None, CENTER)),
    "nash md": (st.NashMDPolicyGradient(mixture=0.4), Roles()),
    "self play": (st.SelfPlayPolicyGradient(), Roles()),
    "mmd": (st.MMDPolicyGradient(), Roles(None, CENTER)),
    "nash prox": (st.StochasticNashProx(), Roles(None, CENTER)),
    "ipo": (st.OnlineIPO(), Roles()),
    "dpo": (st.OnlineDPO(scale=0.7), Roles()),
}
OPTIONS = [
    {"baseline": baseline, "both_sides": both_sides} for baseline in (True, False) for both_sides in (True, False)
]
CASES = [
    (name, options)
    for name, (method, _) in METHODS.items()
    for options in (OPTIONS if not isinstance(method, (st.OnlineIPO, st.OnlineDPO)) else OPTIONS[:1])
]


@pytest.mark.parametrize("oracle", [st.BernoulliOracle(GAME), st.ProbabilityOracle(GAME)], ids=["votes", "scores"])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_gradient_is_unbiased(name, options, oracle):
    method, roles = METHODS[name]
    method = dataclasses.replace(method, batch_size=16, **options)
    game = st.SampledGame(oracle, st.TabularPolicy(), jnp.asarray(BETA), jnp.log(jnp.asarray(REFERENCE))[None])
    state = method.init(game, jax.random.key(0))._replace(params=LEARNS, roles=roles)

    @jax.jit
    def gradients(keys: jax.Array) -> jax.Array:
        return jax.lax.map(lambda key: method.gradient(game, state, key)[0][0], keys, batch_size=512)

    batches = SAMPLES // 16
    found = np.asarray(gradients(jax.random.split(jax.random.key(6), batches)))
    error = found.std(axis=0, ddof=1) / np.sqrt(batches)
    assert np.all(np.abs(found.mean(axis=0) - exact_gradient(method, roles)) <= 4 * error)
    assert np.all(error <= 2e-3)  # so that the test can fail


def test_the_devices_against_variance_reduce_it():
    game = st.SampledGame(
        st.BernoulliOracle(GAME), st.TabularPolicy(), jnp.asarray(BETA), jnp.log(jnp.asarray(REFERENCE))[None]
    )
    solution = nj.solve(GAME, BETA, reference=REFERENCE, tol=1e-12)
    near = (solution.log_policy - jnp.log(REFERENCE))[None]
    variances = {}
    for baseline, both_sides in ((False, False), (True, False), (True, True)):
        method = st.StochasticNashMP(batch_size=16, baseline=baseline, both_sides=both_sides)
        state = method.init(game, jax.random.key(0))._replace(params=near, roles=Roles(near, near))
        keys = jax.random.split(jax.random.key(6), 4000)
        found = jax.vmap(lambda key, m=method, s=state: m.gradient(game, s, key)[0][0])(keys)
        variances[baseline, both_sides] = float(found.var(axis=0).sum())
    assert variances[True, False] < variances[False, False]
    assert variances[True, True] < 0.7 * variances[True, False]
