"""Real weights from a GGUF file of the llama architecture, with the tokenizer that lies in it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from nashjax.lm.chat import ChatTemplate, read_template
from nashjax.lm.llama import Llama, LlamaConfig, LlamaDecoder
from nashjax.lm.policy import LanguagePolicy
from nashjax.lm.tokenizers import LibraryTokenizer

_BLOCK = {
    "attn_norm": "attention_norm",
    "attn_q": "query",
    "attn_k": "key",
    "attn_v": "value",
    "attn_output": "output",
    "ffn_norm": "mlp_norm",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
}
_SPLIT_RULES = {"smollm", "gpt-2"}
"""How text is cut before byte-pair encoding; others need rules of their own."""
_CONTROL_TOKEN = 3


def load_gguf(
    path: str | Path,
    *,
    lora_rank: int = 8,
    lora_scale: float = 16.0,
    dtype: str = "float32",
    context_length: int | None = None,
    template: str | ChatTemplate | None = None,
    key: jax.Array | None = None,
) -> LanguagePolicy:
    """A policy with the weights of a GGUF file, quantised or not.

    Args:
      path: the file; its architecture has to be llama, its tokenizer byte-level BPE that splits texts as
        GPT-2's or SmolLM's does, its rotary positions plain.
      lora_rank: rank of the adapters that are trained; 0 trains all weights.
      lora_scale: see `LlamaConfig`.
      dtype: see `LlamaConfig`.
      context_length: most tokens of a prompt with its answer; default what the model was made for.
      template: the text around a prompt, with `{prompt}` where it stands, or a `ChatTemplate`; default the file's own
        chat template, which is code of the model's author; `ChatTemplate` says which limits it runs under.
      key: of the adapters' first values.

    Raises:
      ImportError: gguf, tokenizers or jinja2 is not installed.
      ValueError: the file cannot be used; the message says why.
    """
    try:
        import gguf
    except ImportError as error:
        raise ImportError(f'GGUF files need {error.name}: python -m pip install "nashjax[lm]"') from error
    if not Path(path).is_file():
        raise ValueError(f"path: {path} is no file")
    try:
        reader = gguf.GGUFReader(str(path))
    except (ValueError, IndexError, OSError) as error:
        raise ValueError(f"path: {path} cannot be read as GGUF ({error})") from error

    def field(name: str, default: Any = None) -> Any:
        found = reader.get_field(name)
        if found is None and default is None:
            raise ValueError(f"path: {path} has no {name}")
        return default if found is None else found.contents()

    architecture = field("general.architecture")
    if architecture != "llama":
        raise ValueError(f"path: {path} has architecture {architecture!r}; allowed is 'llama'")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    # Without a type a factor means linear scaling.
    factors = [field(f"llama.rope.{name}", 1.0) for name in ("scaling.factor", "scale_linear")]
    scaled = field("llama.rope.scaling.type", "none") != "none" or any(factor not in (0, 1) for factor in factors)
    if scaled or "rope_freqs.weight" in tensors:
        raise ValueError(f"path: {path} scales its rotary positions; allowed are plain ones")

    def tensor(name: str) -> Any:
        if name not in tensors:
            raise ValueError(f"path: {path} has no tensor {name}")
        return tensors[name]

    heads = int(field("llama.attention.head_count"))
    config = LlamaConfig(
        vocabulary_size=int(tensor("token_embd.weight").shape[1]),
        width=int(field("llama.embedding_length")),
        num_layers=int(field("llama.block_count")),
        num_heads=heads,
        num_kv_heads=int(field("llama.attention.head_count_kv", heads)),
        head_size=int(field("llama.rope.dimension_count", int(field("llama.embedding_length")) // heads)),
        mlp_width=int(field("llama.feed_forward_length")),
        context_length=int(field("llama.context_length")) if context_length is None else context_length,
        rope_base=float(field("llama.rope.freq_base", 10_000.0)),
        norm_epsilon=float(field("llama.attention.layer_norm_rms_epsilon")),
        tied_head="output.weight" not in tensors,
        dtype=dtype,
        lora_rank=lora_rank,
        lora_scale=lora_scale,
    )

    read = set()

    def weights(name: str) -> np.ndarray:
        read.add(name)
        found = tensor(name)
        return np.asarray(gguf.dequantize(found.data, found.tensor_type), np.float32)

    try:
        model = _fill(config, weights, jax.random.key(0) if key is None else key)
    except NotImplementedError as error:
        raise ValueError(f"path: {path} cannot be dequantised ({error})") from None
    except ValueError as error:
        raise (
            error if str(path) in str(error) else ValueError(f"path: {path} does not fit its sizes ({error})")
        ) from None
    if set(tensors) - read:
        raise ValueError(f"path: {path} has {min(set(tensors) - read)}; allowed are the tensors of a plain llama")
    decoder, params = LlamaDecoder.split(model)
    tokenizer = _tokenizer(str(path), field)
    if tokenizer.vocabulary_size != config.vocabulary_size:
        raise ValueError(
            f"path: {path} has {tokenizer.vocabulary_size} different tokens; allowed are {config.vocabulary_size}, as "
            "many as the embedding has"
        )

    def special(name: str, default: Any = None) -> str:
        index = field(f"tokenizer.ggml.{name}_token_id", default)
        if not 0 <= index < config.vocabulary_size:
            raise ValueError(f"path: {path} has {name} token {index}; allowed are 0 to {config.vocabulary_size - 1}")
        return tokenizer.name(int(index))

    eos, first = special("eos"), ""
    if reader.get_field("tokenizer.ggml.bos_token_id") is not None:
        first = special("bos")
    # The end of a turn, where that is not the end of a text.
    stop = {eos: None, special("eot", field("tokenizer.ggml.eos_token_id")): None}
    if template is None:
        try:
            begins = first if field("tokenizer.ggml.add_bos_token", False) else ""
            named = {"bos_token": first, "eos_token": eos}
            template = read_template(field("tokenizer.chat_template", "{prompt}"), named, begins)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"path: {path} has a chat template that cannot be used: {error} Give a template."
            ) from error
    return LanguagePolicy(decoder, params, tokenizer, config.context_length, stop=tuple(stop), template=template)


def _fill(config: LlamaConfig, weights: Any, key: jax.Array) -> Llama:
    """A model of this shape with these weights."""
    # Only the adapters are drawn: their arrays are small.
    small = dataclasses.replace(config, vocabulary_size=1)
    model = nnx.eval_shape(lambda: Llama(config, nnx.Rngs(0)))
    adapters = nnx.state(Llama(small, nnx.Rngs(key)), nnx.LoRAParam) if config.lora_rank else None
    graph, state = nnx.split(model)

    def stacked(name: str) -> np.ndarray:
        def of_block(index: int) -> np.ndarray:
            found = weights(f"blk.{index}.{name}.weight")
            if name in ("attn_q", "attn_k"):
                found = _halves(found, config.head)
            return found.T if found.ndim == 2 else found

        return np.stack([of_block(index) for index in range(config.num_layers)])

    flat: dict[Any, Any] = dict(nnx.to_flat_state(state))

    def put(place: tuple[str, ...], value: np.ndarray) -> None:
        expected = flat[place].get_value().shape
        if value.shape != expected:
            raise ValueError(f"{'.'.join(place)}: has shape {value.shape}; allowed is {expected}")
        flat[place] = flat[place].replace(jax.numpy.asarray(value))

    put(("embedding",), weights("token_embd.weight"))
    put(("norm", "scale"), weights("output_norm.weight"))
    if not config.tied_head:
        put(("head",), weights("output.weight").T)
    for theirs, ours in _BLOCK.items():
        put(("blocks", ours, "scale" if ours.endswith("norm") else "kernel"), stacked(theirs))
    if adapters is not None:
        flat.update(dict(nnx.to_flat_state(adapters)))
    return nnx.merge(graph, nnx.from_flat_state(flat))


def _halves(weight: np.ndarray, head: int) -> np.ndarray:
    """Rows `[outputs, inputs]` from the order of GGUF, pairs side by side, to that of `rotate`, halves."""
    return weight.reshape(-1, head // 2, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def _tokenizer(path: str, field: Any) -> LibraryTokenizer:
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    except ImportError as error:
        raise ImportError(f'tokenizers of GGUF files need {error.name}: python -m pip install "nashjax[lm]"') from error
    kind, rule = field("tokenizer.ggml.model"), field("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or rule not in _SPLIT_RULES:
        raise ValueError(f"path: {path} has tokenizer {kind!r}, {rule!r}; allowed are 'gpt2', {sorted(_SPLIT_RULES)}")
    tokens, merges = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.merges")
    pairs: Any = [tuple(merge.split(" ")) for merge in merges]
    try:
        tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, pairs))
    except Exception as error:  # the library has no class of its own for it
        raise ValueError(f"path: {path} has a tokenizer that cannot be used ({error})") from None
    bytes_of_words: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if rule == "smollm":
        digits: Any = pre_tokenizers.Digits(individual_digits=True)
        bytes_of_words = pre_tokenizers.Sequence([digits, bytes_of_words])
    tokenizer.pre_tokenizer = bytes_of_words
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    kinds = field("tokenizer.ggml.token_type")
    tokenizer.add_special_tokens([token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN])
    return LibraryTokenizer(tokenizer)
