"""Gradients of every method against the exact ones of what they estimate, on a game whose answers are listed."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

pytest.importorskip("optax", reason="needs the extra `train`")
pytest.importorskip("flax", reason="needs the extra `train`")

from nashjax import lm
from nashjax.lm.game import LanguageGame
from nashjax.stochastic.methods import LearnerState, Roles
from tests.lm.small import all_answers, small_policy

BETA, LENGTH, DRAWS = 0.1, 2, 600_000
METHODS = {
    "target": {},
    "two_average": {},
    "proximal_point": {},
    "two_loop": {"exploration": 0.0},
    "nash_md": {"mixture": 0.3},
    "self_play": {},
    "online_ipo": {},
    "online_dpo": {"scale": 0.4},
}


@functools.cache
def _arena():
    """The game, its answers, what is preferred of them, and policies to be opponent and centre."""
    policy = small_policy(stop=True, width=8, num_layers=1, num_heads=2, num_kv_heads=1, mlp_width=8, spread=1.0)
    prompts = policy.encode(["a", "cb"], LENGTH)
    game = LanguageGame.of(policy, prompts, BETA, LENGTH)
    answers = all_answers(policy, LENGTH, 2)
    count = answers.tokens.shape[1]
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, count, count)) * 2
    preferences = jnp.asarray(1 / (1 + np.exp(logits.swapaxes(1, 2) - logits)), jnp.float32)

    def moved(seed: int) -> object:
        leaves, structure = jax.tree.flatten(policy.params)
        keys = jax.random.split(jax.random.key(seed), len(leaves))
        moves = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
        return jax.tree.unflatten(structure, moves)

    return game, answers, preferences, [moved(seed) for seed in range(3)]


def _state(method, policies):
    """A state whose policies all differ; None stays None."""
    params, *others = policies
    roles = Roles(*(None if x is None else y for x, y in zip(method.start(params), others, strict=True)))
    return LearnerState(params, roles, (), params, jnp.int32(0))


@functools.cache
def _log_probs():
    """Return a compiled function of parameters and of the reference's share: log-probabilities of all answers."""
    game, answers, _, _ = _arena()
    return jax.jit(lambda params, share: game.log_prob(params, jnp.arange(2), answers, share))


@functools.cache
def _scores():
    """Return the gradients of the log-probabilities of all answers, `[prompts * answers, weights]`."""
    game, answers, _, policies = _arena()
    scores = jax.jit(jax.jacrev(lambda params: game.log_prob(params, jnp.arange(2), answers)))(policies[0])
    flat = [np.asarray(x, np.float64).reshape(answers.mask[..., 0].size, -1) for x in jax.tree.leaves(scores)]
    return np.concatenate(flat, axis=1)


def _score_basis():
    """Return an orthonormal basis of the span of the scores, `[dimensions, weights]`.

    Every gradient of a method is a weighted sum of scores, so all gradients lie in this space, which has far fewer
    dimensions than there are weights.
    """
    _, sizes, basis = np.linalg.svd(_scores(), full_matrices=False)
    return basis[sizes > 1e-4 * sizes[0]]


