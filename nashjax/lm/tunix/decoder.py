"""Tunix's models as a `Decoder`, and their adapters by Qwix."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from nashjax._math.pytree import register_dataclass
from nashjax._validation import check_integer, check_positive, invalid, shown
from nashjax.lm.chat import ChatTemplate
from nashjax.lm.decoding import Tokens
from nashjax.lm.policy import LanguagePolicy
from nashjax.lm.tokenizers import Tokenizer
from nashjax.stochastic.policies import Params

LORA_PATTERN = r".*attn/(q|k|v|o)_proj|.*mlp/(gate|up|down)_proj|.*attn/(q|kv|qkv|attn_vec)_einsum"
"""The matrices of attention and perceptron, by the names of Llama and Qwen and by those of Gemma."""
_NEVER = -1e30
"""Logit of tokens that the model does not know. Finite: a mixture multiplies it by a share, which may be 0."""


class TunixCache(NamedTuple):
    """Prompts and answers so far.

    Attributes:
      layers: the cache of the model, arrays that lead with `[rows, slots]` or `[rows]`.
      tokens: int32 `[rows, slots]`.
      mask: which slots hold a token, bool `[rows, slots]`.
      end: the first free slot, int32 `[]`.
    """

    layers: Any
    tokens: jax.Array
    mask: jax.Array
    end: jax.Array


# Compared by identity: the configurations in a graph have no hash.
@dataclasses.dataclass(frozen=True, eq=False)
class _Graph:
    """How a model is put together, the type that it computes in, and the window of its local layers."""

    definition: Any
    dtype: Any
    window: int | None


@register_dataclass
@dataclasses.dataclass(frozen=True)
class TunixDecoder:
    """A `Decoder` of pure functions over the weights that are trained; the others are frozen and shared by all.

    Attributes:
      base: the frozen weights, an nnx state; empty where all are trained.
      graph: how the model is put together.
      vocabulary_size: of the logits; None for the model's own. Models often have more rows than there are tokens.
    """

    base: Any
    graph: Any = dataclasses.field(metadata={"static": True})
    vocabulary_size: int | None = dataclasses.field(default=None, metadata={"static": True})

    @classmethod
    def split(cls, model: Any, vocabulary_size: int | None = None) -> tuple[TunixDecoder, Params]:
        """Take a model apart: the decoder, and the weights to train, float32 (adapters where there are some).

        Args:
          model: an nnx module that maps tokens, positions, a cache and a mask to logits and a cache, as Tunix's do.
          vocabulary_size: see `TunixDecoder`.

        Raises:
          ValueError: the model uses flash attention.
        """
        config = model.config
        if getattr(config, "use_flash_attention", False):
            raise invalid("model", "without use_flash_attention, which ignores padding", "use_flash_attention=True")
        weights = jax.tree.leaves(nnx.state(model, nnx.Param))
        dtype = jnp.dtype(getattr(config, "dtype", jnp.result_type(*weights)))
        trained = nnx.LoRAParam if jax.tree.leaves(nnx.state(model, nnx.LoRAParam)) else nnx.Param
        definition, params, base = nnx.split(model, trained, ...)
        graph = _Graph(definition, dtype, getattr(config, "sliding_window_size", None))
        return cls(base, graph, vocabulary_size), jax.tree.map(lambda x: x.astype(jnp.float32), params)

    def model(self, params: Params) -> Any:
        """The model with these weights."""
        # What the adapters add has to be of the cache's type.
        params = jax.tree.map(lambda x: x.astype(self.graph.dtype), params)
        return nnx.merge(self.graph.definition, params, self.base)

    def prefill(self, params: Params, prompts: Tokens, room: int) -> tuple[jax.Array, TunixCache]:
        """Read prompts; see `Decoder`."""
        model = self.model(params)
        rows, width = prompts.tokens.shape
        slots = (rows, width + room)
        empty = TunixCache(
            self._layers(model, *slots), jnp.zeros(slots, jnp.int32), jnp.zeros(slots, bool), jnp.int32(0)
        )
        logits, cache = self._read(model, _written(empty, prompts), width)
        return self._of_vocabulary(logits[:, -1]), cache

    def score(self, params: Params, cache: TunixCache, tokens: jax.Array) -> jax.Array:
        """Logits after each of the tokens that follow; see `Decoder`."""
        model = self.model(params)
        rows, new = tokens.shape

        def longer(x: jax.Array) -> jax.Array:
            return jnp.pad(x, [(0, new if axis == 1 else 0) for axis in range(x.ndim)])

        grown = TunixCache(
            jax.tree.map(lambda x: longer(x) if x.ndim > 1 else x, cache.layers),
            longer(cache.tokens),
            longer(cache.mask),
            cache.end,
        )
        grown = _written(grown, Tokens(tokens, jnp.ones(tokens.shape, bool)))
        slots = grown.mask.shape[1]
        if self.graph.window is None or slots <= self.graph.window:
            logits, _ = self._read(model, grown, new)
        else:
            positions = jnp.broadcast_to(jnp.arange(slots, dtype=jnp.int32), (rows, slots))
            causal = jnp.tril(jnp.ones((slots, slots), bool)) & grown.mask[:, None]
            logits = model(grown.tokens, positions, None, causal)[0]
            logits = jax.lax.dynamic_slice_in_dim(logits, cache.end, new, axis=1)
        return self._of_vocabulary(logits)

    def step(self, params: Params, cache: TunixCache, tokens: jax.Array) -> tuple[jax.Array, TunixCache]:
        """Read one more token; see `Decoder`."""
        one = Tokens(tokens[:, None], jnp.ones((tokens.shape[0], 1), bool))
        logits, cache = self._read(self.model(params), _written(cache, one), 1)
        return self._of_vocabulary(logits[:, 0]), cache

    def repeat(self, cache: TunixCache, times: int) -> TunixCache:
        """Every row so many times; see `Decoder`."""
        repeated = jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), cache._replace(end=()))
        return repeated._replace(end=cache.end)

    def _read(self, model: Any, cache: TunixCache, new: int) -> tuple[jax.Array, TunixCache]:
        """Logits of the next so many slots, which `_written` has filled, and the cache behind them."""
        rows, slots = cache.mask.shape
        places = cache.end + jnp.arange(new, dtype=jnp.int32)
        tokens = jax.lax.dynamic_slice_in_dim(cache.tokens, cache.end, new, axis=1)
        mask = cache.mask[:, None] & (jnp.arange(slots) <= places[:, None])
        logits, layers = model(tokens, jnp.broadcast_to(places, (rows, new)), cache.layers, mask)
        return logits, cache._replace(layers=layers, end=cache.end + new)

    def _layers(self, model: Any, rows: int, slots: int) -> Any:
        """An empty cache of the model's own kind."""
        if "init_cache" in dir(model):
            layers = model.init_cache(rows, slots, self.graph.dtype)
        else:
            sampler, config = needed("tunix.generate.sampler"), model.config
            sizes = config.num_layers, slots, rows, config.num_kv_heads, config.head_dim
            layers = sampler._init_cache(*sizes, self.graph.dtype)
        for leaf in jax.tree.leaves(layers):
            if leaf.ndim > 1 and leaf.shape[1] != slots:
                raise invalid("cache of the model", f"must keep all {slots} tokens", str(leaf.shape[1]))
        # The model puts the free slot beside literal numbers, which are int64 where jax has that enabled.
        return jax.tree.map(lambda x: x.astype(int) if x.ndim == 1 else x, layers)

    def _of_vocabulary(self, logits: jax.Array) -> jax.Array:
        """Logits float32 `[..., vocabulary_size]`."""
        logits = logits.astype(jnp.float32)
        missing = 0 if self.vocabulary_size is None else self.vocabulary_size - logits.shape[-1]
        if missing <= 0:
            return logits[..., : self.vocabulary_size]
        return jnp.pad(logits, [(0, 0)] * (logits.ndim - 1) + [(0, missing)], constant_values=_NEVER)


