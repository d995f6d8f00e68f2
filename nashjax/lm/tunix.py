"""Models of Tunix (Llama, Qwen, Gemma) as policies, adapters by Qwix, and weights from folders of Hugging Face's kind.

Needs the extra `tunix`; neither package is imported before a function here wants it.

Tried on tiny random models of google-tunix 0.1.7, on processors: Llama and Llama3, Qwen2, Qwen3, Gemma, Gemma2 and
Gemma3, with prompts of several lengths padded on the left and answers that a stop token ends. Log-probabilities of
whole answers agree to 4e-6 between drawing and scoring, and with 37 tokens more of padding; to 3e-5 with 1000 more.
Those of weights that `load_tunix` reads agree to 4e-6 with the models as their papers write them down.

What does not work, or is worked around:

- Llama3 and Qwen3 rotate by a base of 1000000 whatever their configuration says. `load_tunix` reads Llama weights into
  Tunix's Qwen2, whose biases are zero then, and refuses Qwen3 weights of another base.
- Tunix's Gemma compares slots of the cache with positions in its local layers. Positions are slots here, padding
  included: rotary positions only know differences, so that the window is right and nothing else changes.
- Tunix's Gemma3 takes the first of several new tokens for the first of the text in its local layers. Where a text is
  longer than the window, `score` reads it as a whole and not through the cache, which costs more.
- Flash attention is refused, for it leaves out the mask of the padding. Gemma4, mixtures of experts and images were
  not tried. Logits are computed of all the tokens that a call reads, those of the prompt too.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nashjax.lm.decoding import Tokens
from nashjax.lm.gguf import chat_template
from nashjax.lm.policy import LanguagePolicy
from nashjax.lm.tokenizers import LibraryTokenizer, Tokenizer
from nashjax.pytree import register_dataclass
from nashjax.stochastic.arguments import at_least, positive
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
            raise ValueError("model: has use_flash_attention, which ignores padding; allowed are models without")
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
        if hasattr(model, "init_cache"):
            layers = model.init_cache(rows, slots, self.graph.dtype)
        else:
            sampler, config = _needed("tunix.generate.sampler"), model.config
            sizes = config.num_layers, slots, rows, config.num_kv_heads, config.head_dim
            layers = sampler._init_cache(*sizes, self.graph.dtype)
        for leaf in jax.tree.leaves(layers):
            if leaf.ndim > 1 and leaf.shape[1] != slots:
                raise ValueError(
                    f"model: its cache keeps {leaf.shape[1]} of {slots} tokens; allowed are those with all"
                )
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
    template: str = "{prompt}",
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
      template: around a prompt, with `{prompt}` where it stands.
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
    at_least("lora_rank", lora_rank, 0)
    positive("lora_scale", lora_scale)
    if lora_rank:
        key = jax.random.key(0) if key is None else key
        model = _adapted(model, lora_rank, lora_scale, lora_pattern, key)
    decoder, params = TunixDecoder.split(model, tokenizer.vocabulary_size)
    return LanguagePolicy(decoder, params, tokenizer, context_length, stop, forbidden, template)


def _adapted(model: Any, rank: int, scale: float, pattern: str, key: jax.Array) -> Any:
    """A copy of the model, of the same arrays, with adapters."""
    try:
        re.compile(pattern)
    except (re.error, TypeError):
        raise ValueError(f"lora_pattern: is {pattern!r}; allowed are regular expressions") from None
    qwix = _needed("qwix")
    zero, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1, 1), bool)
    provider = qwix.LoraProvider(module_path=pattern, rank=rank, alpha=scale)
    adapted = qwix.apply_lora_to_model(model, provider, zero, zero, None, mask, rngs=nnx.Rngs(key))
    with_adapters = _modules(adapted, nnx.LoRAParam)
    only_mlp = "mlp" in pattern and "attn" not in pattern
    if not with_adapters or not (only_mlp or any("attn" in name for name in with_adapters)):
        found = "no module" if not with_adapters else f"{sorted(with_adapters)} and none of the attention"
        raise ValueError(
            f"lora_pattern: is {pattern!r}, which fits {found} of {type(model).__name__}; allowed are patterns that "
            f"fit some of {sorted(_modules(model, nnx.Param))}, such as LORA_PATTERN"
        )
    return adapted


def _modules(model: Any, kind: Any) -> set[str]:
    """The modules that have a matrix of this kind, by the last two parts of their paths."""
    flat: Any = nnx.to_flat_state(nnx.state(model, kind))
    return {"/".join(map(str, path[-3:-1])) for path, value in flat if value.get_value().ndim > 1 and len(path) > 2}


def load_tunix(
    folder: str | Path,
    *,
    lora_rank: int = 8,
    lora_scale: float = 16.0,
    lora_pattern: str = LORA_PATTERN,
    dtype: str = "float32",
    context_length: int | None = None,
    stop: tuple[str, ...] | None = None,
    template: str | None = None,
    forbidden: tuple[str, ...] = (),
    key: jax.Array | None = None,
) -> LanguagePolicy:
    """A policy with the weights of a folder as Hugging Face has them: config.json, *.safetensors and tokenizer.json.

    Args:
      folder: where they are; the model_type has to be llama, qwen2, qwen3, gemma, gemma2, gemma3 or gemma3_text.
      lora_rank: rank of the adapters that are trained; 0 trains all weights.
      lora_scale: see `tunix_policy`.
      lora_pattern: see `tunix_policy`.
      dtype: what is computed in, and how frozen weights are kept, "float32" or "bfloat16".
      context_length: most tokens of a prompt with its answer; default what the model was made for.
      stop: names of the tokens that end an answer; default those that the folder names.
      template: around a prompt, with `{prompt}` where it stands; default the folder's own chat template, or without
        one the tokens that the tokenizer begins every text with.
      forbidden: names of tokens that are never drawn.
      key: of the adapters' first values.

    Raises:
      ImportError: google-tunix, qwix, tokenizers or jinja2 is not installed.
      ValueError: the folder cannot be used; the message says why.
    """
    folder = Path(folder)
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype: is {dtype!r}; allowed are 'float32' and 'bfloat16'")
    read = _Fields.of(folder)
    kind = read.fields.get("model_type")
    if kind not in _FAMILIES:
        raise ValueError(f"folder: {folder} has model_type {kind!r}; allowed are {sorted(_FAMILIES)}")
    family = _FAMILIES[kind]
    library = _needed(f"tunix.models.{family.package}.model")
    config = family.config(library, read, _check_tensors(folder), jnp.dtype(dtype))
    model = _loaded(folder, family, config, jnp.dtype(dtype))
    library_tokenizer = _tokenizer(folder)
    tokenizer = LibraryTokenizer(library_tokenizer)
    return tunix_policy(
        model,
        tokenizer,
        context_length=context_length or read("max_position_embeddings"),
        stop=_stop(folder, tokenizer) if stop is None else stop,
        template=_template(folder, library_tokenizer) if template is None else template,
        lora_rank=lora_rank,
        lora_scale=lora_scale,
        lora_pattern=lora_pattern,
        forbidden=forbidden,
        key=key,
    )


class _Fields:
    """A config.json."""

    def __init__(self, path: Path, fields: dict[str, Any]):
        self.path, self.fields = path, fields

    @classmethod
    def of(cls, folder: Path) -> _Fields:
        """Those of a folder; of a model that also sees, those of its text."""
        fields = _json(folder / "config.json")
        if fields is None:
            raise ValueError(f"folder: {folder} has no config.json")
        return cls(folder / "config.json", {**fields, **fields.get("text_config", {})})

    def __call__(self, name: str, default: Any = None) -> Any:
        """A field, which may be missing or null if there is a default."""
        value = self.fields.get(name)
        value = default if value is None else value
        if value is None:
            raise ValueError(f"folder: {self.path} has no {name}")
        return value

    def only(self, name: str, value: Any, allowed: Any) -> None:
        """Raise ValueError unless a field has the one value that is computed."""
        if value != allowed:
            raise ValueError(f"folder: {self.path} has {name} {value!r}; allowed is {allowed!r}")

    def sizes(self, **defaults: Any) -> dict[str, Any]:
        """The sizes by Tunix's names, after a look at what no family here computes."""
        self.only("quantization_config", self.fields.get("quantization_config"), None)
        self.only("attention_bias", self("attention_bias", False), False)
        self.only("mlp_bias", self("mlp_bias", False), False)
        self.only("use_sliding_window", self("use_sliding_window", False), False)
        width = self("hidden_size", defaults.get("hidden_size"))
        heads = self("num_attention_heads", defaults.get("num_attention_heads"))
        return {
            "num_layers": self("num_hidden_layers", defaults.get("num_hidden_layers")),
            "embed_dim": width,
            "hidden_dim": self("intermediate_size", defaults.get("intermediate_size")),
            "num_heads": heads,
            "num_kv_heads": self("num_key_value_heads", defaults.get("num_key_value_heads", heads)),
            "head_dim": self("head_dim", defaults.get("head_dim", width // heads)),
        }

    def rope(self, base: float, *, layers: str = "", linear: bool = False) -> tuple[float, float]:
        """Base of the rotary positions, and what divides them.

        Args:
          base: the default.
          layers: of which kind, where there are several.
          linear: whether there may be anything that divides them.
        """
        found = self.fields.get("rope_parameters") or {}
        found = found.get(layers, found)
        local = layers == "sliding_attention"
        # Files from before `rope_parameters`, where scaling is not of local layers.
        scaling = found if local else self.fields.get("rope_scaling") or found
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind != "linear" or not linear:
            self.only("rope_scaling", kind, "default")
        self.only("partial_rotary_factor", found.get("partial_rotary_factor", self("partial_rotary_factor", 1)), 1)
        base = found.get("rope_theta", self("rope_local_base_freq" if local else "rope_theta", base))
        return float(base), float(scaling.get("factor", 1)) if kind == "linear" else 1.0


def _json(path: Path) -> Any:
    """What is in a file, None if there is none."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"folder: {path} is no JSON ({error})") from None


def _plain_config(library: Any, read: _Fields, vocabulary_size: int, dtype: Any, **defaults: Any) -> Any:
    """Of llama and qwen2."""
    read.only("hidden_act", read("hidden_act", "silu"), "silu")
    return library.ModelConfig(
        **read.sizes(**defaults),
        vocab_size=vocabulary_size,
        rope_theta=read.rope(10_000.0)[0],
        norm_eps=read("rms_norm_eps", 1e-6),
        use_tied_embedding=read("tie_word_embeddings", False),
        dtype=dtype,
        param_dtype=dtype,
    )


def _qwen3_config(library: Any, read: _Fields, vocabulary_size: int, dtype: Any) -> Any:
    # The configuration has a field for the base, which nothing reads.
    read.only("rope_theta", read.rope(10_000.0)[0], 1_000_000.0)
    return _plain_config(library, read, vocabulary_size, dtype, head_dim=128)


def _gemma_config(library: Any, read: _Fields, vocabulary_size: int, dtype: Any) -> Any:
    """Of gemma, and of gemma2, which has more norms, caps and local layers."""
    del dtype  # that of the weights
    second = read("model_type") == "gemma2"
    sizes = read.sizes(head_dim=256)
    layers = _gemma_layers(read, sizes["num_layers"], 2 if second else 1)
    read.only("rope_theta", read.rope(10_000.0)[0], 10_000.0)
    if second:
        read.only("query_pre_attn_scalar", read("query_pre_attn_scalar", 256), sizes["head_dim"])
    kinds = {"sliding_attention": "LOCAL_SLIDING", "full_attention": "GLOBAL"}
    return library.ModelConfig(
        **sizes,
        num_embed=vocabulary_size,
        # A cap that is null in the file is none.
        final_logit_softcap=read.fields.get("final_logit_softcapping", 30.0) if second else None,
        attn_logits_soft_cap=read.fields.get("attn_logit_softcapping", 50.0) if second else None,
        use_post_attn_norm=second,
        use_post_ffw_norm=second,
        attention_types=tuple(library.AttentionType[kinds[layer]] for layer in layers),
        sliding_window_size=read("sliding_window", 4096) if second else None,
    )


def _gemma3_config(library: Any, read: _Fields, vocabulary_size: int, dtype: Any) -> Any:
    sizes = read.sizes(
        hidden_size=2304,
        num_attention_heads=8,
        num_hidden_layers=26,
        intermediate_size=9216,
        num_key_value_heads=4,
        head_dim=256,
    )
    _gemma_layers(read, sizes["num_layers"], read("sliding_window_pattern", 6), 6)
    for name in ("final_logit_softcapping", "attn_logit_softcapping"):
        read.only(name, read.fields.get(name), None)
    norms = library.QueryPreAttentionNormalisation
    of_head, of_width = sizes["head_dim"], sizes["embed_dim"] // sizes["num_heads"]
    scalar = read("query_pre_attn_scalar", 256)
    if scalar != of_width:
        read.only("query_pre_attn_scalar", scalar, of_head)
    norm = norms.BY_ONE_OVER_SQRT_HEAD_DIM if scalar == of_head else norms.BY_ONE_OVER_SQRT_EMBED_DIM_DIV_NUM_HEADS
    everywhere, factor = read.rope(1_000_000.0, layers="full_attention", linear=True)
    nearby, _ = read.rope(10_000.0, layers="sliding_attention")
    return library.ModelConfig(
        **sizes,
        num_embed=vocabulary_size,
        sliding_window_size=read("sliding_window", 4096),
        local_base_frequency=nearby,
        global_base_frequency=everywhere,
        global_scale_factor=factor,
        query_pre_attn_norm=norm,
        param_dtype=dtype,
    )


def _gemma_layers(read: _Fields, num_layers: int, period: int, allowed: int | None = None) -> list[str]:
    """The kinds of the layers, the last of every period being global, after checks that all of Gemma share."""
    read.only("sliding_window_pattern", period, allowed or period)
    read.only("tie_word_embeddings", read("tie_word_embeddings", True), True)
    read.only("rms_norm_eps", read("rms_norm_eps", 1e-6), 1e-6)
    read.only("hidden_activation", read("hidden_activation", "gelu_pytorch_tanh"), "gelu_pytorch_tanh")
    read.only("use_bidirectional_attention", read("use_bidirectional_attention", False), False)
    layers = ["full_attention" if (layer + 1) % period == 0 else "sliding_attention" for layer in range(num_layers)]
    read.only("layer_types", read("layer_types", layers), layers)
    return layers


def _zero_biases(config: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Llama's tensors with the biases that Qwen2 has."""
    heads = {"q": config.num_heads, "k": config.num_kv_heads, "v": config.num_kv_heads}
    zeros = {
        f"layers.{layer}.attn.{name}_bias": np.zeros(number * config.head_dim, np.float32)
        for layer in range(config.num_layers)
        for name, number in heads.items()
    }
    return {**tensors, **zeros}


def _first_norms(config: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Gemma's tensors: what follows the attention in its files is the norm before the perceptron."""
    del config
    return {name.replace(".post_attn_norm.", ".pre_ffw_norm."): value for name, value in tensors.items()}


@dataclasses.dataclass(frozen=True)
class _Family:
    """How Tunix has a kind of models.

    Attributes:
      package: in `tunix.models`.
      model: the class in its `model`.
      config: from that module, the fields, the vocabulary and the type to the configuration.
      loader: the module that knows the names of the tensors.
      prepare: from a configuration and tensors by Tunix's names to those that the class has.
    """

    package: str
    model: str
    config: Callable[[Any, _Fields, int, Any], Any]
    loader: str = "params_safetensors"
    prepare: Callable[[Any, dict[str, Any]], dict[str, Any]] | None = None


_FAMILIES = {
    "llama": _Family("qwen2", "Qwen2", _plain_config, "params", _zero_biases),
    "qwen2": _Family("qwen2", "Qwen2", _plain_config, "params"),
    "qwen3": _Family("qwen3", "Qwen3", _qwen3_config, "params"),
    "gemma": _Family("gemma", "Gemma", _gemma_config, prepare=_first_norms),
    "gemma2": _Family("gemma", "Gemma", _gemma_config),
    "gemma3": _Family("gemma3", "Gemma3", _gemma3_config),
    "gemma3_text": _Family("gemma3", "Gemma3", _gemma3_config),
}


def _check_tensors(folder: Path) -> int:
    """The size of the vocabulary, after a look at the types, which Tunix takes for those of the first tensor."""
    safetensors = _needed("safetensors")
    files = sorted(folder.glob("*.safetensors"))
    types: set[str] = set()
    rows = None
    for file in files:
        try:
            with safetensors.safe_open(str(file), framework="numpy") as opened:
                names = opened.keys()
                for name in names:
                    tensor = opened.get_slice(name)
                    types.add(tensor.get_dtype())
                    if name.endswith("embed_tokens.weight"):
                        rows = tensor.get_shape()[0]
        except (safetensors.SafetensorError, OSError) as error:
            raise ValueError(f"folder: {file} cannot be read ({error})") from error
    if rows is None:
        raise ValueError(f"folder: {folder} has {len(files)} files *.safetensors and no embed_tokens.weight in them")
    if len(types) > 1 or not types <= {"F16", "BF16", "F32"}:
        raise ValueError(
            f"folder: {folder} has tensors {sorted(types)}; allowed are F16, BF16 or F32, the same for all"
        )
    return rows


def _loaded(folder: Path, family: _Family, config: Any, dtype: Any) -> Any:
    """The model with the tensors of the folder."""
    model = getattr(_needed(f"tunix.models.{family.package}.model"), family.model)
    loader = _needed(f"tunix.models.{family.package}.{family.loader}")
    fused = loader._make_preprocess_fn(config) if hasattr(loader, "_make_preprocess_fn") else None

    def prepare(tensors: dict[str, Any]) -> dict[str, Any]:
        tensors = tensors if fused is None else fused(tensors)
        return tensors if family.prepare is None else family.prepare(config, tensors)

    load = _needed("tunix.models.safetensors_loader").load_and_create_model
    try:
        return load(
            str(folder), model, config, loader._get_key_and_transform_mapping, preprocess_fn=prepare, dtype=dtype
        )
    except (ValueError, AssertionError, RuntimeError) as error:
        raise ValueError(f"folder: {folder} has other tensors than {family.model} ({error})") from error


def _tokenizer(folder: Path) -> Any:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"folder: {folder} has no tokenizer.json")
    try:
        return _needed("tokenizers").Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing narrower
        raise ValueError(f"folder: {path} cannot be read ({error})") from error


def _stop(folder: Path, tokenizer: LibraryTokenizer) -> tuple[str, ...]:
    """Names of the tokens that end an answer."""
    for file in ("generation_config.json", "config.json"):
        found = (_json(folder / file) or {}).get("eos_token_id")
        if found is not None:
            names = [tokenizer.name(token) for token in (found if isinstance(found, list) else [found])]
            if None in names:
                raise ValueError(
                    f"folder: {folder / file} has eos_token_id {found}; allowed are the tokenizer's tokens"
                )
            return tuple(names)
    raise ValueError(f"folder: {folder} names no token that ends an answer; allowed is that, or an argument stop")


def _template(folder: Path, tokenizer: Any) -> str:
    """The chat template of the folder, else what its tokenizer puts in front of every text."""
    settings = _json(folder / "tokenizer_config.json") or {}
    template, beside = settings.get("chat_template"), folder / "chat_template.jinja"
    if isinstance(template, list):  # several, by name
        template = {each["name"]: each["template"] for each in template}.get("default")
    if beside.is_file():
        template = beside.read_text(encoding="utf-8")
    if template is None:
        found = tokenizer.encode("a")
        marked = zip(found.tokens, found.special_tokens_mask, strict=True)
        return "".join(name for name, _ in itertools.takewhile(lambda one: one[1], marked)) + "{prompt}"
    first = settings.get("bos_token")
    first = first.get("content") if isinstance(first, dict) else first
    # `chat_template` has no first token of its own.
    return chat_template(f"{{% set bos_token = {json.dumps(first or '')} %}}{template}")


def _needed(name: str) -> Any:
    """A module of an optional package."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise ImportError(f'models of Tunix need {missing}: python -m pip install "nashjax[tunix]"') from error
