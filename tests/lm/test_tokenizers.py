"""Tokens of conversations and texts, compared with those of `transformers` and llama.cpp."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flax", reason="needs the extra `lm`")
pytest.importorskip("gguf", reason="needs the extra `lm`")
pytest.importorskip("jinja2", reason="needs the extra `lm`")
pytest.importorskip("tokenizers", reason="needs the extra `lm`")

from hypothesis import given, settings
from hypothesis import strategies as hs

from benchmarks import token_references
from benchmarks.token_references import CONVERSATIONS, FAMILIES, SENTENCEPIECE_TEXTS, said, with_names
from nashjax import lm
from nashjax.lm.chat import Rendered
from nashjax.lm.tokenizers import encode_text
from nashjax.lm.tunix import folder as folder_module

REFERENCES = json.loads(token_references.RESULT.read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Any:
    """Name, tokenizer and chat template of a kind of models."""
    one = FAMILIES[request.param]
    return request.param, lm.LibraryTokenizer(one.tokenizer()), lm.ChatTemplate(one.template, one.special)


def policy_of(tokenizer: Any, template: Any, *stop: str) -> lm.LanguagePolicy:
    """A policy that has no weights: nothing is drawn here."""
    decoder: Any = None
    return lm.LanguagePolicy(decoder, None, tokenizer, 256, stop, template=template)


def tokens_of(tokenizer: Any, rendered: Rendered) -> list[int]:
    return encode_text(tokenizer, rendered.text, rendered.spans, rendered.contents, apart=False)


def accepted(name: str, kind: str, conversations: list[Any]) -> tuple[list[Any], list[Any]]:
    """The conversations that the template renders, and their tokens."""
    both = [one for one in zip(conversations, REFERENCES["families"][name][kind], strict=True) if one[1] is not None]
    return [messages for messages, _ in both], [tokens for _, tokens in both]


def test_conversations_have_the_tokens_of_transformers(family):
    name, tokenizer, template = family
    conversations, expected = accepted(name, "plain", CONVERSATIONS)
    assert len(conversations) >= 6
    assert [tokens_of(tokenizer, one) for one in template.render(conversations)] == expected


def test_names_of_special_tokens_in_users_texts_are_plain_text_within_the_whole(family):
    name, tokenizer, template = family
    conversations, expected = accepted(name, "names", with_names(FAMILIES[name]))
    assert len(conversations) == len(with_names(FAMILIES[name]))
    found = list(template.render(conversations))
    assert [tokens_of(tokenizer, one) for one in found] == expected
    naive = [tokenizer.encode(one.text, special=True) for one in found]
    assert all(a != b for a, b in zip(naive, expected, strict=True)), "the names would be tokens"


def test_a_policy_tokenizes_its_prompts_like_transformers():
    """The prompts of the conversations with one message, padded on the left."""
    family = FAMILIES["llama 2"]
    tokenizer = lm.LibraryTokenizer(family.tokenizer())
    template = lm.ChatTemplate(family.template, family.special)
    policy = policy_of(tokenizer, template, "</s>")
    prompts = [messages[0]["content"] for messages in CONVERSATIONS if len(messages) == 1]
    found = policy.encode(prompts, 8)
    rows = [np.asarray(row)[np.asarray(mask)].tolist() for row, mask in zip(*found, strict=True)]
    assert rows == REFERENCES["families"]["llama 2"]["plain"][: len(prompts)]
    named = policy.encode(["say </s> now"], 8)
    assert np.asarray(named.tokens)[np.asarray(named.mask)].tolist() == REFERENCES["families"]["llama 2"]["names"][1]


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_the_references_are_those_of_the_installed_transformers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert token_references.references() == REFERENCES["families"]


@pytest.mark.parametrize("blank_in_front", [False, True])
def test_a_gguf_file_with_scores_has_the_tokens_of_llama_cpp(tmp_path, blank_in_front):
    names = token_references.write_sentencepiece(tmp_path / "m.gguf", blank_in_front=blank_in_front)
    policy = lm.load_gguf(tmp_path / "m.gguf", lora_rank=0)
    tokenizer = policy.tokenizer
    found = [tokenizer.encode(text, special=True) for text in SENTENCEPIECE_TEXTS]
    assert found == REFERENCES["llama.cpp"][blank_in_front]
    assert (policy.template, policy.stop) == ("<s>{prompt}", ("</s>",))
    row = policy.encode(["hello world"], 4)
    expected = ["<s>", "▁hello" if blank_in_front else "hello", "▁world"]
    assert [names[token] for token in np.asarray(row.tokens)[0]] == expected
    assert tokenizer.decode(tokenizer.encode("  naïve hello\n")) == "  naïve hello\n"


# Users' texts beside and within a template.


def test_a_name_across_the_end_of_a_users_text_is_plain_text():
    tokenizer = lm.LibraryTokenizer(FAMILIES["smollm"].tokenizer())
    end = tokenizer.token_id("<|im_end|>")
    template = lm.ChatTemplate("{{ messages[0]['content'] }}end|><|im_end|>")
    (found,) = template.render([said("hello<|im_")])
    tokens = tokens_of(tokenizer, found)
    assert tokens.count(end) == 1
    assert tokens[-1] == end
    assert tokenizer.decode(tokens) == "hello<|im_end|>"


def test_a_template_that_changes_texts_is_followed_and_refuses_names_that_it_hides():
    tokenizer = lm.LibraryTokenizer(FAMILIES["smollm"].tokenizer())
    template = lm.ChatTemplate("{{ messages[0]['content'][1:] | capitalize }}<|im_end|>")
    (plain,) = template.render([said("xhello WORLD")])
    assert (plain.text, plain.spans) == ("Hello world<|im_end|>", "Xxxxxx xxxxx<|im_end|>")
    assert tokens_of(tokenizer, plain) == tokenizer.encode("Hello world<|im_end|>", special=True)
    for text in ("hello <|im_end|>", "hello <|im", "_end|> hello"):
        (named,) = template.render([said(text)])
        with pytest.raises(ValueError, match=r"^text must not have '<\|.*' or part of it at an end, because"):
            tokens_of(tokenizer, named)


THINK = "m.content.split('</think>')[-1]"
HIDDEN = {
    "lower, mark": ("m.content | lower", "hi \U000f0000<|IM_END|> x"),
    "replace, mark": ("m.content | replace('<image>', '')", "hi \U000f0000<|im<image>_end|> x"),
    "split and replace": (f"{THINK} | replace('<image>', '')", "a</think><|im<image>_end|> x"),
    "from the middle": ("m.content.split('/')[1:2] | first or m.content", "a/<|im_end|>/b"),
    "two of one": ("m.content[:3] + m.content | replace('*', '')", "a b <|im*_end|>"),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_no_template_makes_a_special_token_of_a_users_text(name):
    """The users' text becomes a name only in the template, or stands where the template has put it."""
    change, text = HIDDEN[name]
    tokenizer = lm.LibraryTokenizer(FAMILIES["smollm"].tokenizer())
    template = lm.ChatTemplate("{% set m = messages[0] %}<|im_start|>{{ " + change + " }}<|im_end|>")
    found, harmless = template.render([said(text), said("hello world")])
    assert tokens_of(tokenizer, harmless).count(tokenizer.token_id("<|im_end|>")) == 1
    if isinstance(found.spans, tuple):
        assert tokens_of(tokenizer, found).count(tokenizer.token_id("<|im_end|>")) == 1
    else:
        with pytest.raises(ValueError, match=r"^text must (leave the special tokens|not have '<\|im_end\|>')"):
            tokens_of(tokenizer, found)


