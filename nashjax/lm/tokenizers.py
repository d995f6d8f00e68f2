"""From texts to tokens and back.

One file, though long: the kinds of tokenizers share the protection of special names in texts of users.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import secrets
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from nashjax._validation import invalid
from nashjax.files.errors import quoted


@runtime_checkable
class Tokenizer(Protocol):
    """What a policy needs to know of a vocabulary."""

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens."""
        ...

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """The tokens of a text.

        Args:
          text: what to encode.
          special: whether names of special tokens in it stand for these, as in a template, or are plain text, as in
            what a user has written. None are added.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, less special ones such as those that end an answer."""
        ...

    def token_id(self, name: str) -> int:
        """The token of this name.

        Raises:
          ValueError: there is none.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
    """A token for each byte of UTF-8, and `<end>` after them: nothing has to be downloaded."""

    @property
    def vocabulary_size(self) -> int:
        """257."""
        return 257

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """The bytes of the text."""
        del special
        return list(text.encode("utf-8"))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of the bytes; what is no UTF-8 becomes a replacement character."""
        return bytes(token for token in tokens if token < 256).decode("utf-8", errors="replace")

    def token_id(self, name: str) -> int:
        """256 for `<end>`, else the one byte of the name."""
        if name == "<end>":
            return 256
        if len(name.encode("utf-8")) == 1:
            return name.encode("utf-8")[0]
        raise invalid("token", "'<end>' or a single byte", quoted(name))


@dataclasses.dataclass(frozen=True)
class AlphabetTokenizer:
    """A token for each of a few characters, and `<end>` after them: for games whose answers can be listed.

    Attributes:
      alphabet: the characters, each once.
    """

    alphabet: str

    def __post_init__(self):
        if not self.alphabet or len(set(self.alphabet)) < len(self.alphabet):
            raise invalid("alphabet", "characters, each once", quoted(self.alphabet))

    @property
    def vocabulary_size(self) -> int:
        """One more than there are characters."""
        return len(self.alphabet) + 1

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """The places of the characters in the alphabet."""
        del special
        for place, character in enumerate(text):
            if character not in self.alphabet:
                raise invalid(f"text[{place}]", f"one of {quoted(self.alphabet)}", quoted(character))
        return [self.alphabet.index(character) for character in text]

    def decode(self, tokens: Sequence[int]) -> str:
        """The characters."""
        return "".join(self.alphabet[token] for token in tokens if token < len(self.alphabet))

    def token_id(self, name: str) -> int:
        """The place of a character, or the number of characters for `<end>`."""
        if name == "<end>":
            return len(self.alphabet)
        if len(name) == 1 and name in self.alphabet:
            return self.alphabet.index(name)
        raise invalid("token", f"'<end>' or one of {quoted(self.alphabet)}", quoted(name))