def _written(cache: TunixCache, new: Tokens) -> TunixCache:
    """The cache with new tokens `[rows, new]` in its next slots, not yet read."""
    write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=cache.end, axis=1)
    return cache._replace(tokens=write(cache.tokens, new.tokens), mask=write(cache.mask, new.mask))


def tunix_policy(
    model: Any,
    tokenizer: Tokenizer,
    *,
    context_length: int,
    stop: tuple[str, ...],
    template: str | ChatTemplate = "{prompt}",
    lora_rank: int = 8,
    lora_scale: float = 16.0,
    lora_pattern: str = LORA_PATTERN,
    forbidden: tuple[str, ...] = (),
    key: jax.Array | None = None,
) -> LanguagePolicy:
    """A policy of a Tunix model, which starts as the model itself.

    Args:
      model: an nnx module that is called as Tunix's are; see `TunixDecoder.split`.
      tokenizer: from texts to tokens and back. Logits are of its tokens alone.
      context_length: most tokens of a prompt with its answer.
      stop: names of the tokens that end an answer.
      template: the text around a prompt, with `{prompt}` where it stands, or the `ChatTemplate` of the model.
      lora_rank: rank of the adapters that are trained; 0 trains all weights.
      lora_scale: factor of what the adapters add, times the rank.
      lora_pattern: regular expression of the modules that get adapters. One that leaves out the attention has to name
        `mlp` and not `attn`.
      forbidden: names of tokens that are never drawn.
      key: of the adapters' first values.

    Raises:
      ImportError: qwix is not installed.
      ValueError: an argument is not allowed, or the pattern fits no module, or none of the attention.
    """
    check_integer("lora_rank", lora_rank, 0)
    check_positive("lora_scale", lora_scale)
    if lora_rank:
        key = jax.random.key(0) if key is None else key
        model = _adapted(model, lora_rank, lora_scale, lora_pattern, key)
    decoder, params = TunixDecoder.split(model, tokenizer.vocabulary_size)
    return LanguagePolicy(decoder, params, tokenizer, context_length, stop, forbidden, template)