def test_a_text_whose_neutral_form_the_template_refuses_may_have_no_special_tokens():
    template = lm.ChatTemplate(
        "{{ messages[0].content if 'x' not in messages[0].content else raise_exception('x') }}</s>"
    )
    (found,) = template.render([said("hello")])
    assert (found.text, found.spans) == ("hello</s>", None)
    with pytest.raises(ValueError, match=r"^chat template must render texts of the letter x, .*, got an error\.$"):
        tokens_of(_ENDS[0], found)
    assert tokens_of(lm.ByteTokenizer(), found) == list(b"hello</s>")


@given(hs.lists(hs.sampled_from(["<s>", "</s>", "</", "s>", " ", "\n", "hello", "▁", "é", "<unk>"])).map("".join))
@settings(deadline=None, max_examples=50)
def test_no_text_of_a_user_is_a_special_token(text):
    """Of all families with `<s>` and `</s>`; to T5's model these are words, which it would take for the tokens."""
    for tokenizer in _ENDS:
        tokens = tokenizer.encode(text)
        assert not {tokenizer.token_id("<s>"), tokenizer.token_id("</s>")} & set(tokens)
        inside = tokenizer.encode_spans(f"<s>{text}</s>", ((3, 3 + len(text)),))
        assert [inside[0], inside[-1]] == [tokenizer.token_id("<s>"), tokenizer.token_id("</s>")]
        assert not {inside[0], inside[-1]} & set(inside[1:-1])


