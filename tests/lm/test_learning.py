"""Gradients of every method against the exact ones of what they estimate, on a game whose answers are listed."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("optax", reason="needs the extra `train`")
pytest.importorskip("flax", reason="needs the extra `train`")

from nashjax import lm
from nashjax.lm.game import LanguageGame
from nashjax.stochastic.methods import LearnerState, Roles
from tests.lm.small import all_answers, small_policy

BETA, LENGTH, DRAWS = 0.1, 2, 300_000
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


def _exact_gradient(method, name, state):
    """By listing all pairs of answers."""
    game, answers, preferences, _ = _arena()
    contexts = jnp.arange(2)
    opponent = state.params if state.roles.opponent is None else state.roles.opponent
    share = method.reference_share(BETA)
    log_opponent = game.log_prob(opponent, contexts, answers, share)
    log_reference = game.reference_log_prob(contexts, answers)
    same = jnp.eye(preferences.shape[1], dtype=bool)
    wins = jnp.where(same, 0.5, preferences)

    def objective(params):
        log_policy = game.log_prob(params, contexts, answers)
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
        if state.roles.center is not None:
            log_center = game.log_prob(state.roles.center, contexts, answers)
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

    return jax.grad(objective)(state.params)


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
    exact = jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(_exact_gradient(method, name, state))])
    error = found.std(axis=0, ddof=1) / np.sqrt(batches)
    used = error > 1e-9  # not the embeddings of tokens that no prompt has
    assert used.sum() > 100
    deviation = np.abs(found.mean(axis=0) - exact)[used] / error[used]
    # Of some hundred entries, which depend on each other, and whose tails are heavy where a token is rare. With six
    # times the draws the largest deviation is 3.0.
    assert deviation.max() < 5
    assert np.mean(deviation < 2) > 0.75
    assert np.abs(exact).max() > 20 * error.max()  # the gradient is not lost in the noise
