"""Weights, tokenizer and settings of a model from a folder of Hugging Face's kind, read into Tunix's models."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nashjax._validation import LARGEST_INT, check_choice, shown
from nashjax.files.errors import bad_input, listed, quoted
from nashjax.files.source import Source, parsing, reason
from nashjax.lm.chat import ChatTemplate, read_template
from nashjax.lm.llama import DTYPES
from nashjax.lm.policy import LanguagePolicy
from nashjax.lm.tokenizers import LibraryTokenizer
from nashjax.lm.tunix.decoder import LORA_PATTERN, needed, tunix_policy
from nashjax.lm.tunix.fields import MOST_JSON_BYTES, Fields, Tensors, model_sizes, read_json


def load_tunix(
    folder: str | Path,
    *,
    lora_rank: int = 8,
    lora_scale: float = 16.0,
    lora_pattern: str = LORA_PATTERN,
    dtype: str = "float32",
    context_length: int | None = None,
    stop: tuple[str, ...] | None = None,
    template: str | ChatTemplate | None = None,
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
      template: the text around a prompt, with `{prompt}` where it stands, or a `ChatTemplate`; default the folder's own
        chat template, or without one the tokens that the tokenizer begins every text with. The folder's chat template
        is code of the model's author; `ChatTemplate` says which limits it runs under.
      forbidden: names of tokens that are never drawn.
      key: of the adapters' first values.

    Raises:
      ImportError: google-tunix, qwix, tokenizers or jinja2 is not installed.
      BadInput: the folder cannot be used; the message names the file and the field or tensor.
      TypeError: an argument has a wrong type.
      ValueError: an argument is not valid.
    """
    folder = Path(folder)
    check_choice("dtype", dtype, DTYPES)
    read = Fields.of(folder)
    kind = read.fields.get("model_type")
    if not isinstance(kind, str) or kind not in _FAMILIES:
        read.refuse("model_type", f"one of {listed(sorted(_FAMILIES))}")
    family = _FAMILIES[kind]
    library = needed(f"tunix.models.{family.package}.model")
    config = family.config(library, read, _check_tensors(folder), jnp.dtype(dtype))
    library_tokenizer = _tokenizer(folder)
    tokenizer = LibraryTokenizer(library_tokenizer)
    stop = _stop(folder, tokenizer) if stop is None else stop
    template = _template(folder, library_tokenizer) if template is None else template
    model = _loaded(folder, family, config, jnp.dtype(dtype))  # last, as it takes longest
    return tunix_policy(
        model,
        tokenizer,
        context_length=read.context_length() if context_length is None else context_length,
        stop=stop,
        template=template,
        lora_rank=lora_rank,
        lora_scale=lora_scale,
        lora_pattern=lora_pattern,
        forbidden=forbidden,
        key=key,
    )


def _plain_config(library: Any, read: Fields, tensors: Tensors, dtype: Any, **defaults: Any) -> Any:
    """Of llama and qwen2."""
    read.only("hidden_act", read("hidden_act", "silu"), "silu")
    return library.ModelConfig(
        **read.sizes(tensors, **defaults),
        vocab_size=tensors.vocabulary_size,
        rope_theta=read.rope(10_000.0)[0],
        norm_eps=read.number("rms_norm_eps", 1.0, 1e-6),
        use_tied_embedding=bool(read("tie_word_embeddings", False)),
        dtype=dtype,
        param_dtype=dtype,
    )


def _qwen3_config(library: Any, read: Fields, tensors: Tensors, dtype: Any) -> Any:
    # The configuration has a field for the base, which nothing reads.
    read.only("rope_theta", read.rope(10_000.0)[0], 1_000_000.0)
    return _plain_config(library, read, tensors, dtype, head_dim=128)


def _gemma_config(library: Any, read: Fields, tensors: Tensors, dtype: Any) -> Any:
    """Of gemma, and of gemma2, which has more norms, caps and local layers."""
    del dtype  # that of the weights
    second = read.fields["model_type"] == "gemma2"
    sizes = read.sizes(tensors, head_dim=256)
    layers = _gemma_layers(read, sizes["num_layers"], 2 if second else 1)
    read.only("rope_theta", read.rope(10_000.0)[0], 10_000.0)
    if second:
        read.only("query_pre_attn_scalar", read("query_pre_attn_scalar", 256), sizes["head_dim"])
    kinds = {"sliding_attention": "LOCAL_SLIDING", "full_attention": "GLOBAL"}
    return library.ModelConfig(
        **sizes,
        num_embed=tensors.vocabulary_size,
        final_logit_softcap=read.cap("final_logit_softcapping", 30.0) if second else None,
        attn_logits_soft_cap=read.cap("attn_logit_softcapping", 50.0) if second else None,
        use_post_attn_norm=second,
        use_post_ffw_norm=second,
        attention_types=tuple(library.AttentionType[kinds[layer]] for layer in layers),
        sliding_window_size=read.integer("sliding_window", 1, LARGEST_INT, 4096) if second else None,
    )


def _gemma3_config(library: Any, read: Fields, tensors: Tensors, dtype: Any) -> Any:
    sizes = read.sizes(
        tensors,
        hidden_size=2304,
        num_attention_heads=8,
        num_hidden_layers=26,
        intermediate_size=9216,
        num_key_value_heads=4,
        head_dim=256,
    )
    _gemma_layers(read, sizes["num_layers"], read.integer("sliding_window_pattern", 1, LARGEST_INT, 6), 6)
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
        num_embed=tensors.vocabulary_size,
        sliding_window_size=read.integer("sliding_window", 1, LARGEST_INT, 4096),
        local_base_frequency=nearby,
        global_base_frequency=everywhere,
        global_scale_factor=factor,
        query_pre_attn_norm=norm,
        param_dtype=dtype,
    )


