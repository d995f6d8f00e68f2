"""Models of Tunix: what is drawn is what is scored, padding does not matter, and weights mean what they should.

One file, though long: all families of models go through the same checks.
"""

import dataclasses
import gc
import importlib
import json
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("optax", reason="needs the extra `lm`")
pytest.importorskip("qwix", reason="needs the extra `tunix`")
pytest.importorskip("tunix", reason="needs the extra `tunix`")

import jax
import jax.numpy as jnp
import tokenizers
from flax import nnx

from nashjax.files import BadInput
from nashjax.lm import ChatTemplate, Llama, LlamaConfig, LlamaDecoder, Tokens
from nashjax.lm.policy import LanguagePolicy
from nashjax.lm.tokenizers import AlphabetTokenizer
from nashjax.lm.tunix import TunixDecoder, load_tunix, tunix_policy

# Attributes of flax and jax that Tunix and Qwix still use.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::DeprecationWarning:{package}") for package in ("tunix", "qwix", "flax")
]

WORDS = "abcdefghijkl"
SIZES = {
    "vocab_size": 20,  # more than the tokenizer has
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
    "eos_token_id": 12,
}
LOCAL = {"sliding_window": 5, "query_pre_attn_scalar": 8}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**SIZES, "rope_theta": 300.0, "rms_norm_eps": 1e-5},
    "qwen2": {**SIZES, "rope_theta": 300.0, "tie_word_embeddings": True},
    "qwen3": {**SIZES, "rope_theta": 1_000_000.0},
    "gemma": {**SIZES, "num_key_value_heads": 4},
    "gemma2": {**SIZES, **LOCAL, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0},
    # One layer in six is global, and only that one is scaled.
    "gemma3_text": {**SIZES, **LOCAL, "num_hidden_layers": 6, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
}


