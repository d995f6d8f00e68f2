"""From texts to tokens and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable


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
        raise ValueError(f"token: is {name!r}; allowed are '<end>' and single bytes")


@dataclasses.dataclass(frozen=True)
class AlphabetTokenizer:
    """A token for each of a few characters, and `<end>` after them: for games whose answers can be listed.

    Attributes:
      alphabet: the characters, each once.
    """

    alphabet: str

    def __post_init__(self):
        if not self.alphabet or len(set(self.alphabet)) < len(self.alphabet):
            raise ValueError(f"alphabet: is {self.alphabet!r}; allowed are characters, each once")

    @property
    def vocabulary_size(self) -> int:
        """One more than there are characters."""
        return len(self.alphabet) + 1

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """The places of the characters in the alphabet."""
        del special
        for place, character in enumerate(text):
            if character not in self.alphabet:
                raise ValueError(f"text: {text!r} has {character!r} at {place}; allowed are {self.alphabet!r}")
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
        raise ValueError(f"token: is {name!r}; allowed are '<end>' and the characters of {self.alphabet!r}")


class LibraryTokenizer:
    """A tokenizer of the package `tokenizers`, such as `Tokenizer.from_file("tokenizer.json")`."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer

    @property
    def vocabulary_size(self) -> int:
        """With special tokens."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """The tokens of a text; see `Tokenizer.encode`."""
        self._tokenizer.encode_special_tokens = not special
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, less special ones."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True)

    def token_id(self, name: str) -> int:
        """The token of this name."""
        found = self._tokenizer.token_to_id(name)
        if found is None:
            raise ValueError(f"token: is {name!r}; allowed are those of the vocabulary")
        return found

    def name(self, token: int) -> str:
        """The name of a token."""
        return self._tokenizer.id_to_token(token)


def chat_template(template: str, first: str = "", end: str = "") -> str:
    """A jinja chat template as the text around one prompt of a user.

    Args:
      template: a program.
      first: name of the token that begins a text, as the template may want it.
      end: of the one that ends it.
    """
    if "{prompt}" in template:
        return template
    try:
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise ImportError(f'chat templates need {error.name}: python -m pip install "nashjax[lm]"') from error
    messages = [{"role": "user", "content": "{prompt}"}]
    try:
        read = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template)
        rendered = read.render(messages=messages, add_generation_prompt=True, bos_token=first, eos_token=end)
    except Exception as error:  # a template is a program
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if "{prompt}" not in rendered:
        raise ValueError("it leaves out the prompt")
    return rendered