class LibraryTokenizer:
    """A tokenizer of the package `tokenizers`, such as `Tokenizer.from_file("tokenizer.json")`.

    Args:
      tokenizer: the tokenizer of the package. Truncation and padding are switched off in it.
    """

    def __init__(self, tokenizer: Any):
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._added = tokenizer.get_added_tokens_decoder()
        self._renamed: dict[frozenset[int], tuple[Any, dict[int, str]]] = {}
        unknown = getattr(tokenizer.model, "unk_token", None)
        self._unknown = getattr(tokenizer.model, "unk_id", None) if unknown is None else self._id(unknown)

    def _id(self, name: str) -> int | None:
        return self._tokenizer.token_to_id(name)

    @property
    def vocabulary_size(self) -> int:
        """With special tokens."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Return the tokens of a text that stands alone; see `Tokenizer.encode`."""
        if special:
            return self.encode_spans(text, ())
        self._tokenizer.encode_special_tokens = True
        found = self._tokenizer.encode(text, add_special_tokens=False).ids
        # Some models have the names of special tokens among their words.
        leaked = any(token in self._added and self._added[token].special and token != self._unknown for token in found)
        return self.encode_spans(text, ((0, len(text)),)) if leaked else found

    def encode_spans(self, text: str, spans: Sequence[tuple[int, int]], *, apart: bool = False) -> list[int]:
        """Tokenize a whole text, parts of which users have written.

        Names of special tokens stand for these, except in or across the users' parts, where they are plain text. The
        text is never cut: the tokens are those of the whole text with a tokenizer that has other names for its special
        tokens, names that no user knows.

        Args:
          text: the whole text.
          spans: first and last (exclusive) character of the users' parts, in order.
          apart: whether the text behind special tokens at its beginning is tokenized as one that stands alone.

        Raises:
          ValueError: a user's part has the name of a special token, and this tokenizer always takes it for the token.
        """
        whole = self._whole(self._tokenizer, text)
        if apart:
            count, end = self._leading(whole)
            if end:
                rest = [(a - end, b - end) for a, b in spans if a >= end]
                return whole.ids[:count] + self.encode_spans(text[end:], rest)
        control = self._control(whole, spans)
        taken = self._taken(whole, text, spans, control)
        return whole.ids if taken is None else self._protected(text, spans, control, taken)

    def encode_after(self, text: str) -> list[int]:
        """Return the tokens of a user's text that follows other text, such as an answer: no blank is put in front."""
        if self._behind("\n", "b") in (None, self.encode("b")):  # nothing is put in front of texts
            return self.encode(text)
        behind = (self._behind(before, text) for before in ("\n", "a", "."))
        return next((tokens for tokens in behind if tokens is not None), self.encode(text))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, less special ones."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True)

    def token_id(self, name: str) -> int:
        """Return the token of this name."""
        found = self._id(name)
        if found is None:
            raise invalid("token", "in the vocabulary", quoted(name))
        return found

    def name(self, token: int) -> str:
        """Return the name of a token."""
        return self._tokenizer.id_to_token(token)

    def refuse_names(self, text: str) -> None:
        """Raise ValueError if a text has the name of a special token, or could be part of one."""
        tokens = set(self._whole(self._tokenizer, text).ids)
        for token, each in self._added.items():
            name = each.content
            partial = any(text.endswith(name[:i]) or text.startswith(name[i:]) for i in range(1, len(name)))
            if name.strip() and (name in text or partial):
                raise ValueError(
                    f"text must not have {quoted(name)} or part of it at an end, because the chat template changes "
                    f"the text, got {quoted(text)}."
                )
            if each.special and token != self._unknown and token in tokens:
                raise ValueError(f"text must not be tokenized as {quoted(name)}, got {quoted(text)}.")

    def control_tokens(self, text: str) -> list[int]:
        """Return the special and other added tokens of a text in order, less blank ones and unknown characters."""
        whole, found = self._whole(self._tokenizer, text), []
        for token, (a, b) in zip(whole.ids, whole.offsets, strict=True):
            name = self._added[token].content.strip() if token in self._added else ""
            if name and (token != self._unknown or text[a:b].strip() == name):
                found.append(token)
        return found

    def _whole(self, tokenizer: Any, text: str) -> Any:
        """The encoding of a text, names of special tokens taken for these."""
        tokenizer.encode_special_tokens = False
        return tokenizer.encode(text, add_special_tokens=False)

    def _behind(self, before: str, text: str) -> list[int] | None:
        """The tokens of a text behind another one, None if tokens of both are merged."""
        ids, together = self.encode(before), self.encode(before + text)
        return together[len(ids) :] if together[: len(ids)] == ids else None

    def _leading(self, whole: Any) -> tuple[int, int]:
        """How many special tokens a text begins with, and where the last of them ends."""
        count = end = 0
        for token, (a, b) in zip(whole.ids, whole.offsets, strict=True):
            if a != end or token not in self._added or not self._added[token].special:
                break
            count, end = count + 1, b
        return count, end

    def _control(self, whole: Any, spans: Sequence[tuple[int, int]]) -> frozenset[int]:
        """Special tokens, and other added ones that stand outside of the users' parts and are not blank."""
        found = {token for token, each in self._added.items() if each.special}
        for token, offset in zip(whole.ids, whole.offsets, strict=True):
            if token in self._added and self._added[token].content.strip() and not _touches(offset, spans):
                found.add(token)
        return frozenset(found)

    def _taken(self, whole: Any, text: str, spans: Sequence[tuple[int, int]], control: frozenset[int]) -> str | None:
        """The name of the first control token in a user's part, None if there is none."""
        for token, (a, b) in zip(whole.ids, whole.offsets, strict=True):
            if token in control and _touches((a, b), spans):
                name = self.name(token)
                if token != self._unknown or text[a:b].strip() == name:  # else a character that the model has not
                    return name
        return None

    def _protected(self, text: str, spans: Sequence[tuple[int, int]], control: frozenset[int], taken: str) -> list[int]:
        """The tokens of a text in which users have written names of control tokens."""
        refused = f"text must not have {quoted(taken)}, which this tokenizer always takes for a special token"
        try:
            renamed, names = self._with_other_names(control)
        except Exception as error:  # the package raises nothing narrower
            raise ValueError(f"{refused}, got {quoted(text)} ({error}).") from error
        # The template's own names, found where nothing that a user wrote could take part in one.
        masked = _masked(text, spans)
        template = self._whole(self._tokenizer, masked)
        places = [
            (offset, names[token])
            for token, offset in zip(template.ids, template.offsets, strict=True)
            if token in control and not _touches(offset, spans) and token in self._added
        ]
        found = self._whole(renamed, _replaced(text, places))
        same = self._whole(renamed, _replaced(masked, places)).ids == template.ids
        own = [token for token in template.ids if token in control and token != self._unknown]
        if not same or own != [token for token in found.ids if token in control and token != self._unknown]:
            raise ValueError(f"{refused}, got {quoted(text)}.")
        return found.ids

    def _with_other_names(self, control: frozenset[int]) -> tuple[Any, dict[int, str]]:
        """The tokenizer with unguessable names for control tokens, and the names."""
        if control not in self._renamed:
            secret = secrets.token_hex(8)
            names = {token: f"<{secret}-{token}>" for token in control}
            other = {self.name(token): name for token, name in names.items()}
            fields = _renamed_fields(json.loads(self._tokenizer.to_str()), other)
            self._renamed[control] = type(self._tokenizer).from_str(json.dumps(fields)), names
        return self._renamed[control]