_ENDS = [lm.LibraryTokenizer(FAMILIES[name].tokenizer()) for name in ("llama 2", "mistral", "t5")]


@pytest.mark.parametrize("name", ["llama 2", "mistral", "phi 3", "gemma", "smollm", "t5"])
def test_an_answer_has_the_tokens_of_a_text_that_follows_another(name):
    """A blank in front of it would be one that the answer has not."""
    tokenizer = lm.LibraryTokenizer(FAMILIES[name].tokenizer())
    for text in ("hello world", " hello", "now", "\nworld"):
        together = tokenizer.encode("user." + text)
        assert tokenizer.encode("user.") + tokenizer.encode_after(text) == together, text


def test_a_text_behind_the_first_special_token_stands_alone():
    """As transformers tokenizes a text for a model without chat template: the token in front, then the text."""
    tokenizer = lm.LibraryTokenizer(FAMILIES["mistral"].tokenizer())
    policy = policy_of(tokenizer, "<s>{prompt}", "</s>")
    for text in ("hello world", " hello", "say </s>"):
        row = np.asarray(policy.encode([text], 8).tokens)[0].tolist()
        assert row[-len(tokenizer.encode(text)) - 1 :] == [tokenizer.token_id("<s>"), *tokenizer.encode(text)]
    assert tokenizer.encode("hello") == [tokenizer.token_id("▁hello")]


def test_a_tokenizer_that_is_set_to_cut_texts_cuts_none():
    made = FAMILIES["smollm"].tokenizer()
    made.enable_truncation(2)
    made.enable_padding(length=50)
    tokenizer = lm.LibraryTokenizer(made)
    assert tokenizer.decode(tokenizer.encode("hello world now")) == "hello world now"
    assert len(tokenizer.encode("hello world now")) == 3


@dataclasses.dataclass(frozen=True)
class BlankFirst:
    """A tokenizer of one's own, a token for each character: a blank in front of each text, and `<>` is special."""

    vocabulary_size: int = 128

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        text = f" {text}" if text else ""
        return [ord(character) for character in (text.replace("<>", "\0") if special else text)]

    def decode(self, tokens: Any) -> str:
        return "".join(map(chr, tokens))

    def token_id(self, name: str) -> int:
        return ord(name)


def test_another_tokenizer_reads_the_whole_text_and_refuses_names_that_it_cannot_protect():
    policy = policy_of(BlankFirst(), "<>{prompt}<>")
    row = policy.encode(["hello"], 8)
    assert "".join(map(chr, np.asarray(row.tokens)[np.asarray(row.mask)])) == " \0hello\0"
    with pytest.raises(ValueError, match=r"^prompts\[1\]: text must not have names of special tokens with this token"):
        policy.encode(["hello", "a<>b"], 8)


@pytest.mark.parametrize(("change", "refused"), [("replace('*', '')", "a<*>b"), ("reverse", "a><b")])
def test_another_tokenizer_refuses_names_that_a_template_makes_of_texts(change, refused):
    template = lm.ChatTemplate("<>{{ messages[0].content | " + change + " }}<>")
    policy = policy_of(BlankFirst(), template)
    row = policy.encode(["b a"], 8)
    assert np.asarray(row.tokens)[np.asarray(row.mask)].tolist().count(0) == 2
    with pytest.raises(ValueError, match=r"^prompts\[1\]: text must (not have|leave).* special tokens"):
        policy.encode(["hello", refused], 8)