def tensors_of(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Random weights by the names of Hugging Face."""
    rng = np.random.default_rng(0)
    kind, width, inner, head = config["model_type"], 24, 20, config["head_dim"]
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"], "v": config["num_key_value_heads"]}
    second = kind in ("gemma2", "gemma3_text")
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (20, width), "model.norm.weight": (width,)}
    if not config.get("tie_word_embeddings", kind.startswith("gemma")):
        shapes["lm_head.weight"] = (20, width)
    for layer in range(config["num_hidden_layers"]):
        inside: dict[str, tuple[int, ...]] = {
            "self_attn.o_proj.weight": (width, heads["q"] * head),
            "mlp.gate_proj.weight": (inner, width),
            "mlp.up_proj.weight": (inner, width),
            "mlp.down_proj.weight": (width, inner),
            "input_layernorm.weight": (width,),
            "post_attention_layernorm.weight": (width,),
        }
        for name, number in heads.items():
            inside[f"self_attn.{name}_proj.weight"] = (number * head, width)
            if kind == "qwen2":
                inside[f"self_attn.{name}_proj.bias"] = (number * head,)
        if kind in ("qwen3", "gemma3_text"):
            inside |= {"self_attn.q_norm.weight": (head,), "self_attn.k_norm.weight": (head,)}
        if second:
            inside |= {f"{at}_feedforward_layernorm.weight": (width,) for at in ("pre", "post")}
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in inside.items()}
    scale = {1: 0.5, 2: 0.3}
    return {name: (scale[len(s)] * rng.standard_normal(s)).astype(np.float32) for name, s in shapes.items()}


def save(path: Path, tensors: dict[str, np.ndarray]) -> None:
    importlib.import_module("safetensors.numpy").save_file(tensors, str(path))


def write_folder(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray], **settings: Any) -> Path:
    """A folder as Hugging Face has it; a word of the tokenizer is a letter."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(tensors)
    for part, some in enumerate((names[::2], names[1::2])):
        save(folder / f"model-{part}.safetensors", {name: tensors[name] for name in some})
    words = {word: index for index, word in enumerate([*WORDS, "<end>", "<start>", "<?>"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<?>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens(["<end>", "<start>"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<start> $A", special_tokens=[("<start>", 13)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def written_down(config: dict[str, Any], tensors: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """Logits after each token of a text, `[tokens, vocabulary]`: the models as their papers have them, in float64."""
    kind, head = config["model_type"], config["head_dim"]
    gemma, caps = kind.startswith("gemma"), kind == "gemma2"
    w = {name.removeprefix("model."): value.astype(np.float64) for name, value in tensors.items()}

    def norm(x, name):
        scale = w[name] + (1 if gemma else 0)
        return scale * x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + config.get("rms_norm_eps", 1e-6))

    def cap(x, at):
        return at * np.tanh(x / at) if caps else x

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    x = w["embed_tokens.weight"][tokens] * (math.sqrt(24) if gemma else 1)
    places = np.arange(len(tokens))
    distance = places[:, None] - places
    for layer in range(config["num_hidden_layers"]):
        at = f"layers.{layer}."
        local = (caps and layer % 2 == 0) or (kind == "gemma3_text" and layer % 6 < 5)
        base = config.get("rope_theta", 1e6 if kind == "gemma3_text" and not local else 1e4)
        slower = 8 if kind == "gemma3_text" and not local else 1
        angle = (places / slower)[:, None, None] / base ** (np.arange(head // 2) / (head // 2))

        def turned(x, name, at=at, angle=angle):
            x = x.reshape(len(tokens), -1, head)
            if f"{at}self_attn.{name}_norm.weight" in w:
                x = norm(x, f"{at}self_attn.{name}_norm.weight")
            a, b = x[..., : head // 2], x[..., head // 2 :]
            return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)

        h = norm(x, f"{at}input_layernorm.weight")
        q = turned(linear(h, f"{at}self_attn.q_proj"), "q")
        k = turned(linear(h, f"{at}self_attn.k_proj"), "k")
        v = linear(h, f"{at}self_attn.v_proj").reshape(len(tokens), -1, head)
        group = q.shape[1] // k.shape[1]
        k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
        scores = cap(np.einsum("tnh,snh->nts", q, k) / math.sqrt(head), 2.0)
        scores = np.where((distance >= 0) & (not local or distance < 5), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("nts,snh->tnh", weights / weights.sum(-1, keepdims=True), v).reshape(len(tokens), -1)
        mixed = linear(mixed, f"{at}self_attn.o_proj")
        before, after = "post_attention_layernorm.weight", "post_feedforward_layernorm.weight"
        if at + after in w:
            mixed, before = norm(mixed, at + before), "pre_feedforward_layernorm.weight"
        x = x + mixed
        h = norm(x, at + before)
        g = linear(h, f"{at}mlp.gate_proj")
        g = 0.5 * g * (1 + np.tanh(math.sqrt(2 / np.pi) * (g + 0.044715 * g**3))) if gemma else g / (1 + np.exp(-g))
        h = linear(g * linear(h, f"{at}mlp.up_proj"), f"{at}mlp.down_proj")
        x = x + (norm(h, at + after) if at + after in w else h)
    return cap(norm(x, "norm.weight") @ w.get("lm_head.weight", w["embed_tokens.weight"]).T, 3.0)


def tiny_llama3() -> LanguagePolicy:
    """Tunix's own Llama3, which `load_tunix` does not use."""
    library = importlib.import_module("tunix.models.llama3.model")
    sizes = {"num_layers": 2, "vocab_size": 13, "embed_dim": 24, "hidden_dim": 20, "num_heads": 4, "num_kv_heads": 2}
    config = library.ModelConfig(**sizes, head_dim=8, rope_theta=1, norm_eps=1e-5)
    graph, state = nnx.split(nnx.eval_shape(lambda: library.Llama3(config, rngs=nnx.Rngs(0))))
    model = nnx.merge(graph, noisy(jax.tree.map(lambda x: jnp.zeros(x.shape), state), 0.3))
    return tunix_policy(model, AlphabetTokenizer(WORDS), context_length=64, stop=("<end>",), lora_rank=2)


def noisy(params: Any, scale: float) -> Any:
    """Weights with something added: adapters add nothing at first."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x) + scale * rng.standard_normal(x.shape), jnp.float32), params
    )


def tunix_decoder(policy: LanguagePolicy) -> TunixDecoder:
    assert isinstance(policy.decoder, TunixDecoder)
    return policy.decoder


def folder_of(kind: str, parent: Path, **changes: Any) -> Path:
    """A folder of one of `CONFIGS`."""
    config = {"model_type": kind, **CONFIGS[kind]}
    return write_folder(parent / kind, {**config, **changes}, tensors_of(config))


class Case:
    """A policy, and one program of it for all that is asked here: compiling is what takes the time."""

    def __init__(self, kind: str, policy: LanguagePolicy):
        self.kind, self.policy = kind, policy
        prompts = policy.encode(PROMPTS, LENGTH)
        self.prompts = prompts
        # Scored with more padding than drawn with.
        self.wider = Tokens(*(jnp.pad(x, ((0, 0), (37, 0))) for x in prompts))

        def score(params: Any, answers: Tokens) -> tuple[jax.Array, jax.Array]:
            found = policy.log_probs(params, self.wider, answers)
            return found.sum(), found

        self.score: Any = jax.jit(jax.value_and_grad(score, has_aux=True))


PROMPTS, ANSWERS, LENGTH = ["abc", "lkjihgfedc", "f"], [["abc", "labcde", ""]] * 3, 6


@pytest.fixture(scope="module", params=[*CONFIGS, "llama3"])
def case(request, tmp_path_factory) -> Case:
    if request.param == "llama3":
        return Case(request.param, tiny_llama3())
    folder = folder_of(request.param, tmp_path_factory.mktemp("models"))
    return Case(request.param, load_tunix(folder, lora_rank=2, template="{prompt}"))


def test_what_is_drawn_is_what_is_scored_with_other_padding(case):
    params = noisy(case.policy.params, 0.1)
    answers, drawn = case.policy.sample(params, jax.random.key(0), case.prompts, 3, LENGTH)
    # Arrays that jax takes for the same as those of other tests: it traces again otherwise.
    answers = Tokens(*(jnp.asarray(np.asarray(x)) for x in answers))
    (_, scored), gradient = case.score(params, answers)
    np.testing.assert_allclose(drawn, scored, atol=1e-4)
    ended = answers.mask.sum(axis=-1) < LENGTH
    assert 0 < ended.sum() < ended.size
    assert int(answers.tokens.max()) < case.policy.tokenizer.vocabulary_size
    leaves = jax.tree.leaves(gradient)
    assert len(leaves) >= 12
    for leaf in leaves:
        assert leaf.dtype == jnp.float32
        assert 1e-5 < jnp.max(jnp.abs(leaf)) < 1e3


def test_weights_with_new_adapters_mean_what_is_written_down(case):
    policy = case.policy
    if case.kind == "llama3":
        pytest.skip("Tunix's Llama3 has another base of the rotary positions than its configuration says")
    answers = policy.encode_answers(ANSWERS, LENGTH)
    # With the first adapters, which add nothing to the weights.
    (_, found), _ = case.score(policy.params, answers)
    config = {"model_type": case.kind, **CONFIGS[case.kind]}
    tensors = tensors_of(config)
    expected = np.zeros(found.shape)
    for prompt, answer in np.ndindex(expected.shape):
        text = policy.tokenizer.encode(PROMPTS[prompt])
        tokens = answers.tokens[prompt, answer][answers.mask[prompt, answer]].tolist()
        logits = written_down(config, tensors, [*text, *tokens])[len(text) - 1 : -1]
        logits = logits[:, : policy.tokenizer.vocabulary_size]
        log_probs = logits[np.arange(len(tokens)), tokens] - np.log(np.exp(logits).sum(axis=-1))
        expected[prompt, answer] = log_probs.sum()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_llama_weights_are_those_of_our_own_llama(tmp_path):
    config = CONFIGS["llama"]
    tensors = tensors_of({"model_type": "llama", **config})
    shape = LlamaConfig(20, 24, 2, 4, 2, 8, 20, rope_base=config["rope_theta"], tied_head=False)
    ours = Llama(shape, nnx.Rngs(0))
    names = {
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "output": "self_attn.o_proj",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
        "attention_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
    }
    for name, theirs in names.items():
        stacked = np.stack([tensors[f"model.layers.{layer}.{theirs}.weight"].T for layer in range(2)])
        part = getattr(ours.blocks, name)
        (part.scale if name.endswith("norm") else part.kernel)[...] = jnp.asarray(stacked)
    ours.embedding[...] = jnp.asarray(tensors["model.embed_tokens.weight"])
    ours.norm.scale[...] = jnp.asarray(tensors["model.norm.weight"])
    ours.head[...] = jnp.asarray(tensors["lm_head.weight"].T)
    policy = load_tunix(folder_of("llama", tmp_path), lora_rank=0, template="{prompt}")
    decoder, params = LlamaDecoder.split(ours)
    # Of all rows of the head, not only those of the tokenizer's tokens.
    theirs = dataclasses.replace(tunix_decoder(policy), vocabulary_size=None)
    assert not jax.tree.leaves(theirs.base)  # all weights are trained
    prompts, answers = policy.encode(PROMPTS, LENGTH), policy.encode_answers(ANSWERS, LENGTH)

    def scored(decoder, params):
        return LanguagePolicy(decoder, params, policy.tokenizer, 64, ("<end>",)).log_probs(params, prompts, answers)

    np.testing.assert_allclose(scored(theirs, policy.params), scored(decoder, params), atol=1e-4)


@pytest.mark.parametrize("kind", ["qwen2", "gemma"])
def test_weights_in_bfloat16_can_be_read_drawn_from_and_trained(kind, tmp_path):
    policy = load_tunix(folder_of(kind, tmp_path), lora_rank=2, dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(tunix_decoder(policy).base)} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(policy.params)} == {jnp.dtype(jnp.float32)}
    prompts = policy.encode(PROMPTS, LENGTH)
    # Shapes and types only: nothing is compiled.
    answers, drawn = jax.eval_shape(lambda p: policy.sample(p, jax.random.key(0), prompts, 2, LENGTH), policy.params)
    scored = jax.eval_shape(lambda p, a: policy.log_probs(p, prompts, a), policy.params, answers)
    assert drawn.dtype == scored.dtype == jnp.float32
    assert drawn.shape == scored.shape == (3, 2)


def test_answers_of_one_token_need_nothing_to_be_read(tmp_path):
    policy = load_tunix(folder_of("qwen2", tmp_path), lora_rank=0, template="{prompt}")
    answers = policy.encode_answers([["a"]], 1)
    found = policy.log_probs(policy.params, policy.encode(["bc"], 1), answers)
    config = {"model_type": "qwen2", **CONFIGS["qwen2"]}
    logits = written_down(config, tensors_of(config), [1, 2])[-1, : policy.tokenizer.vocabulary_size]
    np.testing.assert_allclose(found, [[logits[0] - np.log(np.exp(logits).sum())]], atol=1e-4)


def test_tokens_that_a_model_does_not_know_are_never_likely():
    decoder = TunixDecoder(None, None, vocabulary_size=4)
    known = jnp.zeros((2, 3))
    np.testing.assert_allclose(jnp.exp(jax.nn.log_softmax(decoder._of_vocabulary(known)))[0], [1 / 3] * 3 + [0])
    assert decoder._of_vocabulary(jnp.zeros((2, 1, 9))).shape == (2, 1, 4)


def test_a_folder_names_its_stop_tokens_and_template(tmp_path):
    chat = "{{ bos_token }}{% for message in messages %}<{{ message['content'] }}>{{ eos_token }}{% endfor %}"
    folder = folder_of("qwen2", tmp_path)
    policy = load_tunix(folder, lora_rank=0)
    assert (policy.stop, policy.template, policy.context_length) == (("<end>",), "<start>{prompt}", 1024)
    assert policy.encode(["ab"], 1).tokens.tolist() == [[13, 0, 1]]
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<start>", "eos_token": {"content": "<end>"}, "chat_template": chat})
    )
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [12, 0]}))
    policy = load_tunix(folder, lora_rank=0, context_length=99)
    assert (policy.stop, policy.context_length) == (("<end>", "a"), 99)
    assert policy.template == ChatTemplate(chat, {"bos_token": "<start>", "eos_token": "<end>"})
    assert policy.encode(["ab"], 1).tokens[0, -6:].tolist() == [13, 14, 0, 1, 14, 12]  # 14: no word of the tokenizer


def test_patterns_that_leave_out_what_they_should_not_are_refused(tmp_path):
    folders = {kind: folder_of(kind, tmp_path) for kind in ("qwen2", "gemma2")}

    def load(kind, pattern):
        return load_tunix(folders[kind], lora_pattern=pattern, lora_rank=1)

    with pytest.raises(
        ValueError, match=r"lora_pattern must be a pattern, .* got 'query', which matches no module of Qwen2"
    ):
        load("qwen2", "query")
    for pattern in (r".*_proj", r".*attn/(q|k|v|o)_proj|.*mlp/(gate|up|down)_proj"):
        with pytest.raises(
            ValueError, match=r"lora_pattern must be .*'attn/kv_einsum'.* and none of the attention of Gemma"
        ):
            load("gemma2", pattern)
    only = load("gemma2", r".*mlp/up_proj")
    assert len(jax.tree.leaves(only.params)) == 4
    with pytest.raises(ValueError, match=r"lora_pattern must be a regular expression, got '\('"):
        load("gemma2", "(")
    with pytest.raises(ValueError, match="lora_rank must be an integer >= 0, got -1"):
        tunix_policy(None, AlphabetTokenizer("a"), context_length=9, stop=(), lora_rank=-1)


CONFIG_MESSAGES = [
    ("llama", {"model_type": "mamba"}, "model_type must be one of 'gemma', 'gemma2', .*, got 'mamba'."),
    ("llama", {"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling must be 'default', got 'llama3'."),
    (
        "llama",
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}},
        "rope_scaling must be 'default', got 'yarn'",
    ),
    ("llama", {"attention_bias": True}, "attention_bias must be False, got True."),
    ("llama", {"hidden_act": "relu"}, "hidden_act must be 'silu', got 'relu'."),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config must be None, got .'bits': 4.."),
    ("llama", {"hidden_size": None}, "hidden_size must be the integer 24, got no such field."),
    ("qwen2", {"use_sliding_window": True}, "use_sliding_window must be False, got True."),
    (
        "qwen2",
        {"eos_token_id": None},
        "eos_token_id must be a token that ends an answer, got no such field. Name them by",
    ),
    ("qwen3", {"rope_theta": 5e6}, "rope_theta must be 1000000.0, got 5000000.0."),
    ("gemma", {"rope_theta": 5e6}, "rope_theta must be 10000.0, got 5000000.0."),
    ("gemma2", {"query_pre_attn_scalar": 144}, "query_pre_attn_scalar must be 8, got 144."),
    ("gemma2", {"layer_types": ["full_attention"] * 2}, "layer_types must be "),
    ("gemma3_text", {"sliding_window_pattern": 4}, "sliding_window_pattern must be 6, got 4."),
    ("gemma3_text", {"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling must be 'default', got 'yarn'."),
    ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers must be an integer from 1 to 21, got 1000000000."),
    ("gemma2", {"final_logit_softcapping": "3"}, "final_logit_softcapping must be a number > 0 and <= 1e.09, got '3'."),
    ("gemma3_text", {"sliding_window": 0}, "sliding_window must be an integer from 1 to 2147483647, got 0."),
    ("llama", {"eos_token_id": ["a"]}, "eos_token_id must be numbers of tokens that the tokenizer has, got ..a..."),
    (
        "llama",
        {"eos_token_id": 2**40},
        "eos_token_id must be numbers of tokens that the tokenizer has, got 1099511627776.",
    ),
    ("llama", {"eos_token_id": -1}, "eos_token_id must be numbers of tokens that the tokenizer has, got -1."),
]


@pytest.mark.parametrize(("kind", "changes", "message"), CONFIG_MESSAGES)
def test_folders_that_would_mean_something_else_are_refused(kind, changes, message, tmp_path):
    folder = folder_of(kind, tmp_path, **changes)
    with pytest.raises(BadInput, match=f"^{re.escape(str(folder / 'config.json'))}: {message}"):
        load_tunix(folder, lora_rank=0)


def test_folders_that_lack_something_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"config\.json must be a file that exists, got a path where no file is\."):
        load_tunix(tmp_path)
    folder = folder_of("llama", tmp_path)
    with pytest.raises(ValueError, match=r"dtype must be one of 'float32', 'bfloat16', got 'int8'\."):
        load_tunix(folder, dtype="int8")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"tokenizer\.json must be a file that exists"):
        load_tunix(folder)
    save(folder / "model-2.safetensors", {"model.norm.weight": np.ones(24, np.float16)})
    message = r"types of the tensors must be F16, BF16 or F32, the same for all, got 'F16', 'F32'\."
    with pytest.raises(BadInput, match=message):
        load_tunix(folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    message = r"\*\.safetensors must be files with a matrix embed_tokens\.weight, got 0 tensors in 0 files"
    with pytest.raises(BadInput, match=message):
        load_tunix(folder)


def test_folders_with_other_tensors_are_refused(tmp_path):
    folder = folder_of("llama", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Tunix leaves the files open
        for changes in ({"num_hidden_layers": 3}, {"intermediate_size": 21}):
            config = {"model_type": "llama", **CONFIGS["llama"], **changes}
            (folder / "config.json").write_text(json.dumps(config))
            with pytest.raises(BadInput, match=f"{re.escape(str(folder))}: tensors must be those of Qwen2, got "):
                load_tunix(folder)
        gc.collect()


def test_tensors_that_are_damaged_or_not_finite_are_refused(tmp_path):
    folder = folder_of("qwen2", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Tunix leaves the files open
        tensors = tensors_of({"model_type": "qwen2", **CONFIGS["qwen2"]})
        tensors["model.norm.weight"][3] = np.nan
        write_folder(folder, {"model_type": "qwen2", **CONFIGS["qwen2"]}, tensors)
        with pytest.raises(
            BadInput, match=r"tensor .*final_norm.* must be finite in float32, got entries that are not"
        ):
            load_tunix(folder)
        gc.collect()
    file = folder / "model-0.safetensors"
    good = file.read_bytes()
    for content in (b"", good[:100], (2**40).to_bytes(8, "little") + good[8:], good[:8] + b"[" * 200_000, good[:-1]):
        file.write_bytes(content)
        with pytest.raises(BadInput, match=f"^{re.escape(str(file))} must be an undamaged safetensors file, got ") as e:
            load_tunix(folder)
        assert e.value.__cause__ is not None
    file.write_bytes(good)
    (folder / "tokenizer.json").write_text("[" * 100_000)
    with pytest.raises(BadInput, match=r"tokenizer\.json must be an undamaged tokenizer file, got Exception: "):
        load_tunix(folder)


def test_models_that_would_be_computed_wrongly_are_refused():
    model = nnx.Module()
    model.config = type("Config", (), {"use_flash_attention": True})()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="model must be without use_flash_attention, which ignores padding"):
        TunixDecoder.split(model)


def test_only_what_needs_the_extra_imports_it(monkeypatch, tmp_path):
    code = "import sys, nashjax.lm.tunix; assert not {'tunix', 'qwix'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(ImportError, match=r'models of Tunix need qwix: python -m pip install "nashjax.tunix."'):
        load_tunix(folder_of("llama", tmp_path))
