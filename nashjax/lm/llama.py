"""A compact decoder of the llama architecture, from toys that train in seconds to real weights (flax nnx)."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx

from nashjax._math.pytree import register_dataclass
from nashjax._validation import check_choice, check_integer, check_positive, invalid
from nashjax.lm.decoding import Tokens
from nashjax.stochastic.policies import Params

DTYPES = ("float32", "bfloat16")
"""What models compute in."""


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """The shape of a decoder.

    Attributes:
      vocabulary_size: number of tokens.
      width: of the residual stream.
      num_layers: number of blocks.
      num_heads: query heads of a block.
      num_kv_heads: key and value heads, a divisor of `num_heads` (grouped-query attention).
      head_size: width of a head, even; None for `width / num_heads`.
      mlp_width: of the gated perceptron.
      context_length: most tokens of a prompt with its answer.
      rope_base: base of the rotary positions.
      norm_epsilon: added to the mean square in RMS norms.
      tied_head: whether the embedding is also the output layer.
      dtype: what is computed in, and how frozen weights are kept, "float32" or "bfloat16"; logits are float32 always.
      lora_rank: rank of the adapters of all matrices of the blocks; 0 for none, then all weights are trained.
      lora_scale: factor of what the adapters add, times the rank (the field's `alpha`).
    """

    vocabulary_size: int
    width: int = 64
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    head_size: int | None = None
    mlp_width: int = 128
    context_length: int = 256
    rope_base: float = 10_000.0
    norm_epsilon: float = 1e-5
    tied_head: bool = True
    dtype: str = "float32"
    lora_rank: int = 0
    lora_scale: float = 16.0

    def __post_init__(self):
        sizes = ("vocabulary_size", "width", "num_layers", "num_heads", "num_kv_heads", "mlp_width", "context_length")
        for name in sizes:
            check_integer(name, getattr(self, name), 1)
        check_integer("lora_rank", self.lora_rank, 0)
        for name in ("rope_base", "norm_epsilon", "lora_scale"):
            check_positive(name, getattr(self, name))
        if self.num_heads % self.num_kv_heads:
            raise invalid("num_kv_heads", f"a divisor of num_heads, {self.num_heads}", str(self.num_kv_heads))
        if self.head_size is None:
            if self.width % self.num_heads:
                raise invalid("num_heads", f"a divisor of width, {self.width}", str(self.num_heads))
            object.__setattr__(self, "head_size", self.width // self.num_heads)
        if self.head % 2 or self.head < 2:
            raise invalid("head_size", "an even integer >= 2", str(self.head))
        check_choice("dtype", self.dtype, DTYPES)

    @property
    def head(self) -> int:
        """Width of a head."""
        return cast(int, self.head_size)


class Linear(nnx.Module):
    """A matrix, `[inputs, outputs]`, and the adapter beside it where there is one."""

    def __init__(self, inputs: int, outputs: int, config: LlamaConfig, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (inputs, outputs), jnp.float32))
        self.scale = 0.0
        if config.lora_rank:
            self.scale = config.lora_scale / config.lora_rank
            down = nnx.initializers.he_uniform()(rngs.params(), (inputs, config.lora_rank), jnp.float32)
            self.lora_down = nnx.LoRAParam(down)
            self.lora_up = nnx.LoRAParam(jnp.zeros((config.lora_rank, outputs), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """From `[..., inputs]` to `[..., outputs]`."""
        y = x @ self.kernel[...].astype(x.dtype)
        if self.scale:
            y += (x @ self.lora_down[...].astype(x.dtype)) @ (self.scale * self.lora_up[...]).astype(x.dtype)
        return y


class RMSNorm(nnx.Module):
    """Divides by the root mean square."""

    def __init__(self, width: int, epsilon: float):
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """Of the same shape."""
        wide = x.astype(jnp.float32)
        wide *= jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + self.epsilon)
        return (wide * self.scale[...]).astype(x.dtype)


class Past(NamedTuple):
    """What a block remembers of tokens, and which of them count.

    Attributes:
      keys: rotated, `[rows, slots, kv_heads, head]`; of all blocks with an axis `[layers]` in front.
      values: of the same shape.
    """

    keys: jax.Array
    values: jax.Array


class Block(nnx.Module):
    """Attention, then a gated perceptron, each on the normed stream and added to it."""

    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        width, head = config.width, config.head
        self.attention_norm = RMSNorm(width, config.norm_epsilon)
        self.query = Linear(width, config.num_heads * head, config, rngs)
        self.key = Linear(width, config.num_kv_heads * head, config, rngs)
        self.value = Linear(width, config.num_kv_heads * head, config, rngs)
        self.output = Linear(config.num_heads * head, width, config, rngs)
        self.mlp_norm = RMSNorm(width, config.norm_epsilon)
        self.gate = Linear(width, config.mlp_width, config, rngs)
        self.up = Linear(width, config.mlp_width, config, rngs)
        self.down = Linear(config.mlp_width, width, config, rngs)
        self.kv_heads, self.head = config.num_kv_heads, head

    def __call__(
        self, x: jax.Array, rotation: jax.Array, past: Past | None, past_mask: jax.Array | None, mask: jax.Array
    ) -> tuple[jax.Array, Past]:
        """Tokens `[rows, new, width]`, which attend to the past and to those of the new ones that `mask` allows."""
        rows, new, _ = x.shape
        normed = self.attention_norm(x)
        query = rotate(self.query(normed).reshape(rows, new, -1, self.head), rotation)
        keys = rotate(self.key(normed).reshape(rows, new, self.kv_heads, self.head), rotation)
        values = self.value(normed).reshape(rows, new, self.kv_heads, self.head)
        query = query.reshape(rows, new, self.kv_heads, -1, self.head) / math.sqrt(self.head)
        scores = _masked(jnp.einsum("btkgd,bskd->bkgts", query, keys), mask)
        if past is not None and past_mask is not None:
            before = _masked(jnp.einsum("btkgd,bskd->bkgts", query, past.keys), past_mask[:, None])
            scores = jnp.concatenate([before, scores], axis=-1)
        weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        mixed = jnp.einsum("bkgts,bskd->btkgd", weights[..., -new:], values)
        if past is not None:
            mixed += jnp.einsum("bkgts,bskd->btkgd", weights[..., :-new], past.values)
        x += self.output(mixed.reshape(rows, new, -1))
        normed = self.mlp_norm(x)
        x += self.down(jax.nn.silu(self.gate(normed)) * self.up(normed))
        return x, Past(keys, values)


def _masked(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """Scores `[rows, kv_heads, group, new, slots]` under a mask `[rows, new or 1, slots]`."""
    # Finite: a padded token that sees nothing has no softmax otherwise.
    return jnp.where(mask[:, None, None], scores.astype(jnp.float32), -1e30)


def rotate(x: jax.Array, rotation: jax.Array) -> jax.Array:
    """Rotary positions: the two halves of a head are the coordinates that turn, `[rows, new, heads, head]`."""
    cosine, sine = jnp.cos(rotation)[:, :, None], jnp.sin(rotation)[:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return turned.astype(x.dtype)


def _split(rngs: nnx.Rngs, count: int) -> nnx.Rngs:
    """Return random streams with a leading axis of `count`."""
    # flax 0.12.0 has only `fork`, for which later versions of flax warn. Both return the same streams.
    return rngs.split(count) if "split" in vars(nnx.Rngs) else rngs.fork(split=count)


class Llama(nnx.Module):
    """The decoder: embedding, blocks, norm, output layer. The blocks' weights are stacked, `[layers, ...]`.

    Args:
      config: the architecture.
      rngs: what the first weights are drawn with.
    """

    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        initial = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
        self.embedding = nnx.Param(initial(rngs.params(), (config.vocabulary_size, config.width), jnp.float32))
        self.blocks = nnx.vmap(lambda rngs: Block(config, rngs))(_split(rngs, config.num_layers))
        self.norm = RMSNorm(config.width, config.norm_epsilon)
        if not config.tied_head:
            head = nnx.initializers.lecun_normal()(rngs.params(), (config.width, config.vocabulary_size), jnp.float32)
            self.head = nnx.Param(head)
        self.config = config

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        mask: jax.Array,
        past: Past | None = None,
        past_mask: jax.Array | None = None,
    ) -> tuple[jax.Array, Past]:
        """The stream at new tokens `[rows, new, width]`, and what to remember of them `[layers, rows, new, ...]`.

        Args:
          tokens: int32 `[rows, new]`.
          positions: of the tokens, int32 `[rows, new]`.
          mask: which new tokens each attends to, bool `[rows, new, new]`.
          past: what is remembered of earlier tokens, `[layers, rows, slots, ...]`.
          past_mask: which of these slots hold a token, bool `[rows, slots]`.
        """
        config = self.config
        x = self.embedding[...][tokens].astype(config.dtype)
        halves = jnp.arange(config.head // 2) / (config.head // 2)
        rotation = positions[..., None] / config.rope_base**halves
        graph, stacked = nnx.split(self.blocks)

        def body(x: jax.Array, layer: tuple[Any, Past | None]) -> tuple[jax.Array, Past]:
            weights, past = layer
            return nnx.merge(graph, weights)(x, rotation, past, past_mask, mask)

        x, new = jax.lax.scan(body, x, (stacked, past))
        return self.norm(x), new

    def logits(self, x: jax.Array) -> jax.Array:
        """Of the next token, float32 `[..., vocabulary]`."""
        head = self.embedding[...].T if self.config.tied_head else self.head[...]
        return jnp.matmul(x, head.astype(x.dtype), preferred_element_type=jnp.float32)


class LlamaCache(NamedTuple):
    """Prompts and answers so far.

    Attributes:
      past: `[layers, rows, slots, ...]`.
      mask: which slots hold a token, bool `[rows, slots]`.
      length: tokens of each row, int32 `[rows]`.
      end: the first free slot, int32 `[]`.
    """

    past: Past
    mask: jax.Array
    length: jax.Array
    end: jax.Array


@register_dataclass
@dataclasses.dataclass(frozen=True)
class LlamaDecoder:
    """A `Decoder` of pure functions over the weights that are trained; the others are frozen and shared by all.

    Attributes:
      base: the frozen weights, an nnx state; empty where all are trained.
      graph: how the model is put together.
    """

    base: Any
    graph: Any = dataclasses.field(metadata={"static": True})

    @classmethod
    def split(cls, model: Llama) -> tuple[LlamaDecoder, Params]:
        """Take a model apart: the decoder, and the weights to train, float32 (adapters where there are some)."""
        trained = nnx.LoRAParam if model.config.lora_rank else nnx.Param
        graph, params, base = nnx.split(model, trained, ...)
        base = jax.tree.map(lambda x: x.astype(model.config.dtype), base)
        return cls(base, graph), jax.tree.map(lambda x: x.astype(jnp.float32), params)

    def model(self, params: Params) -> Llama:
        """The model with these weights."""
        return nnx.merge(self.graph, params, self.base)

    def prefill(self, params: Params, prompts: Tokens, room: int) -> tuple[jax.Array, LlamaCache]:
        """Read prompts; see `Decoder`."""
        model = self.model(params)
        rows, width = prompts.tokens.shape
        positions = jnp.maximum(jnp.cumsum(prompts.mask, axis=1) - 1, 0)
        causal = jnp.tril(jnp.ones((width, width), bool)) & prompts.mask[:, None]
        x, new = model(prompts.tokens, positions, causal)
        past = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, room), (0, 0), (0, 0))), new)
        mask = jnp.concatenate([prompts.mask, jnp.zeros((rows, room), bool)], axis=1)
        length = jnp.sum(prompts.mask, axis=1, dtype=jnp.int32)
        return model.logits(x[:, -1]), LlamaCache(past, mask, length, jnp.int32(width))

    def score(self, params: Params, cache: LlamaCache, tokens: jax.Array) -> jax.Array:
        """Logits after each of the tokens that follow; see `Decoder`."""
        model = self.model(params)
        return model.logits(self._read(model, cache, tokens)[0])

    def step(self, params: Params, cache: LlamaCache, tokens: jax.Array) -> tuple[jax.Array, LlamaCache]:
        """Read one more token; see `Decoder`."""
        model = self.model(params)
        x, new = self._read(model, cache, tokens[:, None])
        write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=cache.end)
        past = jax.tree.map(lambda old, added: write(old, added, axis=2), cache.past, new)
        mask = write(cache.mask, jnp.ones((tokens.shape[0], 1), bool), axis=1)
        return model.logits(x[:, 0]), LlamaCache(past, mask, cache.length + 1, cache.end + 1)

    def _read(self, model: Llama, cache: LlamaCache, tokens: jax.Array) -> tuple[jax.Array, Past]:
        rows, new = tokens.shape
        positions = cache.length[:, None] + jnp.arange(new)
        causal = jnp.broadcast_to(jnp.tril(jnp.ones((new, new), bool)), (rows, new, new))
        return model(tokens, positions, causal, cache.past, cache.mask)

    def repeat(self, cache: LlamaCache, times: int) -> LlamaCache:
        """Every row so many times; see `Decoder`."""

        def rows(x: jax.Array, axis: int) -> jax.Array:
            return jnp.repeat(x, times, axis=axis)

        past = jax.tree.map(lambda x: rows(x, 1), cache.past)
        return LlamaCache(past, rows(cache.mask, 0), rows(cache.length, 0), cache.end)
