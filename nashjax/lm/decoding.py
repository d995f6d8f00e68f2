"""Drawing answers from a decoder, and their log-probabilities: one pair of functions for every family of models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from nashjax.stochastic.policies import Params


class Tokens(NamedTuple):
    """Texts as tokens, prompts padded on the left, answers on the right.

    Attributes:
      tokens: int32 `[..., length]`.
      mask: which of them count, bool, the same shape; of an answer, its stop token is the last one that does.
    """

    tokens: jax.Array
    mask: jax.Array


@runtime_checkable
class Decoder(Protocol):
    """A causal model as pure functions of its trained weights, with a cache of what it has read; a pytree.

    Logits are float32 `[..., vocabulary]`. Rows are independent of each other.
    """

    def prefill(self, params: Params, prompts: Tokens, room: int) -> tuple[jax.Array, Any]:
        """Read prompts `[rows, width]`, padded on the left; the cache leaves room for so many tokens more.

        Returns:
          The logits after each prompt `[rows, vocabulary]`, and the cache.
        """
        ...

    def score(self, params: Params, cache: Any, tokens: jax.Array) -> jax.Array:
        """The logits after each of the tokens `[rows, new]` that follow what is in the cache."""
        ...

    def step(self, params: Params, cache: Any, tokens: jax.Array) -> tuple[jax.Array, Any]:
        """Read one token more in each row, `[rows]`: the logits after it, and the cache with it."""
        ...

    def repeat(self, cache: Any, times: int) -> Any:
        """The cache with every row so many times, one after the other."""
        ...


class _Drawn(NamedTuple):
    """Answers so far: which are finished, their tokens (-1 where there is none yet), log-probabilities, last tokens."""

    finished: jax.Array
    tokens: jax.Array
    log_prob: jax.Array
    last: jax.Array


def generate(
    decoder: Decoder,
    members: Sequence[tuple[Params, jax.Array | float]],
    key: jax.Array,
    prompts: Tokens,
    num: int,
    length: int,
    *,
    stop: tuple[int, ...] = (),
    bias: jax.Array | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> tuple[Tokens, jax.Array]:
    """Draw answers, token by token.

    Args:
      decoder: the model.
      members: weights of the policies and their shares in a geometric mixture, `sum(share * log p)` normalized at
        every token; one of share 1 for a policy alone.
      key: a jax random key.
      prompts: `[rows, width]`.
      num: answers to each prompt.
      length: most tokens of an answer, the stop token among them; one that finds none ends there.
      stop: tokens that end an answer.
      bias: `[vocabulary]`, added to the logits; `-inf` for tokens that are never drawn.
      temperature: divides the logits of what is drawn; 0 takes the likeliest token.
      top_p: draw from the fewest tokens that have this probability together.

    Returns:
      Answers `[rows, num, length]`, and their log-probabilities `[rows, num]` under the mixture, at temperature 1 and
      top_p 1 whatever they were drawn with.
    """
    rows = prompts.tokens.shape[0] * num
    starts = [decoder.prefill(params, prompts, length - 1) for params, _ in members]
    shares = [share for _, share in members]
    stops = jnp.asarray(stop, jnp.int32)

    def draw(t: jax.Array, logits: Sequence[jax.Array], so_far: _Drawn) -> _Drawn:
        log_probs = _mixture(logits, shares, bias)
        token = _draw(jax.random.fold_in(key, t), log_probs, temperature, top_p)
        picked = jnp.take_along_axis(log_probs, token[:, None], axis=-1)[:, 0]
        finished, tokens, log_prob, _ = so_far
        log_prob += jnp.where(finished, 0, picked)
        tokens = tokens.at[:, t].set(jnp.where(finished, -1, token))
        return _Drawn(finished | jnp.isin(token, stops), tokens, log_prob, token)

    def unfinished(carried: tuple[jax.Array, _Drawn, Any]) -> jax.Array:
        t, so_far, _ = carried
        return (t < length) & ~jnp.all(so_far.finished)

    def read_and_draw(carried: tuple[jax.Array, _Drawn, Any]) -> tuple[jax.Array, _Drawn, Any]:
        t, so_far, caches = carried
        read = [decoder.step(params, cache, so_far.last) for (params, _), cache in zip(members, caches, strict=True)]
        return t + 1, draw(t, [logits for logits, _ in read], so_far), [cache for _, cache in read]

    nothing = _Drawn(
        jnp.zeros(rows, bool),
        jnp.full((rows, length), -1, jnp.int32),
        jnp.zeros(rows, jnp.float32),
        jnp.zeros(rows, jnp.int32),
    )
    first = draw(jnp.int32(0), [jnp.repeat(logits, num, axis=0) for logits, _ in starts], nothing)
    caches = [decoder.repeat(cache, num) for _, cache in starts]
    _, (_, tokens, log_prob, _), _ = jax.lax.while_loop(unfinished, read_and_draw, (jnp.int32(1), first, caches))
    mask = tokens >= 0
    answers = Tokens(jnp.where(mask, tokens, 0).reshape(-1, num, length), mask.reshape(-1, num, length))
    return answers, log_prob.reshape(-1, num)


def log_probs(
    decoder: Decoder,
    members: Sequence[tuple[Params, jax.Array | float]],
    prompts: Tokens,
    answers: Tokens,
    *,
    bias: jax.Array | None = None,
) -> jax.Array:
    """Log-probabilities of the tokens of answers, stop tokens included and 0 behind them.

    Prompts are read once, whatever the number of their answers, and logits computed for the answers' tokens only.

    Args:
      decoder: the model.
      members: the policies and their shares; see `generate`.
      prompts: `[rows, width]`.
      answers: `[rows, num, length]`.
      bias: `[vocabulary]`; see `generate`.

    Returns:
      float32 `[rows, num, length]`.
    """
    rows, num, length = answers.tokens.shape
    flat = answers.tokens.reshape(rows * num, length)
    logits = []
    for params, _ in members:
        first, cache = decoder.prefill(params, prompts, 0)
        of_answers = [jnp.repeat(first, num, axis=0)[:, None]]
        if length > 1:
            of_answers.append(decoder.score(params, decoder.repeat(cache, num), flat[:, :-1]))
        logits.append(jnp.concatenate(of_answers, axis=1))
    mixed = _mixture(logits, [share for _, share in members], bias)
    # Not by `take_along_axis`: its derivative is a scatter, far slower than this sum on processors.
    chosen = jnp.arange(mixed.shape[-1]) == flat[..., None]
    picked = jnp.sum(jnp.where(chosen, mixed, 0), axis=-1).reshape(answers.tokens.shape)
    return jnp.where(answers.mask, picked, 0)


def _mixture(logits: Sequence[jax.Array], shares: Sequence[jax.Array | float], bias: jax.Array | None) -> jax.Array:
    """Log-probabilities of the next token."""
    if len(logits) == 1:
        mixed = logits[0]
    else:
        mixed = sum(s * jax.nn.log_softmax(x, axis=-1) for s, x in zip(shares, logits, strict=True))
    return jax.nn.log_softmax(mixed if bias is None else mixed + bias, axis=-1)


def _draw(key: jax.Array, log_probs: jax.Array, temperature: float, top_p: float) -> jax.Array:
    """One token of each row, int32 `[rows]`."""
    if temperature == 0:
        return jnp.argmax(log_probs, axis=-1).astype(jnp.int32)
    tiny = float(jnp.finfo(log_probs.dtype).tiny)
    logits = log_probs
    if temperature != 1:  # the likeliest is at 0, and stays there whatever it is divided by
        logits = (logits - jnp.max(logits, axis=-1, keepdims=True)) / max(temperature, tiny)
    if top_p < 1:
        order = jnp.argsort(-logits, axis=-1)
        ranked = jnp.take_along_axis(jax.nn.softmax(logits, axis=-1), order, axis=-1)
        before = jnp.cumsum(ranked, axis=-1) - ranked
        kept = jnp.put_along_axis(
            jnp.zeros_like(logits, bool), order, before < max(top_p, tiny), axis=-1, inplace=False
        )
        logits = jnp.where(kept, logits, -jnp.inf)
    return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)
