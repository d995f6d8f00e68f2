"""Weights, tokenizer and settings of a model from a folder of Hugging Face's kind, read into Tunix's models."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nashjax.arguments import check_choice
from nashjax.files.errors import bad_input, quoted
from nashjax.lm.chat import ChatTemplate, read_template
from nashjax.lm.llama import DTYPES
from nashjax.lm.policy import LanguagePolicy
from nashjax.lm.tokenizers import LibraryTokenizer
from nashjax.lm.tunix.decoder import LORA_PATTERN, needed, tunix_policy


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
      ValueError: the folder cannot be used; the message says why.
    """
    folder = Path(folder)
    check_choice("dtype", dtype, DTYPES)
    read = _Fields.of(folder)
    kind = read.fields.get("model_type")
    if kind not in _FAMILIES:
        raise ValueError(f"folder: {folder} has model_type {kind!r}; allowed are {sorted(_FAMILIES)}")
    family = _FAMILIES[kind]
    library = needed(f"tunix.models.{family.package}.model")
    config = family.config(library, read, _check_tensors(folder), jnp.dtype(dtype))
    model = _loaded(folder, family, config, jnp.dtype(dtype))
    library_tokenizer = _tokenizer(folder)
    tokenizer = LibraryTokenizer(library_tokenizer)
    return tunix_policy(
        model,
        tokenizer,
        context_length=read("max_position_embeddings") if context_length is None else context_length,
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
    safetensors = needed("safetensors")
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
    model = getattr(needed(f"tunix.models.{family.package}.model"), family.model)
    loader = needed(f"tunix.models.{family.package}.{family.loader}")
    fused = loader._make_preprocess_fn(config) if hasattr(loader, "_make_preprocess_fn") else None

    def prepare(tensors: dict[str, Any]) -> dict[str, Any]:
        tensors = tensors if fused is None else fused(tensors)
        return tensors if family.prepare is None else family.prepare(config, tensors)

    load = needed("tunix.models.safetensors_loader").load_and_create_model
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
        return needed("tokenizers").Tokenizer.from_file(str(path))
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


_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def _template(folder: Path, tokenizer: Any) -> str | ChatTemplate:
    """The chat template of the folder, else what its tokenizer puts in front of every text."""
    settings = _object(folder / "tokenizer_config.json")
    template, beside = settings.get("chat_template"), folder / "chat_template.jinja"
    if isinstance(template, list):  # several, by name
        named = [each for each in template if isinstance(each, dict) and each.get("name") == "default"]
        template = named[0].get("template") if named else None
    if beside.is_file():
        try:
            template = beside.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise bad_input(beside, "", "UTF-8", "other bytes") from error
    if template is None:
        found = tokenizer.encode("a")
        marked = zip(found.tokens, found.special_tokens_mask, strict=True)
        return "".join(name for name, _ in itertools.takewhile(lambda one: one[1], marked)) + "{prompt}"
    settings = {**_object(folder / "special_tokens_map.json"), **settings}
    special = {name: _content(settings.get(name)) for name in _SPECIAL}
    special = {name: token for name, token in special.items() if isinstance(token, str)}
    try:
        return read_template(template, special) if isinstance(template, str) else ChatTemplate(template, special)
    except (TypeError, ValueError) as error:
        got = f"the error {quoted(str(error), 200)}"
        raise bad_input(folder, "chat template", "one that can be rendered", got, "Give a template.") from error


def _object(path: Path) -> dict[str, Any]:
    """Return the fields of a JSON file, none if there is no file."""
    found = _json(path)
    if not isinstance(found, (dict, type(None))):
        raise bad_input(path, "", "a JSON object", quoted(str(found)))
    return found or {}


def _content(token: Any) -> Any:
    """The name of a special token, which a folder may give with its flags."""
    return token.get("content") if isinstance(token, dict) else token
