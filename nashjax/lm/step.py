"""One step of a fine-tuning in three parts: compiled code draws, a judge compares, compiled code learns."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nashjax.lm.decoding import Tokens, generate
from nashjax.lm.game import LanguageGame
from nashjax.lm.sharding import split_weights, whole
from nashjax.stochastic.methods import LearnerState, PolicyMethod
from nashjax.stochastic.methods.base import Question
from nashjax.stochastic.policies import Params


class Looks(NamedTuple):
    """What a step has seen: means over the policy's own answers, norms of its gradient and of the weights after it.

    All are `[]`.
    """

    win_rate: jax.Array
    kl: jax.Array
    entropy: jax.Array
    answer_length: jax.Array
    gradient_norm: jax.Array
    weight_norm: jax.Array


@functools.partial(jax.jit, static_argnames="method")
def init(game: LanguageGame, method: PolicyMethod, key: jax.Array) -> LearnerState:
    """The first state of a method."""
    return split_weights(method.init(game, key), game.mesh)  # pyright: ignore[reportArgumentType]


@jax.jit
def answer(game: LanguageGame, params: Params, key: jax.Array, prompts: Tokens) -> Tokens:
    """One answer of a policy to each of some prompts, whole on every device."""
    members = [(params, 1.0)]
    drawn = generate(game.decoder, members, key, prompts, 1, game.length, stop=game.stop, bias=game.bias)[0]
    return whole(drawn, game.mesh)


@functools.partial(jax.jit, static_argnames="method")
def draw(game: LanguageGame, method: PolicyMethod, state: LearnerState, key: jax.Array) -> Question:
    """What is to be compared, whole on every device."""
    return whole(method.ask(game, state, jax.random.fold_in(key, 0)), game.mesh)


@functools.partial(jax.jit, static_argnames=("method", "votes", "accumulate"))
def learn(
    game: LanguageGame,
    method: PolicyMethod,
    state: LearnerState,
    question: Question,
    outcome: jax.Array,
    key: jax.Array,
    progress: jax.Array,
    *,
    votes: bool,
    accumulate: int,
) -> tuple[LearnerState, Looks]:
    """Follow the gradient of answers `[prompts, comparisons]`.

    Args:
      game: prompts and reference.
      method: how to learn.
      state: where it stands.
      question: what was compared.
      outcome: what the judge says.
      key: of the step.
      progress: the share of the run before it.
      votes: whether to learn from answers 0 or 1 that are drawn with the judge's probabilities.
      accumulate: in how many parts to compute the gradient, one after the other.
    """
    if votes:
        actions, opponents = method.pairs(question)
        same = jnp.all((actions.tokens == opponents.tokens) & (actions.mask == opponents.mask), axis=-1)
        uniform = jax.random.uniform(jax.random.fold_in(key, 1), outcome.shape, jnp.float32)
        outcome = jnp.where(same, 0.5, (uniform < outcome).astype(outcome.dtype))

    def of_part(part: tuple[Question, jax.Array]) -> tuple[Any, Looks]:
        gradient, compared = method.learn(game, state, *part)
        log_prob, log_reference = method.own((compared.action.log_prob, compared.action.log_reference))
        return gradient, Looks(
            win_rate=jnp.mean(method.own(compared.outcome)),
            kl=jnp.mean(log_prob - log_reference),
            entropy=-jnp.mean(log_prob),
            answer_length=jnp.mean(jnp.sum(method.own(part[0].actions.mask), axis=-1)),
            gradient_norm=jnp.float32(0),
            weight_norm=jnp.float32(0),
        )

    parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), (question, outcome))
    if accumulate == 1:
        gradient, looks = of_part(jax.tree.map(lambda x: x[0], parts))
    else:
        empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda p: of_part(p), _first(parts)))

        def add(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, of_part(part)), None

        total, _ = jax.lax.scan(add, empty, parts)
        gradient, looks = jax.tree.map(lambda x: x / accumulate, total)
    state = split_weights(method.update(state, gradient, progress), game.mesh)
    looks = looks._replace(gradient_norm=optax.tree.norm(gradient), weight_norm=optax.tree.norm(state.params))
    return state, whole(looks, game.mesh)


def _first(parts: Any) -> Any:
    return jax.tree.map(lambda x: x[0], parts)
