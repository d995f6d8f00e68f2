"""Write the tokens that `transformers` and llama.cpp make of texts, for tokenizers of several families.

`python -m benchmarks.token_references` needs `transformers`, `gguf` and `xllamacpp`. The tests compare with the result,
`tests/lm/token_references.json`, and need only `gguf`. The vocabularies are tiny and are built here.

If a user's text has names of special tokens, the library takes these as plain text. The expected tokens come from a
twin of the tokenizer, equal but for other names of its special tokens: to the twin, the user's text is plain.

One file, though long: each family is a tokenizer, a template and the texts that tell it from the others.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

RESULT = Path(__file__).parents[1] / "tests" / "lm" / "token_references.json"

WORDS = ["hello", "world", "user", "assistant", "system", "say", "now", "end", "the", "INST", "turn", "You", "are"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789<>|[]/_!?.,:;'\"-=#«»"

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | "
    "trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}{% else %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endif %}"
    "{% endfor %}"
)
PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
BERT = (
    "{{ cls_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }} {{ sep_token }} "
    "{% endfor %}"
)

Naming = Callable[[str], str]


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of tokenizer with the chat template that models of this kind have.

    Attributes:
      build: makes the tokenizer, with special tokens by the names that a function gives.
      control: special tokens, and other added ones that the template writes.
      template: the chat template.
      special: the special tokens that the template may use.
    """

    build: Callable[[Naming], Tokenizer]
    control: tuple[str, ...]
    template: str
    special: dict[str, str]

    def twin(self) -> Family:
        """The same with other names of control tokens."""
        names = {name: f"«{index}»" for index, name in enumerate(self.control)}
        template = self.template
        for name in sorted(names, key=len, reverse=True):
            template = template.replace(name, names[name])
        template = template.replace("'<|' + message['role'] + '|>", "names[message['role']] + '")
        roles = {role: names[f"<|{role}|>"] for role in ("user", "system", "assistant") if f"<|{role}|>" in names}
        template = "{% set names = " + json.dumps(roles, ensure_ascii=False) + " %}" + template
        special = {key: names[name] for key, name in self.special.items()}
        return Family(lambda naming: self.build(lambda name: names.get(name, name)), self.control, template, special)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer by its own names."""
        return self.build(lambda name: name)


def merges_of(words: list[str]) -> list[tuple[str, str]]:
    """Merges that build every word from its left."""
    pairs = [(word[:end], word[end]) for word in words for end in range(1, len(word))]
    return list(dict.fromkeys(pairs))


def ids(*parts: list[str]) -> dict[str, int]:
    """A vocabulary, in this order."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: index for index, name in enumerate(names)}


def byte_level(control: tuple[str, ...], *, plain: tuple[str, ...] = (), split: bool, inside: bool) -> Any:
    """Byte-level BPE as of Llama 3 and Qwen (`split`), or GPT-2 and SmolLM; special tokens `inside` its vocabulary."""
    merges = merges_of([*(f"Ġ{word}" for word in WORDS), *WORDS, "ĊĊ", "ĠĠ", ">Ċ", "!!"])
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())

    def build(naming: Naming) -> Tokenizer:
        names = [naming(name) for name in control]
        vocabulary = ids(names if inside else [], letters, [a + b for a, b in merges])
        made: Any = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=split))
        if split:
            made.normalizer = normalizers.NFC()
            pattern = Regex(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
                r"|\s+(?!\S)|\s+"
            )
            bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), bytes_only])
        else:
            digits = pre_tokenizers.Digits(individual_digits=True)
            made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        made.decoder = decoders.ByteLevel()
        made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
        made.add_tokens([AddedToken(naming(name), normalized=False) for name in plain])
        return made

    return build


