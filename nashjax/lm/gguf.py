"""Real weights from a GGUF file of the llama architecture, with the tokenizer that the file holds."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from nashjax._validation import LARGEST_INT
from nashjax.files.errors import listed, quoted
from nashjax.files.memory import check_memory
from nashjax.lm.chat import ChatTemplate, read_template
from nashjax.lm.gguf_header import GGUFHeader
from nashjax.lm.llama import Llama, LlamaConfig, LlamaDecoder
from nashjax.lm.policy import LanguagePolicy
from nashjax.lm.sentencepiece import CONTROL, USER_DEFINED, sentencepiece_tokenizer
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
_SPLIT_RULES = ("gpt-2", "smollm")
"""Rules that cut text before byte-pair encoding. The other rules of GGUF files are not implemented."""
_SENTENCEPIECE = "llama"
"""Kind of tokenizer, for which llama.cpp puts the first token in front unless the file says otherwise."""
_LONGEST_TOKEN = 512
"""Limit of the bytes of a token: the longest in published vocabularies are 128 blanks, of 2 or 3 bytes each."""
_LARGEST_BASE = 1e12
"""Bases of rotary positions are at most some 1e9 in published models."""


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
    """Load a policy with the weights of a GGUF file, quantized or not.

    The chat template of the file is code of the model's author; `ChatTemplate` says which limits it runs under.

    Every number of the header is checked against the size of the file and against the other numbers before any weight
    is read.

    Args:
      path: the file. Its architecture must be llama, its tokenizer SentencePiece's BPE, or byte-level BPE that splits
        texts as GPT-2 or SmolLM does, and its rotary positions must not be scaled.
      lora_rank: rank of the adapters that are trained; 0 trains all weights.
      lora_scale: see `LlamaConfig`.
      dtype: see `LlamaConfig`.
      context_length: maximum number of tokens of a prompt with its answer; default that of the file.
      template: text around a prompt, which stands at `{prompt}`, or a `ChatTemplate`; default that of the file.
      key: jax random key of the initial adapters.

    Raises:
      ImportError: gguf, tokenizers or jinja2 is not installed.
      BadInput: the file cannot be used; the message names the key or tensor.
      ValueError: an argument is not valid.
    """
    try:
        import gguf  # noqa: F401 (the header needs its tables)
    except ImportError as error:
        raise ImportError(f'GGUF files need {error.name}: python -m pip install "nashjax[lm]"') from error
    header = GGUFHeader(path)
    config = _config(header, context_length, dtype=dtype, lora_rank=lora_rank, lora_scale=lora_scale)
    tokenizer = _tokenizer(header, config.vocabulary_size)
    stop, template = _stop(header, tokenizer), _template(header, tokenizer) if template is None else template
    model = _fill(config, header, jax.random.key(0) if key is None else key)
    decoder, params = LlamaDecoder.split(model)
    return LanguagePolicy(decoder, params, tokenizer, config.context_length, stop=stop, template=template)


def _config(header: GGUFHeader, context_length: int | None, **options: Any) -> LlamaConfig:
    """Return the configuration of the model, whose tensors are all in the file with the shapes that follow from it."""
    architecture = header.text("general.architecture")
    if architecture != "llama":
        raise header.fault("general.architecture", "'llama'", quoted(architecture))
    _check_plain_positions(header)
    if "token_embd.weight" not in header.tensors or len(header.tensors["token_embd.weight"].shape) != 2:
        raise header.fault("tensor token_embd.weight", "a matrix in the file", "none")
    vocabulary_size, width = header.tensors["token_embd.weight"].shape
    header.integer("llama.vocab_size", vocabulary_size, vocabulary_size, default=vocabulary_size)
    header.integer("llama.embedding_length", width, width)
    heads = header.integer("llama.attention.head_count", 1, _longest(header))
    kv_heads = header.integer("llama.attention.head_count_kv", 1, heads, default=heads)
    if heads % kv_heads:
        raise header.fault("llama.attention.head_count_kv", f"a divisor of the {heads} heads", f"{kv_heads}")
    head_size = header.integer("llama.rope.dimension_count", 2, _longest(header), default=width // heads)
    if head_size % 2:
        raise header.fault("llama.rope.dimension_count", "even", f"{head_size}")
    config = LlamaConfig(
        vocabulary_size=vocabulary_size,
        width=width,
        num_layers=header.integer("llama.block_count", 1, len(header.tensors) // len(_BLOCK)),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_size=head_size,
        mlp_width=header.integer("llama.feed_forward_length", 1, _longest(header)),
        context_length=context_length if context_length is not None else _context_length(header),
        rope_base=header.number("llama.rope.freq_base", 1, _LARGEST_BASE, default=10_000.0),
        norm_epsilon=header.number("llama.attention.layer_norm_rms_epsilon", 0, 1, above=True),
        tied_head="output.weight" not in header.tensors,
        **options,
    )
    _check_tensors(header, config)
    return config


def _context_length(header: GGUFHeader) -> int:
    """Return the length of the context, at least a token to read and one to answer."""
    return header.integer("llama.context_length", 2, LARGEST_INT)


def _longest(header: GGUFHeader) -> int:
    """Return the largest size of an axis, which no size of the model exceeds."""
    return max(size for entry in header.tensors.values() for size in entry.shape)


def _check_plain_positions(header: GGUFHeader) -> None:
    """Raise BadInput if the file scales its rotary positions, which is not implemented."""
    scaling = header.text("llama.rope.scaling.type", default="none")
    if scaling != "none":
        raise header.fault("llama.rope.scaling.type", "'none'", quoted(scaling))
    # Without a type a factor means linear scaling.
    for name in ("llama.rope.scaling.factor", "llama.rope.scale_linear"):
        factor = header.number(name, 0, float("inf"), default=1.0)
        if factor not in (0, 1):
            raise header.fault(name, "0 or 1, as positions are not scaled", f"{factor}")


def _check_tensors(header: GGUFHeader, config: LlamaConfig) -> None:
    """Raise BadInput unless the tensors are those of the model, before any of them is read."""
    expected = _shapes(config)
    for name, shape in expected.items():
        if name not in header.tensors:
            raise header.fault(f"tensor {name}", f"in the file, with shape {list(shape)}", "no such tensor")
        found = header.tensors[name].shape
        if found != shape:
            raise header.fault(f"tensor {name}", f"of shape {list(shape)}", f"{list(found)}")
    more = sorted(set(header.tensors) - set(expected))
    if more:
        raise header.fault("tensors", "those of a plain llama", listed(more, 3))
    size = sum(math.prod(shape) for shape in expected.values())
    # Float32, once as read and once as the model holds it.
    check_memory(header.path, f"{size} weights", 2 * 4 * size)


def _shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes `[outputs, inputs]` of all tensors by their names."""
    width, heads, kv_heads = config.width, config.num_heads * config.head, config.num_kv_heads * config.head
    block = {
        "attn_norm": (width,),
        "attn_q": (heads, width),
        "attn_k": (kv_heads, width),
        "attn_v": (kv_heads, width),
        "attn_output": (width, heads),
        "ffn_norm": (width,),
        "ffn_gate": (config.mlp_width, width),
        "ffn_up": (config.mlp_width, width),
        "ffn_down": (width, config.mlp_width),
    }
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (config.vocabulary_size, width), "output_norm": (width,)}
    if not config.tied_head:
        shapes["output"] = (config.vocabulary_size, width)
    for layer in range(config.num_layers):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    return {f"{name}.weight": shape for name, shape in shapes.items()}