def _renamed_fields(fields: dict[str, Any], other: dict[str, str]) -> dict[str, Any]:
    """The fields of a tokenizer.json with other names of tokens."""
    for each in fields["added_tokens"]:
        each["content"] = other.get(each["content"], each["content"])
    model, fields["post_processor"] = fields["model"], None
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {other.get(name, name): token for name, token in vocabulary.items()}
    else:
        model["vocab"] = [[other.get(name, name), score] for name, score in vocabulary]
    if model.get("unk_token") is not None:
        model["unk_token"] = other.get(model["unk_token"], model["unk_token"])
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges", ())]
    if pairs:
        model["merges"] = [pair for pair in pairs if other.keys().isdisjoint((*pair, "".join(pair)))]
    return fields


def _touches(offset: tuple[int, int], spans: Sequence[tuple[int, int]]) -> bool:
    """Whether a part of a text overlaps with one of others."""
    return any(offset[0] < b and a < offset[1] for a, b in spans)


def _masked(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """The text with letters and signs of no special token in the place of the users', blanks as they are."""
    characters = list(text)
    for a, b in spans:
        for i in range(a, b):
            if not text[i].isspace():
                characters[i] = "\ua66e" if text[i].isalnum() or text[i] == "_" else "\ue0ff"
    return "".join(characters)


def _replaced(text: str, places: Sequence[tuple[tuple[int, int], str]]) -> str:
    """The text with other names in these places, and the blanks around names as they are."""
    parts, end = [], 0
    for (a, b), name in places:
        old = text[a:b]
        core = old.strip() or old
        before, after = old.split(core, 1)
        parts += [text[end:a], before, name, after]
        end = b
    return "".join([*parts, text[end:]])


def encode_text(
    tokenizer: Tokenizer,
    text: str,
    spans: Sequence[tuple[int, int]] | str | None,
    contents: Sequence[str],
    *,
    apart: bool,
) -> list[int]:
    """Tokenize a whole text; names of special tokens in the users' parts of it are plain text.

    Args:
      tokenizer: a `LibraryTokenizer`, or another one, whose tokens of a text have to be those of its parts wherever a
        user's part has the name of a special token.
      text: the whole text.
      spans: the users' parts of it. Where they are not known, the text with neutral contents in place of the users', or
        None; the special tokens of the text have to be those of the neutral one.
      contents: what users have written.
      apart: see `LibraryTokenizer.encode_spans`.

    Raises:
      ValueError: the users' text cannot be protected.
    """
    if spans is None or isinstance(spans, str):
        return _encode_unplaced(tokenizer, text, spans, contents, apart=apart)
    if isinstance(tokenizer, LibraryTokenizer):
        return tokenizer.encode_spans(text, spans, apart=apart)
    parts = [text[a:b] for a, b in spans]
    if all(tokenizer.encode(part, special=True) == tokenizer.encode(part) for part in parts):
        return tokenizer.encode(text, special=True)
    if _in_parts(tokenizer, (masked := _masked(text, spans)), spans) == tokenizer.encode(masked, special=True):
        return _in_parts(tokenizer, text, spans)
    raise _unprotected(contents)


def _encode_unplaced(
    tokenizer: Tokenizer, text: str, neutral: str | None, contents: Sequence[str], *, apart: bool
) -> list[int]:
    """Tokenize a text if no user's content, nor what the template has made of it, is a special token."""
    if isinstance(tokenizer, LibraryTokenizer):
        for content in contents:
            tokenizer.refuse_names(content)
        tokens, control = tokenizer.encode_spans(text, (), apart=apart), tokenizer.control_tokens
    else:
        if any(tokenizer.encode(content, special=True) != tokenizer.encode(content) for content in contents):
            raise _unprotected(contents)
        tokens, control = tokenizer.encode(text, special=True), functools.partial(_special_tokens, tokenizer)
    found = control(text)
    if found and neutral is None:
        requirement = "must render texts of the letter x, which show what it makes of users' texts"
        raise invalid("chat template", requirement, "an error")
    if found and neutral is not None and found != control(neutral):
        requirement = "must leave the special tokens of the chat template as they are, because the template changes it"
        advice = "Take out names of special tokens and what the template looks for."
        raise invalid("text", requirement, quoted(" ".join(contents)), advice)
    return tokens


def _unprotected(contents: Sequence[str]) -> ValueError:
    """Return the error for a text with names that a tokenizer takes for its special tokens."""
    return ValueError(
        f"text must not have names of special tokens with this tokenizer, got {quoted(' '.join(contents))}."
    )


def _special_tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a text that it has only where names of special tokens stand for these."""
    plain = set(tokenizer.encode(text))
    return [token for token in tokenizer.encode(text, special=True) if token not in plain]


def _in_parts(tokenizer: Tokenizer, text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """The tokens of the parts of a text, one after the other."""
    found, end = [], 0
    for a, b in spans:
        found += [*tokenizer.encode(text[end:a], special=True), *tokenizer.encode(text[a:b])]
        end = b
    return [*found, *tokenizer.encode(text[end:], special=True)]