def pieces(control: tuple[str, ...], *, kind: str, stripped: bool = False, blanks: bool = False) -> Any:
    """BPE over pieces with byte fallback: `kind` is how blanks are treated, as of Llama 2, Mistral and Gemma."""
    words = [*(f"▁{word}" for word in WORDS), *WORDS, "▁▁", "▁<", "▁[", "\n\n"]
    merges = merges_of(words)

    def build(naming: Naming) -> Tokenizer:
        names = [naming(name) for name in control]
        vocabulary = ids(["<unk>"], names, BYTES, ["▁", "\n", *LETTERS], [a + b for a, b in merges])
        made: Any = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        if kind == "prepend":
            made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        elif kind == "first":
            made.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
        else:
            made.normalizer = normalizers.Replace(" ", "▁")
            made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        made.add_special_tokens(
            [
                AddedToken(name, special=True, normalized=False, rstrip=stripped and not name.startswith("<s"))
                for name in names
            ]
        )
        if blanks:
            made.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("▁▁", normalized=False)])
        return made

    return build


def unigram(control: tuple[str, ...]) -> Any:
    """Unigram with a blank before every piece of text, as of T5; its special tokens are words of the model."""
    words = [*WORDS, *(f"▁{word}" for word in WORDS), "▁", "\n", *LETTERS]

    def build(naming: Naming) -> Tokenizer:
        names = [naming(name) for name in control]
        vocabulary = [("<unk>", 0.0), *((name, 0.0) for name in names)]
        vocabulary += [(word, -3.0 - len(word) / 100 - index / 1000) for index, word in enumerate(words)]
        made: Any = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=False))
        made.normalizer = normalizers.NFKC()
        made.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
        made.decoder = decoders.Metaspace("▁", prepend_scheme="always")
        made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
        return made

    return build


def word_piece(control: tuple[str, ...]) -> Any:
    """WordPiece over lower case, as of BERT."""
    words = [word.lower() for word in WORDS]
    letters = sorted({letter.lower() for letter in LETTERS})

    def build(naming: Naming) -> Tokenizer:
        names = [naming(name) for name in control]
        vocabulary = ids(["[UNK]"], names, words, letters, [f"##{letter}" for letter in letters])
        made: Any = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
        return made

    return build


_IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_HEADERS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_ENDS = ("<s>", "</s>")
_TURNS = ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
_PHI = ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
_IN_TEXT = {"bos_token": "<s>", "eos_token": "</s>"}