def _fill(config: LlamaConfig, header: GGUFHeader, key: jax.Array) -> Llama:
    """Return the model with the weights of the file."""
    # Only the adapters are drawn: their arrays are small.
    small = dataclasses.replace(config, vocabulary_size=1)
    model = nnx.eval_shape(lambda: Llama(config, nnx.Rngs(0)))
    adapters = nnx.state(Llama(small, nnx.Rngs(key)), nnx.LoRAParam) if config.lora_rank else None
    graph, state = nnx.split(model)

    def stacked(name: str) -> np.ndarray:
        def of_block(index: int) -> np.ndarray:
            found = header.weights(f"blk.{index}.{name}.weight")
            if name in ("attn_q", "attn_k"):
                found = _halves(found, config.head)
            return found.T if found.ndim == 2 else found

        return np.stack([of_block(index) for index in range(config.num_layers)])

    flat: dict[Any, Any] = dict(nnx.to_flat_state(state))

    def put(place: tuple[str, ...], value: np.ndarray) -> None:
        flat[place] = flat[place].replace(jax.numpy.asarray(value))

    put(("embedding",), header.weights("token_embd.weight"))
    put(("norm", "scale"), header.weights("output_norm.weight"))
    if not config.tied_head:
        put(("head",), header.weights("output.weight").T)
    for theirs, ours in _BLOCK.items():
        put(("blocks", ours, "scale" if ours.endswith("norm") else "kernel"), stacked(theirs))
    if adapters is not None:
        flat.update(dict(nnx.to_flat_state(adapters)))
    return nnx.merge(graph, nnx.from_flat_state(flat))