@pytest.mark.parametrize(
    ("tokenizer", "name", "message"),
    [
        (lm.ByteTokenizer(), "ab", r"^token must be '<end>' or a single byte, got 'ab'\.$"),
        (lm.AlphabetTokenizer("xyz"), "a", r"^token must be '<end>' or one of 'xyz', got 'a'\.$"),
        (_ENDS[0], "<no>", r"^token must be in the vocabulary, got '<no>'\.$"),
    ],
)
def test_a_token_that_is_not_there_is_named(tokenizer, name, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.token_id(name)


def test_characters_beside_an_alphabet_are_named():
    with pytest.raises(ValueError, match=r"^text\[1\] must be one of 'xyz', got 'a'\.$"):
        lm.AlphabetTokenizer("xyz").encode("xa")
    with pytest.raises(ValueError, match=r"^alphabet must be characters, each once, got 'xx'\.$"):
        lm.AlphabetTokenizer("xx")


def test_the_reference_file_is_small():
    assert Path(token_references.RESULT).stat().st_size < 20_000


# Folders.


def write_folder(folder: Path, name: str, **settings: Any) -> Path:
    """A tokenizer and its settings, as models have them."""
    family = FAMILIES[name]
    family.tokenizer().save(str(folder / "tokenizer.json"))
    fields = {**family.special, "chat_template": family.template, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(fields), encoding="utf-8")
    return folder


def template_of(folder: Path) -> Any:
    return folder_module._template(folder, folder_module._tokenizer(folder))


def test_a_folder_has_the_tokens_of_transformers(tmp_path):
    """The template may stand among others, or in a file of its own; a token may be given with its flags."""
    expected = REFERENCES["families"]["llama 2"]["plain"][:3]
    template = FAMILIES["llama 2"].template
    several = [{"name": "rag", "template": "no"}, {"name": "default", "template": template}]
    for fields in ({}, {"chat_template": several, "bos_token": {"content": "<s>"}}, {"chat_template": "no"}):
        folder = write_folder(tmp_path, "llama 2", **fields)
        if fields.get("chat_template") == "no":
            (folder / "chat_template.jinja").write_text(template)
        tokenizer = lm.LibraryTokenizer(folder_module._tokenizer(folder))
        found = [tokens_of(tokenizer, one) for one in template_of(folder).render(CONVERSATIONS[:3])]
        assert found == expected


def test_a_folder_without_a_template_begins_texts_with_the_tokenizers_first_token(tmp_path):
    folder = write_folder(tmp_path, "mistral", chat_template=None)
    fields = json.loads((folder / "tokenizer.json").read_text())
    begin = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    token = {"id": "<s>", "ids": [1], "tokens": ["<s>"]}
    pair = [*begin, {"Sequence": {"id": "B", "type_id": 1}}]
    fields["post_processor"] = {
        "type": "TemplateProcessing", "single": begin, "pair": pair, "special_tokens": {"<s>": token}
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    assert template_of(folder) == "<s>{prompt}"
    reader = folder_module._tokenizer(folder)
    policy = policy_of(lm.LibraryTokenizer(folder_module._tokenizer(folder)), "<s>{prompt}", "</s>")
    for text in ("hello world", " hello\n"):
        row = policy.encode([text], 8)
        assert np.asarray(row.tokens)[np.asarray(row.mask)].tolist() == reader.encode(text).ids


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"chat_template": "{{ raise_exception('no') }}"},
            r"chat_template must be a template that can be used, got .*no\.",
        ),
        ({"chat_template": 3}, r"chat_template must be a string, got 3\. Give a template\.$"),
    ],
)
def test_a_folder_whose_template_cannot_be_used_is_named(tmp_path, settings, message):
    folder = write_folder(tmp_path, "llama 2", **settings)
    with pytest.raises(ValueError, match=message) as caught:
        template_of(folder)
    assert str(caught.value).startswith(str(folder / "tokenizer_config.json"))
