"""A language model as a policy: texts in, answers out, pure functions of the weights that are trained."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence, Sized
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nashjax._validation import check_integer, check_number, check_positive, invalid, shown, wrong_type
from nashjax.files.errors import quoted
from nashjax.lm.chat import ChatTemplate, Rendered, renderings
from nashjax.lm.decoding import Decoder, Tokens, generate, log_probs
from nashjax.lm.tokenizers import LibraryTokenizer, Tokenizer, encode_text
from nashjax.stochastic.policies import Params

PROMPT_STEP = 16
"""Prompts are padded to a multiple of so many tokens: texts of other lengths seldom compile anything new."""


@dataclasses.dataclass(frozen=True)
class LanguagePolicy:
    """A language model, its tokenizer and its first weights, which are the reference of a fine-tuning.

    With adapters, `params` are those alone, and all policies of a run share the frozen weights of the decoder.

    Attributes:
      decoder: the model.
      params: the first weights.
      tokenizer: from texts to tokens and back.
      context_length: most tokens of a prompt with its answer.
      stop: names of the tokens that end an answer; none, and all answers have full length.
      forbidden: names of tokens that are never drawn, such as those of the alphabet that only prompts have.
      template: the text around a prompt, with `{prompt}` where it stands, or the `ChatTemplate` of the model. The whole
        text is tokenized at once. In the prompt, names of special tokens are plain text.

    Raises:
      TypeError: the template is neither a text nor a `ChatTemplate`.
      ValueError: the tokenizer has no token of such a name, one of the names is twice, or the template has no
        `{prompt}` or several.
    """

    decoder: Decoder
    params: Params
    tokenizer: Tokenizer
    context_length: int
    stop: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    template: str | ChatTemplate = "{prompt}"

    def __post_init__(self):
        check_integer("context_length", self.context_length, 2)
        for name, tokens in (("stop", self.stop), ("forbidden", self.forbidden)):
            if isinstance(tokens, str):
                raise wrong_type(name, "a tuple of names of tokens", tokens, "Put the name in a tuple.")
            if len(set(tokens)) < len(tokens):
                raise invalid(name, "a tuple of different names", shown(tokens))
            for token in tokens:
                try:
                    self.tokenizer.token_id(token)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error
        both = set(self.stop) & set(self.forbidden)
        if both:
            raise invalid("forbidden", "a tuple of tokens that are not in stop", quoted(min(both)))
        if not isinstance(self.template, (str, ChatTemplate)):
            raise wrong_type("template", "a text with '{prompt}' or a ChatTemplate", self.template)
        if isinstance(self.template, str) and self.template.count("{prompt}") != 1:
            raise invalid("template", "a text with '{prompt}' in it once", quoted(repr(self.template)))

    @functools.cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer."""
        return tuple(self.tokenizer.token_id(name) for name in self.stop)

    @functools.cached_property
    def bias(self) -> jax.Array | None:
        """`-inf` for the tokens that are never drawn, `[vocabulary]`; None where all are."""
        if not self.forbidden:
            return None
        bias = np.zeros(self.tokenizer.vocabulary_size, np.float32)
        bias[[self.tokenizer.token_id(name) for name in self.forbidden]] = -np.inf
        return jnp.asarray(bias)

    def encode(self, prompts: Sequence[str], length: int, *, name: str = "prompts") -> Tokens:
        """Prompts as tokens, padded on the left, `[prompts, width]`.

        Args:
          prompts: texts, which the template is put around.
          length: most tokens of the answers, for which there has to be room.
          name: what an error calls the prompts.

        Raises:
          TypeError: a prompt is not a text.
          ValueError: a prompt has no token, or there is no room for it, or the template or the tokenizer refuses it.
        """
        if isinstance(prompts, str) or not isinstance(prompts, Sized):
            raise wrong_type(name, "a list of strings", prompts)
        if not len(prompts):
            raise invalid(name, "a list of at least one string", shown(prompts))
        if length >= self.context_length:
            raise invalid("length of answers", f"less than the context, {self.context_length} tokens", str(length))
        for index, prompt in enumerate(prompts):
            if not isinstance(prompt, str):
                raise wrong_type(f"{name}[{index}]", "a text", prompt)
        rows = []
        rendered = renderings(self.template, prompts)
        for index in range(len(prompts)):
            tokens = self._tokens(rendered, f"{name}[{index}]")
            if not 1 <= len(tokens) <= self.context_length - length:
                raise invalid(
                    f"{name}[{index}]",
                    f"must have 1 to {self.context_length - length} tokens, the context of {self.context_length} less "
                    f"{length} for an answer",
                    str(len(tokens)),
                )
            rows.append(tokens)
        longest = max(map(len, rows))
        width = longest if longest <= PROMPT_STEP // 4 else -(-longest // PROMPT_STEP) * PROMPT_STEP
        width = min(width, self.context_length - length)
        tokens = np.zeros((len(rows), width), np.int32)
        mask = np.zeros((len(rows), width), bool)
        for row, found in enumerate(rows):
            tokens[row, width - len(found) :] = found
            mask[row, width - len(found) :] = True
        return Tokens(jnp.asarray(tokens), jnp.asarray(mask))

    def _tokens(self, rendered: Iterator[Rendered], name: str) -> list[int]:
        """Tokenize the next prompt; a ValueError calls it by `name`."""
        try:
            one = next(rendered)
            apart = isinstance(self.template, str)
            return encode_text(self.tokenizer, one.text, one.spans, one.contents, apart=apart)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def encode_answers(self, answers: Sequence[Sequence[str]], length: int) -> Tokens:
        """Answers as tokens, padded on the right, `[prompts, num, length]`; one shorter than `length` is ended.

        Raises:
          ValueError: an answer is longer, or shorter and there is no stop token, or one prompt has more than another.
        """
        num = len(answers[0]) if len(answers) else 0
        for prompt, found in enumerate(answers):
            if isinstance(found, str):
                raise wrong_type(f"answers[{prompt}]", "a list of strings", found)
            if len(found) != num or not num:
                requirement = f"a list of {num or 'at least one'} strings, as many as for the other prompts"
                raise invalid(f"answers[{prompt}]", requirement, shown(found))
        rows = np.zeros((len(answers), num, length), np.int32)
        mask = np.zeros(rows.shape, bool)
        tokenizer = self.tokenizer
        encode_after = tokenizer.encode_after if isinstance(tokenizer, LibraryTokenizer) else tokenizer.encode
        for index in np.ndindex(rows.shape[:2]):
            prompt, number = index
            tokens = encode_after(str(answers[prompt][number]))
            if len(tokens) < length and self.stop_ids:
                tokens = [*tokens, self.stop_ids[0]]
            elif len(tokens) != length:
                requirement = f"must have {'at most' if self.stop_ids else 'exactly'} {length} tokens"
                raise invalid(f"answers{list(index)}", requirement, str(len(tokens)))
            rows[index][: len(tokens)] = tokens
            mask[index][: len(tokens)] = True
        return Tokens(jnp.asarray(rows), jnp.asarray(mask))

    def decode(self, answers: Tokens) -> list[list[str]]:
        """Answers as texts, `[prompts][num]`, without their stop tokens."""
        tokens, mask = np.asarray(answers.tokens), np.asarray(answers.mask)
        stop = set(self.stop_ids)

        def text(row: np.ndarray, counts: np.ndarray) -> str:
            return self.tokenizer.decode([int(token) for token in row[counts] if int(token) not in stop])

        return [[text(*one) for one in zip(*prompt, strict=True)] for prompt in zip(tokens, mask, strict=True)]

    def sample(
        self,
        params: Params,
        key: jax.Array,
        prompts: Tokens,
        num: int,
        length: int,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        reference_share: float = 0.0,
    ) -> tuple[Tokens, jax.Array]:
        """Draw `num` answers of at most `length` tokens to each prompt; see `generate`.

        Args:
          params: the weights of the policy.
          key: a jax random key.
          prompts: `[prompts, width]`.
          num: answers to each prompt.
          length: most tokens of an answer, its stop token among them.
          temperature: divides the logits of what is drawn, >= 0; 0 takes the likeliest token.
          top_p: draw from the fewest tokens that have this probability together, in (0, 1].
          reference_share: share of the reference in a geometric mixture, token by token.

        Returns:
          Answers `[prompts, num, length]`, and their log-probabilities `[prompts, num]` at temperature 1.
        """
        check_integer("num", num, 1)
        check_integer("length", length, 1)
        check_number("temperature", temperature)
        check_positive("top_p", top_p, 1)
        check_number("reference_share", reference_share, 0, 1)
        return _generate(
            self.decoder,
            mixture(params, self.params, reference_share),
            key,
            prompts,
            num=num,
            length=length,
            stop=self.stop_ids,
            bias=self.bias,
            temperature=float(temperature),
            top_p=float(top_p),
        )

    def log_probs(
        self, params: Params, prompts: Tokens, answers: Tokens, *, reference_share: jax.Array | float = 0.0
    ) -> jax.Array:
        """Log-probabilities of answers `[prompts, num, length]`, stop tokens included: `[prompts, num]`."""
        members = mixture(params, self.params, reference_share)
        return jnp.sum(_log_probs(self.decoder, members, prompts, answers, bias=self.bias), axis=-1)


def mixture(params: Params, reference: Params, share: jax.Array | float) -> list[tuple[Params, jax.Array | float]]:
    """The members of a geometric mixture with the reference; one alone where the share is known to be 0 or 1."""
    if not isinstance(share, jax.Array) and share in (0, 1):
        return [(reference if share else params, 1.0)]
    return [(params, 1.0 - share), (reference, share)]


_generate: Any = jax.jit(generate, static_argnames=("num", "length", "stop", "temperature", "top_p"))
_log_probs: Any = jax.jit(log_probs)