def _adapted(model: Any, rank: int, scale: float, pattern: str, key: jax.Array) -> Any:
    """A copy of the model, of the same arrays, with adapters."""
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise invalid("lora_pattern", "a regular expression", shown(pattern)) from error
    qwix = needed("qwix")
    zero, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1, 1), bool)
    provider = qwix.LoraProvider(module_path=pattern, rank=rank, alpha=scale)
    adapted = qwix.apply_lora_to_model(model, provider, zero, zero, None, mask, rngs=nnx.Rngs(key))
    with_adapters = _modules(adapted, nnx.LoRAParam)
    only_mlp = "mlp" in pattern and "attn" not in pattern
    if not with_adapters or not (only_mlp or any("attn" in name for name in with_adapters)):
        matches = "no module" if not with_adapters else f"{sorted(with_adapters)} and none of the attention"
        requirement = f"a pattern, such as LORA_PATTERN, that matches some of {sorted(_modules(model, nnx.Param))}"
        got = f"{pattern!r}, which matches {matches} of {type(model).__name__}"
        raise invalid("lora_pattern", requirement, got)
    return adapted


def _modules(model: Any, kind: Any) -> set[str]:
    """The modules that have a matrix of this kind, by the last two parts of their paths."""
    flat: Any = nnx.to_flat_state(nnx.state(model, kind))
    return {"/".join(map(str, path[-3:-1])) for path, value in flat if value.get_value().ndim > 1 and len(path) > 2}


def needed(name: str) -> Any:
    """A module of an optional package."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise ImportError(f'models of Tunix need {missing}: python -m pip install "nashjax[tunix]"') from error