def _exact_gradient(method, name, state):
    """By listing all pairs of answers, `[weights]`."""
    game, _, preferences, _ = _arena()
    opponent = state.params if state.roles.opponent is None else state.roles.opponent
    share = method.reference_share(BETA)
    log_opponent = _log_probs()(opponent, jnp.float32(share))
    log_reference = _log_probs()(game.reference, jnp.float32(0))
    center = state.roles.center
    log_center = None if center is None else _log_probs()(center, jnp.float32(0))
    same = jnp.eye(preferences.shape[1], dtype=bool)
    wins = jnp.where(same, 0.5, preferences)

    def objective(log_policy):
        policy = jnp.exp(log_policy)
        if name in ("online_ipo", "online_dpo"):
            fixed = jax.lax.stop_gradient(policy)
            margin = log_policy - log_reference
            h = margin[:, :, None] - margin[:, None]
            if name == "online_ipo":
                losses = (h - (wins - 0.5) / BETA) ** 2 * BETA**2 / 4
            else:
                logit = method.scale * h
                losses = -wins * jax.nn.log_sigmoid(logit) - (1 - wins) * jax.nn.log_sigmoid(-logit)
            return jnp.sum(fixed[:, :, None] * fixed[:, None] * losses) / 2
        value = jnp.einsum("cij,cj->ci", wins, jnp.exp(log_opponent)) - BETA * (log_policy - log_reference)
        if log_center is not None:
            value -= method.prox_weight(BETA) * (log_policy - log_center)
        of_policy = jnp.sum(policy * value, axis=1)
        k, far = method.samples_per_context, round(method.exploration * method.samples_per_context)
        if not far:
            return -jnp.mean(of_policy)
        # Samples of the policy and of the reference, each less its baseline; of the opponents as without.
        value, reference = jax.lax.stop_gradient(value), jnp.exp(log_reference)
        fixed = jax.lax.stop_gradient(of_policy)
        others = ((k - far) * fixed + (far - 1) * jnp.sum(reference * value, axis=1)) / (k - 1)
        of_reference = jnp.sum(reference * (value - others[:, None]) * log_policy, axis=1)
        return -jnp.mean(of_policy + ((k - far) * of_policy + far * of_reference) / k) / 2

    of_answers = jax.jit(jax.grad(objective))(_log_probs()(state.params, jnp.float32(0)))
    return np.asarray(of_answers, np.float64).reshape(-1) @ _scores()


@pytest.mark.parametrize(
    ("name", "all_pairs"), [*((name, False) for name in METHODS), ("two_average", True), ("online_ipo", True)]
)
def test_gradients_are_those_of_the_listed_objective(name, all_pairs):
    game, answers, preferences, policies = _arena()
    samples = 32 if all_pairs else 500
    method = lm.make_method(name, prompts_per_step=2, samples_per_prompt=samples, all_pairs=all_pairs, **METHODS[name])
    state = _state(method, policies)
    batches = DRAWS // (2 * 2 * samples) if not all_pairs else 1000
    listed = jnp.where(answers.mask[0], answers.tokens[0], -1)

    def place(drawn):
        found = jnp.where(drawn.mask, drawn.tokens, -1)
        return jnp.argmax(jnp.all(found[..., None, :] == listed, axis=-1), axis=-1)

    @jax.jit
    def batch(key):
        for_question, for_votes = jax.random.split(key)
        question = method.ask(game, state, for_question)
        a, b = map(place, method.pairs(question))
        wins = preferences[question.contexts[:, None], a, b]
        votes = (jax.random.uniform(for_votes, wins.shape) < wins).astype(jnp.float32)
        gradient, _ = method.learn(game, state, question, jnp.where(a == b, 0.5, votes))
        return jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(gradient)])

    found = np.asarray(jax.lax.map(batch, jax.random.split(jax.random.key(3), batches)), np.float64)
    exact = _exact_gradient(method, name, state)
    error = found.std(axis=0, ddof=1) / np.sqrt(batches)
    used = error > 1e-9  # not the embeddings of tokens that no prompt has
    assert used.sum() > 100
    deviation = np.abs(found.mean(axis=0) - exact)[used] / error[used]
    assert deviation.max() < 4.5
    # Entries depend on each other: they vary in 21 dimensions, of which at most about five hold most of the variance.
    # So the share of entries within two standard errors says little: with `self_play` it is below 0.9 in 13 % of
    # simulated runs of the correct estimator. Hotelling's statistic weighs all dimensions equally, and its distribution
    # is known if the gradients of batches are normal.
    basis = _score_basis()
    assert np.abs(found - found @ basis.T @ basis).max() < 1e-5 * np.abs(found).max()
    count, off = len(basis), (found.mean(axis=0) - exact) @ basis.T
    statistic = batches * off @ np.linalg.solve(np.cov(found @ basis.T, rowvar=False), off)
    scaled = statistic * (batches - count) / (count * (batches - 1))
    assert stats.f.sf(scaled, count, batches - count) > 1e-3
    assert np.abs(exact).max() > 20 * error.max()  # the gradient is not lost in the noise
