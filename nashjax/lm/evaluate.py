"""A tournament of policies on prompts: its preference matrix goes straight into `nashjax.solve`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from nashjax._validation import check_integer, check_key, invalid, message, wrong_type
from nashjax.lm.judges import Judge
from nashjax.lm.judges.base import ask_rows
from nashjax.lm.policy import LanguagePolicy
from nashjax.lm.records import Rate
from nashjax.stochastic.policies import Params


class Tournament(NamedTuple):
    """Who was preferred over whom.

    Attributes:
      names: of the policies.
      preferences: `[n, n]`, how often the answer of one was preferred over that of the other; a game for
        `nashjax.solve`.
      low: lower ends of 95 % intervals, over prompts, `[n, n]`.
      high: upper ends.
      comparisons: asked of the judge, those of two equal texts among them.
      answers: of each policy, `[n][prompts][samples]`.
    """

    names: tuple[str, ...]
    preferences: np.ndarray
    low: np.ndarray
    high: np.ndarray
    comparisons: int
    answers: tuple[list[list[str]], ...]


def evaluate(
    entrants: Mapping[str, tuple[LanguagePolicy, Params]],
    prompts: Sequence[str],
    judge: Judge,
    *,
    answer_length: int,
    key: jax.Array,
    samples_per_prompt: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Tournament:
    """Let policies, such as the checkpoints of a run, answer the same prompts, and compare each with each.

    Args:
      entrants: a name for each policy and its weights, at least two; the policies may be of different models.
      prompts: texts that none of them has learnt from.
      judge: who compares.
      answer_length: most tokens of an answer.
      key: a jax random key.
      samples_per_prompt: answers of each to each prompt; those with the same number are compared.
      temperature: of the answers.
      top_p: of the answers.

    Returns:
      A `Tournament`.

    Raises:
      ValueError: an argument is not valid.
      JudgeError: the judge has failed.
      FloatingPointError: a policy's weights are no numbers.
    """
    if len(entrants) < 2:
        raise invalid("entrants", "at least two policies", str(len(entrants)))
    answer_length = check_integer("answer_length", answer_length, 1)
    samples_per_prompt = check_integer("samples_per_prompt", samples_per_prompt, 1)
    check_key("key", key)
    answers = []
    for index, (name, entrant) in enumerate(entrants.items()):
        if not (isinstance(entrant, tuple) and len(entrant) == 2 and isinstance(entrant[0], LanguagePolicy)):
            raise wrong_type(f"entrants[{name!r}]", "a pair (policy, params)", entrant)
        policy, params = entrant
        tokens = policy.encode(prompts, answer_length)
        drawn, log_prob = policy.sample(
            params,
            jax.random.fold_in(key, index),
            tokens,
            samples_per_prompt,
            answer_length,
            temperature=temperature,
            top_p=top_p,
        )
        if not np.isfinite(log_prob).all():
            subject = f"log-probabilities of the answers of entrants[{name!r}]"
            raise FloatingPointError(message(subject, "finite", "other numbers", "Its weights may be NaN."))
        answers.append(policy.decode(drawn))
    n = len(entrants)
    preferences, low, high = (np.full((n, n), 0.5) for _ in range(3))
    for i, j in itertools.combinations(range(n), 2):
        mean, lower, upper = win_rate(judge, prompts, answers[i], answers[j])
        preferences[i, j], low[i, j], high[i, j] = mean, lower, upper
        preferences[j, i], low[j, i], high[j, i] = 1 - mean, 1 - upper, 1 - lower
    comparisons = n * (n - 1) // 2 * len(prompts) * samples_per_prompt
    return Tournament(tuple(entrants), preferences, low, high, comparisons, tuple(answers))


def win_rate(
    judge: Judge, prompts: Sequence[str], answers: Sequence[Sequence[str]], opponents: Sequence[Sequence[str]]
) -> Rate:
    """How often answers `[prompts][samples]` were preferred over opponents of the same shape."""
    return Rate.of(ask_rows(judge, prompts, answers, opponents))
