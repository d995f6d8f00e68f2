"""Policies small enough to list all of their answers."""

from __future__ import annotations

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from nashjax import lm


def small_policy(
    letters: str = "abc", *, stop: bool = True, seed: int = 0, spread: float = 3.0, **shape: Any
) -> lm.LanguagePolicy:
    """A llama on a few letters, its logits spread out so that answers are far from equally likely."""
    sizes: dict[str, Any] = {"width": 16, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 24} | shape
    tokenizer = lm.AlphabetTokenizer(letters)
    config = lm.LlamaConfig(tokenizer.vocabulary_size, context_length=16, tied_head=False, **sizes)
    model = lm.Llama(config, nnx.Rngs(seed))
    model.head[...] = spread * model.head[...]
    decoder, params = lm.LlamaDecoder.split(model)
    end: dict[str, Any] = {"stop": ("<end>",)} if stop else {"forbidden": ("<end>",)}
    return lm.LanguagePolicy(decoder, params, tokenizer, 16, **end)


def frozen(policy: lm.LanguagePolicy) -> Any:
    """The frozen weights of a llama."""
    decoder: Any = policy.decoder
    return decoder.base


def all_answers(policy: lm.LanguagePolicy, length: int, prompts: int) -> lm.Tokens:
    """Every answer of at most `length` tokens, `[prompts, answers, length]`."""
    stop = policy.stop_ids
    letters = [token for token in range(policy.tokenizer.vocabulary_size) if token not in stop]
    if not stop:
        letters = letters[:-1]
    found = [list(answer) for answer in itertools.product(letters, repeat=length)]
    for shorter in range(length) if stop else ():
        found += [[*answer, stop[0]] for answer in itertools.product(letters, repeat=shorter)]
    tokens = np.zeros((len(found), length), np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, answer in enumerate(found):
        tokens[row, : len(answer)], mask[row, : len(answer)] = answer, True
    shape = (prompts, *tokens.shape)
    return lm.Tokens(jnp.broadcast_to(tokens, shape), jnp.broadcast_to(mask, shape))
