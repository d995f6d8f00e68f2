"""What a judge is, and how one is asked: no question twice, no answer unchecked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from nashjax._validation import check_texts, invalid, message, real_numbers_or_none, wrong_type
from nashjax.files.errors import quoted

SHOWN = 200  # characters of a text in a message

Question = tuple[str, str, str]


class JudgeError(RuntimeError):
    """An answer that cannot be used or could not be had; the message says what was asked and what came back."""


@runtime_checkable
class Judge(Protocol):
    """Whatever can say which of two texts is preferred.

    A judge has no memory that changes its answers: the same question has the same answer, today and after a restart.
    A run that is resumed repeats one that was not interrupted only with such a judge.
    """

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], opponents: Sequence[str], /) -> ArrayLike:
        """Compare texts, `k` pairs at once.

        Args:
          prompts: what the texts answer, `k` of them.
          responses: the texts asked about.
          opponents: the texts that they are compared with.

        Returns:
          `[k]` numbers in [0, 1]: the probability that each response is preferred over its opponent.
        """
        ...


def ask(judge: Judge, prompts: Sequence[str], responses: Sequence[str], opponents: Sequence[str]) -> np.ndarray:
    """The answers of a judge, checked; within one call exactly antisymmetric.

    Two equal texts count 1/2 and are never asked. Equal questions are asked once, and so are a question and its
    reverse. Nothing else is ever filled in.

    Args:
      judge: a `Judge`.
      prompts: `k` texts.
      responses: `k` texts.
      opponents: `k` texts.

    Returns:
      float64 `[k]`: the probability that each response is preferred over its opponent.

    Raises:
      JudgeError: an answer that is no number from 0 to 1, or anything that the judge raised.
    """
    distinct: dict[Question, int] = {}
    asked: list[int] = []  # the places of the questions that need an answer
    source: list[int] = []  # where among the distinct ones it is found
    reverse: list[bool] = []
    for place, question in enumerate(as_questions(prompts, responses, opponents)):
        prompt, response, opponent = question
        if response == opponent:
            continue
        known = distinct.get((prompt, opponent, response))
        asked.append(place)
        reverse.append(known is not None)
        source.append(distinct.setdefault(question, len(distinct)) if known is None else known)
    outcome = np.full(len(prompts), 0.5)
    if distinct:
        answers = _checked(judge, list(distinct))[source]
        outcome[asked] = np.where(reverse, 1 - answers, answers)
    return outcome


def as_questions(prompts: Sequence[str], responses: Sequence[str], opponents: Sequence[str]) -> list[Question]:
    """The questions one by one; raises ValueError unless these are three lists of texts, equally long."""
    named = {"prompts": prompts, "responses": responses, "opponents": opponents}
    for name, texts in named.items():
        check_texts(name, texts)
        if len(texts) != len(prompts):
            raise invalid(name, f"must have {len(prompts)} texts, as many as prompts", str(len(texts)))
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise wrong_type(f"{name}[{i}]", "a string", text)
    return list(zip(prompts, responses, opponents, strict=True))


def describe(question: Question) -> str:
    """One question in words, safe to print: its texts cut short, their control characters made visible."""
    prompt, response, opponent = (quoted(text, SHOWN) for text in question)
    return f"whether {response} is preferred over {opponent} for the prompt {prompt}"


def ask_rows(
    judge: Judge, prompts: Sequence[str], answers: Sequence[Sequence[str]], opponents: Sequence[Sequence[str]]
) -> np.ndarray:
    """As `ask`, of answers `[prompts][num]` and as many opponents: float64 `[prompts, num]`."""
    num = len(answers[0])
    asked = [prompt for prompt in prompts for _ in range(num)]
    ours, theirs = ([text for row in rows for text in row] for rows in (answers, opponents))
    return ask(judge, asked, ours, theirs).reshape(len(prompts), num)


def described(questions: Sequence[Question]) -> str:
    """Several questions in words."""
    return f"{len(questions)} questions, the first {describe(questions[0])}"


def _checked(judge: Judge, questions: list[Question]) -> np.ndarray:
    """The answers to distinct questions, float64, finite and in [0, 1]."""
    try:
        answer = judge(*([question[i] for question in questions] for i in range(3)))
    except JudgeError:
        raise
    except Exception as error:  # whatever a user's judge does wrong
        raise JudgeError(message("judge", f"must answer {described(questions)}", raised(error))) from error
    outcome = as_numbers(answer, len(questions), f"answer of the judge to {described(questions)}")
    bad = ~((outcome >= 0) & (outcome <= 1))
    if bad.any():
        i = int(np.argmax(bad))
        raise no_probability(questions[i], str(float(outcome[i])))
    return outcome


def raised(error: Exception) -> str:
    """Describe an error of a user's function in a message."""
    return f"the error {type(error).__name__}: {quoted(str(error), SHOWN)}"


def no_probability(question: Question, got: str) -> JudgeError:
    """Return the error for an answer to a question that is not a probability."""
    return JudgeError(message(f"answer of the judge to {describe(question)}", "a number from 0 to 1", got))


def as_numbers(answer: Any, num: int, subject: str) -> np.ndarray:
    """Return what a user's function returned as float64 `[num]`; raises JudgeError, which calls it `subject`."""
    outcome = real_numbers_or_none(answer)
    if outcome is None:
        raise JudgeError(message(subject, f"an array of {num} numbers", quoted(repr(answer), SHOWN)))
    if outcome.shape != (num,):
        raise JudgeError(message(subject, f"an array of {num} numbers", f"shape {list(outcome.shape)}"))
    return outcome


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The logistic function; `sigmoid(x) + sigmoid(-x)` is 1 to the last bit, as 1 - p is exact for p >= 1/2."""
    larger = 1 / (1 + np.exp(-np.abs(x)))
    return np.where(x >= 0, larger, 1 - larger)