def _halves(weight: np.ndarray, head: int) -> np.ndarray:
    """Reorder rows `[outputs, inputs]` from GGUF's order, pairs side by side, to the order of `rotate`, halves."""
    return weight.reshape(-1, head // 2, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def _tokenizer(header: GGUFHeader, vocabulary_size: int) -> LibraryTokenizer:
    """Return the tokenizer of the file, which has as many tokens as the embedding."""
    try:
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    except ImportError as error:
        raise ImportError(f'tokenizers of GGUF files need {error.name}: python -m pip install "nashjax[lm]"') from error
    kind, rule = header.text("tokenizer.ggml.model"), header.text("tokenizer.ggml.pre", default="default")
    if kind not in ("gpt2", _SENTENCEPIECE):
        raise header.fault("tokenizer.ggml.model", f"'gpt2' or {_SENTENCEPIECE!r}", quoted(kind))
    if kind == "gpt2" and rule not in _SPLIT_RULES:
        raise header.fault("tokenizer.ggml.pre", f"one of {listed(list(_SPLIT_RULES))}", quoted(rule))
    tokens = _tokens(header, vocabulary_size)
    kinds = header.integers("tokenizer.ggml.token_type", vocabulary_size)
    if kind == _SENTENCEPIECE:
        return sentencepiece_tokenizer(header, tokens, kinds)
    pairs = _merges(header, tokens)
    try:
        tokenizer = Tokenizer(models.BPE(tokens, pairs))
    except Exception as error:  # the library has no class of its own for it
        got = f"the error {quoted(str(error), 200)}"
        raise header.fault("tokenizer.ggml.merges", "merges that tokenizers accepts", got) from error
    bytes_of_words: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if rule == "smollm":
        digits: Any = pre_tokenizers.Digits(individual_digits=True)
        bytes_of_words = pre_tokenizers.Sequence([digits, bytes_of_words])
    tokenizer.pre_tokenizer = bytes_of_words
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL])
    users = [token for token, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in users])
    return LibraryTokenizer(tokenizer)


def _tokens(header: GGUFHeader, vocabulary_size: int) -> dict[str, int]:
    """Return the number of each token."""
    names = header.texts("tokenizer.ggml.tokens")
    if len(names) != vocabulary_size:
        requirement = f"{vocabulary_size} tokens, as many as the embedding has rows"
        raise header.fault("tokenizer.ggml.tokens", requirement, f"{len(names)}")
    tokens: dict[str, int] = {}
    for index, name in enumerate(names):
        if not name or tokens.setdefault(name, index) != index:
            raise header.fault(f"tokenizer.ggml.tokens[{index}]", "a new token of a character or more", quoted(name))
        if len(name) > _LONGEST_TOKEN or len(name.encode()) > _LONGEST_TOKEN:
            requirement, got = f"at most {_LONGEST_TOKEN} bytes long", f"{len(name.encode())}"
            raise header.fault(f"tokenizer.ggml.tokens[{index}]", requirement, got)
    return tokens


def _merges(header: GGUFHeader, tokens: dict[str, int]) -> list[Any]:
    """Return the pairs of tokens that are merged."""
    pairs = []
    for index, merge in enumerate(header.texts("tokenizer.ggml.merges")):
        pair = tuple(merge.split(" "))
        if len(pair) != 2 or not {*pair, "".join(pair)} <= tokens.keys():
            requirement = "two tokens with a blank between, which together are a token"
            raise header.fault(f"tokenizer.ggml.merges[{index}]", requirement, quoted(merge))
        pairs.append(pair)
    return pairs


def _special(header: GGUFHeader, tokenizer: LibraryTokenizer, name: str, default: int | None = None) -> str:
    """Return the name of a special token."""
    key = f"tokenizer.ggml.{name}_token_id"
    return tokenizer.name(header.integer(key, 0, tokenizer.vocabulary_size - 1, default=default))


def _stop(header: GGUFHeader, tokenizer: LibraryTokenizer) -> tuple[str, ...]:
    """Return the names of the tokens that end an answer: the end of a text, and that of a turn where it differs."""
    eos = _special(header, tokenizer, "eos")
    turn = _special(header, tokenizer, "eot", tokenizer.token_id(eos))
    return tuple(dict.fromkeys((eos, turn)))


def _template(header: GGUFHeader, tokenizer: LibraryTokenizer) -> str | ChatTemplate:
    """Return the chat template of the file."""
    eos, first = _special(header, tokenizer, "eos"), ""
    if "tokenizer.ggml.bos_token_id" in header.fields:
        first = _special(header, tokenizer, "bos")
    add_first = header.text("tokenizer.ggml.model") == _SENTENCEPIECE
    prefix = first if header.flag("tokenizer.ggml.add_bos_token", default=add_first) else ""
    source = header.text("tokenizer.chat_template", default="{prompt}")
    try:
        return read_template(source, {"bos_token": first, "eos_token": eos}, prefix)
    except ValueError as error:
        got = f"the error {quoted(str(error), 200)}"
        requirement = "a chat template that can be rendered"
        raise header.fault("tokenizer.chat_template", requirement, got, "Give a template.") from error