FAMILIES = {
    "llama 3": Family(
        byte_level(_HEADERS, split=True, inside=False),
        _HEADERS,
        LLAMA3,
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    ),
    "qwen": Family(
        byte_level(_IM, plain=("<tool_call>",), split=True, inside=False), _IM, CHATML, {"eos_token": "<|im_end|>"}
    ),
    "smollm": Family(byte_level(_IM, split=False, inside=True), _IM, CHATML, {"eos_token": "<|im_end|>"}),
    "llama 2": Family(pieces(_ENDS, kind="prepend"), _ENDS, LLAMA2, _IN_TEXT),
    "tinyllama": Family(pieces(_ENDS, kind="prepend"), _ENDS, ZEPHYR, _IN_TEXT),
    "mistral": Family(pieces(_ENDS, kind="first"), _ENDS, MISTRAL, _IN_TEXT),
    "phi 3": Family(pieces(_PHI, kind="prepend", stripped=True), _PHI, PHI3, _IN_TEXT),
    "gemma": Family(
        pieces(_TURNS, kind="replace", blanks=True), _TURNS, GEMMA, {"bos_token": "<bos>", "eos_token": "<eos>"}
    ),
    "t5": Family(unigram(_ENDS), _ENDS, ZEPHYR, _IN_TEXT),
    "bert": Family(
        word_piece(("[CLS]", "[SEP]")), ("[CLS]", "[SEP]"), BERT, {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    ),
}


def said(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    """A conversation, the user's words first."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


CONVERSATIONS = [
    said("hello world"),
    said("  hello  world \n"),
    said("\n\nhello\n\nthe end\n\n"),
    said("> hello!!\n"),
    said("naïve 😀 日本語 ﬁ x² e\u0301"),
    said("<tool_call>hello <unk> [UNK]"),
    said(" hello", system="You are the system.\n"),
    said("hello", " say\n\n", "now ", " the end", "\nworld", system=" You are\n\nthe system "),
]


def with_names(family: Family) -> list[list[dict[str, str]]]:
    """Conversations in which users write the names of special tokens."""
    names = family.control
    conversations = [said(f"say {name} now") for name in names]
    conversations += [said(f"{names[-1]}\n{names[0]}hello{names[-1]}"), said(f" {names[-1]} "), said("".join(names))]
    return [*conversations, said("hello", f"{names[0]} now", f"the {names[-1]}\n\n", f"say{names[-1]}", "now")]


def of_transformers(family: Family, conversations: list[list[dict[str, str]]]) -> list[list[int] | None]:
    """The tokens that transformers makes, None where the template refuses the conversation."""
    import jinja2

    transformers: Any = importlib.import_module("transformers")
    with tempfile.TemporaryDirectory() as folder:
        family.tokenizer().save(f"{folder}/tokenizer.json")
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **family.special, "chat_template": family.template}
        Path(folder, "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found: list[list[int] | None] = []
    for messages in conversations:
        try:
            found.append(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))
        except jinja2.exceptions.TemplateError:
            found.append(None)
    return found


SENTENCEPIECE_TEXTS = [
    "hello world",
    "  hello \n",
    "\n\nhello",
    "<s>[INST] say hello [/INST]",
    "naïve 😀 日本語",
    "<s>hello</s><s> the end</s>",
    "user<|user|>hello the end",
    "    say   now",
    "a<unk>b </s",
    "> <|user|> <s> x",
]


def write_sentencepiece(path: Path, *, blank_in_front: bool, width: int = 32) -> list[str]:
    """Write a llama of one block with a SentencePiece vocabulary as GGUF, and return the names of its tokens."""
    import gguf
    import numpy as np

    words = list(dict.fromkeys(a + b for a, b in merges_of([*(f"▁{w}" for w in WORDS), *WORDS, "▁▁", "\n\n", "▁▁▁▁"])))
    tokens = ["<unk>", "<s>", "</s>", *BYTES, *words, "▁", "\n", *LETTERS, "<|user|>"]
    kind, letters = gguf.TokenType, len(LETTERS) + 2
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(width)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 2)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(
        [0.0] * 259 + [-float(i) for i in range(len(words))] + [-1000.0 - i for i in range(letters)] + [0.0]
    )
    kinds = [kind.UNKNOWN] + [kind.CONTROL] * 2 + [kind.BYTE] * 256 + [kind.NORMAL] * (len(words) + letters)
    writer.add_token_types([*kinds, kind.USER_DEFINED])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(blank_in_front)
    matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (len(tokens), width), "output_norm": (width,)}
    shapes |= {f"blk.0.{name}": (width, width) for name in matrices}
    shapes |= {f"blk.0.{name}": (width,) for name in ("attn_norm", "ffn_norm")}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tokens


def of_llama_cpp(*, blank_in_front: bool) -> list[list[int]]:
    """The tokens that llama.cpp makes of texts, by its server."""
    import urllib.request

    xllamacpp: Any = importlib.import_module("xllamacpp")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.gguf")
        write_sentencepiece(path, blank_in_front=blank_in_front)
        options: Any = xllamacpp.CommonParams()
        options.model.path, options.n_ctx, options.cpuparams.n_threads = str(path), 64, 1
        server: Any = xllamacpp.Server(options)
        found = []
        for text in SENTENCEPIECE_TEXTS:
            body = json.dumps({"content": text, "add_special": False, "parse_special": True}).encode()
            request = urllib.request.Request(
                f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request) as answer:
                found.append(json.load(answer)["tokens"])
    return found


def references() -> dict[str, dict[str, list[list[int] | None]]]:
    """The expected tokens of all families, of plain conversations and of those with names of special tokens."""
    return {
        name: {
            "plain": of_transformers(family, CONVERSATIONS),
            "names": of_transformers(family.twin(), with_names(family)),
        }
        for name, family in FAMILIES.items()
    }


def main() -> None:
    """Write the file."""
    transformers: Any = importlib.import_module("transformers")
    found: dict[str, Any] = {"transformers": transformers.__version__, "families": references()}
    found["llama.cpp"] = [of_llama_cpp(blank_in_front=blank) for blank in (False, True)]
    text = json.dumps(found, separators=(",", ":")).replace('"plain"', '\n"plain"').replace('"names"', '\n"names"')
    RESULT.write_text(text + "\n", encoding="utf-8")
    print(f"{RESULT.name}: {RESULT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
