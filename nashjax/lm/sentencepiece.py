"""Tokenizer of GGUF files of the "llama" kind: SentencePiece's byte-pair encoding, as of Llama 2 and Mistral."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nashjax.lm.gguf_header import GGUFHeader
from nashjax.lm.tokenizers import LibraryTokenizer

MOST_CHARACTERS = 2**22
"""Limit of the characters of all tokens: those of 262,144 tokens of 16, SentencePiece's limit of a token by default."""
MOST_MERGES = 2**21
"""Limit of the merges; vocabularies of 262,144 tokens have some 600,000."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
"""Kinds of tokens in a GGUF file."""


def sentencepiece_tokenizer(header: GGUFHeader, tokens: Mapping[str, int], kinds: Sequence[int]) -> LibraryTokenizer:
    """Return the tokenizer of a GGUF file that has scores of tokens instead of merges.

    Args:
      header: the header of the file.
      tokens: the number of each token.
      kinds: the kind of each token.

    Raises:
      BadInput: the scores are missing or not finite numbers, one for each token, or the tokens are too long or have
        too many merges.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    scores = header.fields.get("tokenizer.ggml.scores")
    if not isinstance(scores, np.ndarray) or scores.shape != (len(tokens),) or scores.dtype.kind not in "fiu":
        raise header.fault("tokenizer.ggml.scores", f"an array of {len(tokens)} numbers", _shown(scores))
    if not np.isfinite(scores).all():
        index = int(np.argmin(np.isfinite(scores)))
        raise header.fault(f"tokenizer.ggml.scores[{index}]", "finite", str(float(scores[index])))
    of_kind = {kind: [name for name, each in zip(tokens, kinds, strict=True) if each == kind] for kind in range(7)}
    pieces = {name: float(scores[tokens[name]]) for name in of_kind[NORMAL] + of_kind[USER_DEFINED]}
    if sum(map(len, pieces)) > MOST_CHARACTERS:
        got = f"{sum(map(len, pieces))}"
        raise header.fault("tokenizer.ggml.tokens", f"of at most {MOST_CHARACTERS} characters together", got)
    merges = merges_of_scores(pieces)
    if len(merges) > MOST_MERGES:
        raise header.fault("tokenizer.ggml.tokens", f"tokens with at most {MOST_MERGES} merges", "more")
    unknown = of_kind[UNKNOWN][0] if of_kind[UNKNOWN] else None
    model = models.BPE(dict(tokens), merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    made: Any = Tokenizer(model)
    prefix = header.flag("tokenizer.ggml.add_space_prefix", default=True)
    blanks = normalizers.Replace(" ", "▁")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), blanks]) if prefix else blanks
    parts: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence(parts + ([decoders.Strip(" ", 1, 0)] if prefix else []))
    special = of_kind[UNKNOWN] + of_kind[CONTROL]
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    made.add_tokens([AddedToken(name, normalized=False) for name in of_kind[USER_DEFINED]])
    return LibraryTokenizer(made)


def merges_of_scores(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return the merges of pieces into pieces, those with the highest score of the whole first.

    At most one more than `MOST_MERGES` are looked for.
    """
    every = (
        (score, end, len(piece) - end, piece)
        for piece, score in scores.items()
        for end in range(1, len(piece))
        if piece[:end] in scores and piece[end:] in scores
    )
    found = list(itertools.islice(every, MOST_MERGES + 1))
    found.sort(key=lambda one: one[:3], reverse=True)
    return [(piece[:end], piece[end:]) for _, end, _, piece in found]


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} of length {np.size(value)}"