def _gemma_layers(read: Fields, num_layers: int, period: int, allowed: int | None = None) -> list[str]:
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
    config: Callable[[Any, Fields, Tensors, Any], Any]
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


def _check_tensors(folder: Path) -> Tensors:
    """Return the sizes of the tensors, after a check of the types, which Tunix takes for those of the first tensor."""
    safetensors = needed("safetensors")
    files = sorted(folder.glob("*.safetensors"))
    types: set[str] = set()
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        if not file.is_file():
            raise bad_input(file, "", "a regular file", "a directory, a pipe or a device")
        with parsing(file, "safetensors"), safetensors.safe_open(str(file), framework="numpy") as opened:
            names = opened.keys()
            for name in names:
                tensor = opened.get_slice(name)
                types.add(tensor.get_dtype())
                shapes[name] = tuple(tensor.get_shape())
    embeddings = [shape for name, shape in shapes.items() if name.endswith("embed_tokens.weight")]
    if not embeddings or len(embeddings[-1]) != 2 or not all(embeddings[-1]):
        got = f"{len(shapes)} tensors in {len(files)} files, and embeddings of shapes {shown(embeddings)}"
        raise bad_input(folder, "*.safetensors", "files with a matrix embed_tokens.weight", got)
    if len(types) > 1 or not types <= {"F16", "BF16", "F32"}:
        raise bad_input(folder, "types of the tensors", "F16, BF16 or F32, the same for all", listed(sorted(types)))
    return model_sizes(shapes, embeddings[-1])


def _loaded(folder: Path, family: _Family, config: Any, dtype: Any) -> Any:
    """The model with the tensors of the folder."""
    model = getattr(needed(f"tunix.models.{family.package}.model"), family.model)
    loader = needed(f"tunix.models.{family.package}.{family.loader}")
    fused = loader._make_preprocess_fn(config) if "_make_preprocess_fn" in dir(loader) else None

    def prepare(tensors: dict[str, Any]) -> dict[str, Any]:
        tensors = tensors if fused is None else fused(tensors)
        return tensors if family.prepare is None else family.prepare(config, tensors)

    load = needed("tunix.models.safetensors_loader").load_and_create_model
    try:
        found = load(
            str(folder), model, config, loader._get_key_and_transform_mapping, preprocess_fn=prepare, dtype=dtype
        )
    except Exception as error:  # Tunix has no class of its own for tensors that do not fit
        raise bad_input(folder, "tensors", f"those of {family.model}", reason(error)) from error
    for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(found, nnx.Param)):
        if not isinstance(leaf, jax.Array):
            raise bad_input(folder, "tensors", f"those of {family.model}", f"none for {jax.tree_util.keystr(path)}")
        if not np.isfinite(np.asarray(leaf)).all():
            got = "entries that are not finite"
            raise bad_input(folder, f"tensor {jax.tree_util.keystr(path)}", f"finite in {dtype}", got)
    return found


def _tokenizer(folder: Path) -> Any:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise bad_input(path, "", "a file that exists", "a path where no file is")
    with parsing(path, "tokenizer"):
        return needed("tokenizers").Tokenizer.from_file(str(path))


def _stop(folder: Path, tokenizer: LibraryTokenizer) -> tuple[str, ...]:
    """Return the names of the tokens that end an answer."""
    for file in ("generation_config.json", "config.json"):
        fields = Fields(folder / file, read_json(folder / file))
        found = fields("eos_token_id", None)
        if found is None:
            continue
        names = []
        for token in found if isinstance(found, list) else [found]:
            good = isinstance(token, int) and not isinstance(token, bool) and 0 <= token <= LARGEST_INT
            name = tokenizer.name(token) if good else None
            if name is None:
                fields.refuse("eos_token_id", "numbers of tokens that the tokenizer has", found)
            names.append(name)
        return tuple(names)
    advice = "Name them by the argument stop."
    raise bad_input(folder / "config.json", "eos_token_id", "a token that ends an answer", "no such field", advice)


_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def _template(folder: Path, tokenizer: Any) -> str | ChatTemplate:
    """Return the chat template of the folder, else the tokens that its tokenizer puts in front of every text."""
    path, beside = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    settings = read_json(path)
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        parts = [each for each in template if isinstance(each, dict) and each.get("name") == "default"]
        template = parts[-1].get("template") if parts else None
    if beside.is_file():
        path = beside
        with parsing(beside, "UTF-8"):
            template = Source(beside, MOST_JSON_BYTES).read("UTF-8").decode("utf-8")
    if template is None:
        found = tokenizer.encode("a")
        marked = zip(found.tokens, found.special_tokens_mask, strict=True)
        return "".join(name for name, _ in itertools.takewhile(lambda one: one[1], marked)) + "{prompt}"
    if not isinstance(template, str):
        raise bad_input(path, "chat_template", "a string", shown(template), "Give a template.")
    settings = {**read_json(folder / "special_tokens_map.json"), **settings}
    special = {name: _content(settings.get(name)) for name in _SPECIAL}
    special = {name: token for name, token in special.items() if isinstance(token, str)}
    try:
        return read_template(template, special)
    except (TypeError, ValueError) as error:
        got = f"the error {quoted(str(error), 200)}"
        raise bad_input(path, "chat_template", "a template that can be used", got, "Give a template.") from error


def _content(token: Any) -> Any:
    """Return the name of a special token, which a folder may give with its flags."""
    return token.get("content") if isinstance(token, dict) else token
