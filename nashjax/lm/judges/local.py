"""Judges that answer in this process: Python functions, rewards, known matrices, and one for demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nashjax import _validation
from nashjax._validation import check_positive, invalid, message, wrong_type
from nashjax.files.errors import quoted
from nashjax.games.faults import first_fault
from nashjax.lm.judges.base import (
    SHOWN,
    JudgeError,
    as_numbers,
    as_questions,
    describe,
    no_probability,
    raised,
    sigmoid,
)


class CallableJudge:
    """Asks a Python function.

    Args:
      function: from three lists of texts, prompts, responses and opponents, to as many numbers in [0, 1]: the
        probability that each response is preferred. With `batched=False` from three texts to one number.
      batched: whether the function is given lists.

    Attributes:
      calls: how many questions the function has been asked.

    Raises:
      ValueError: `function` is none.
    """

    def __init__(self, function: Callable[..., Any], *, batched: bool = True):
        if not callable(function):
            raise wrong_type("function", "a function of (prompt, response, opponent)", function)
        self.function = function
        self.batched = batched
        self.calls = 0

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], opponents: Sequence[str]) -> ArrayLike:
        """Ask the function; see `Judge`."""
        questions = as_questions(prompts, responses, opponents)
        if self.batched:
            self.calls += len(questions)
            return self.function(list(prompts), list(responses), list(opponents))
        return np.array([self._one(question) for question in questions], np.float64)

    def _one(self, question: tuple[str, str, str]) -> float:
        self.calls += 1
        try:
            answer = self.function(*question)
        except Exception as error:  # whatever a user's function does wrong
            raise JudgeError(message("judge", f"must answer {describe(question)}", raised(error))) from error
        try:
            if isinstance(answer, str):
                raise TypeError
            return float(answer)
        except (TypeError, ValueError) as error:
            raise no_probability(question, quoted(repr(answer), SHOWN)) from error


class RewardJudge:
    """Prefers the larger reward: `P = sigmoid(scale * (reward(response) - reward(opponent)))`, Bradley and Terry's.

    Args:
      reward: from a list of prompts and as many texts to as many finite scores. In one call of the judge it is called
        once, and asked about no text twice for the same prompt.
      scale: how much one unit of reward counts, > 0.

    Raises:
      ValueError: an argument is not valid.
    """

    def __init__(self, reward: Callable[[list[str], list[str]], ArrayLike], *, scale: float = 1.0):
        if not callable(reward):
            raise wrong_type("reward", "a function of (prompts, texts)", reward)
        check_positive("scale", scale)
        self.reward = reward
        self.scale = scale

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], opponents: Sequence[str]) -> np.ndarray:
        """Compare the rewards; see `Judge`."""
        questions = as_questions(prompts, responses, opponents)
        if not questions:
            return np.zeros(0)
        places: dict[tuple[str, str], int] = {}
        sides = [
            [places.setdefault((question[0], question[side]), len(places)) for question in questions] for side in (1, 2)
        ]
        scores = self._scores(list(places))
        with np.errstate(over="ignore"):  # an infinite difference of finite scores is a certain preference
            return sigmoid(self.scale * (scores[sides[0]] - scores[sides[1]]))

    def _scores(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        """The checked scores of distinct (prompt, text)."""
        first, text = (quoted(x, SHOWN) for x in pairs[0])
        subject = f"answer of the reward to {len(pairs)} texts, the first {text} for the prompt {first},"
        scores = as_numbers(self.reward(*([pair[i] for pair in pairs] for i in range(2))), len(pairs), subject)
        bad = ~np.isfinite(scores)
        if bad.any():
            i = int(np.argmax(bad))
            prompt, text = (quoted(x, SHOWN) for x in pairs[i])
            subject = f"reward of {text} for the prompt {prompt}"
            raise JudgeError(message(subject, "a finite number", str(float(scores[i]))))
        return scores


class MatrixJudge:
    """Looks the probability up, where all prompts and answers are known: for studies with exact equilibria.

    Args:
      preferences: `[num_prompts, n, n]`, or `[n, n]` for all prompts alike: the probability that the answer of the row
        is preferred over that of the column. `P + P^T = 1` to 1e-6.
      prompts: the prompts, all different.
      answers: the `n` answers, all different; or such a list for each prompt.

    Raises:
      ValueError: an argument is not valid; the first bad entry is named.
    """

    def __init__(
        self, preferences: ArrayLike, prompts: Sequence[str], answers: Sequence[str] | Sequence[Sequence[str]]
    ):
        P = _validation.as_numbers("preferences", preferences)
        self._prompts = _places("prompts", prompts)
        if P.ndim not in (2, 3) or P.shape[-1] != P.shape[-2] or P.shape[-1] == 0:
            raise invalid("preferences", "must have shape [n, n] or [num_prompts, n, n]", str(list(P.shape)))
        fault = first_fault(P)
        if fault is not None:
            raise invalid(f"preferences{list(fault.index)}", fault.allowed, fault.found)
        if P.ndim == 3 and len(P) != len(prompts):
            raise invalid("preferences", f"must have {len(prompts)} matrices, one for each prompt", str(len(P)))
        self.preferences = np.broadcast_to(P, (len(prompts), *P.shape[-2:]))
        n = P.shape[-1]
        if all(isinstance(answer, str) for answer in answers):
            self._answers = [_places("answers", answers, n)] * len(prompts)
        elif len(answers) == len(prompts):
            self._answers = [_places(f"answers[{i}]", listed, n) for i, listed in enumerate(answers)]
        else:
            raise invalid("answers", f"must have {len(prompts)} lists, one for each prompt", str(len(answers)))

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], opponents: Sequence[str]) -> np.ndarray:
        """Look the pairs up; see `Judge`."""
        try:
            rows = [self._prompts[prompt] for prompt in prompts]
            known = [self._answers[row] for row in rows]
            first = [places[text] for places, text in zip(known, responses, strict=True)]
            second = [places[text] for places, text in zip(known, opponents, strict=True)]
        except KeyError:
            raise JudgeError(self._unknown(prompts, responses, opponents)) from None
        return self.preferences[rows, first, second]

    def _unknown(self, prompts: Sequence[str], responses: Sequence[str], opponents: Sequence[str]) -> str:
        """Return the message about the first text that has no entry."""
        for i, (prompt, *texts) in enumerate(as_questions(prompts, responses, opponents)):
            row = self._prompts.get(prompt)
            if row is None:
                requirement = f"one of the {len(self._prompts)} prompts that the judge knows"
                return message(f"prompts[{i}]", requirement, quoted(prompt, SHOWN))
            for name, text in zip(("responses", "opponents"), texts, strict=True):
                if text not in self._answers[row]:
                    num = len(self._answers[row])
                    requirement = f"one of the {num} answers that the judge knows to {quoted(prompt, SHOWN)}"
                    return message(f"{name}[{i}]", requirement, quoted(text, SHOWN))
        raise AssertionError("every question has an entry")


def _places(name: str, texts: Any, num: int | None = None) -> dict[str, int]:
    """Return the place of each text; raises an error unless they are strings, all different, and `num` of them."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise wrong_type(name, "a list of strings", texts)
    if len(texts) != num and (num is not None or not texts):
        requirement = "must have at least one text" if num is None else f"must have {num} texts, one for each row"
        raise invalid(name, requirement, str(len(texts)))
    places: dict[str, int] = {}
    for i, text in enumerate(texts):
        if places.setdefault(text, i) != i:
            raise invalid(f"{name}[{i}]", f"different from {name}[{places[text]}]", quoted(text))
    return places


LETTERS = "rps"


class DemoJudge:
    """Plays rock, paper, scissors with the letters r, p and s of two texts, whatever the prompt: no score ranks them.

    The weight of a letter in a text is the sum of `1 / (1 + position)` over the places where it stands: letters count
    more the more often and the earlier they come, so that no short text is all three alike. As shares of the weight of
    all characters these are a point `x` for a text and `y` for its opponent, and with

        cycle   = (x_p y_r - x_r y_p) + (x_s y_p - x_p y_s) + (x_r y_s - x_s y_r)
        quality = (x_r + x_p + x_s) + (different characters) / (length)

    `P = sigmoid(strength * cycle + (quality - quality of the opponent) / 4)`: paper beats rock, scissors beat paper,
    rock beats scissors; other characters and characters that repeat cost a little. The empty text has quality 0.
    Everything is a finite set: with three characters out of "rps." there are 64 texts.

    Args:
      strength: how much the cycle counts, > 0.
    """

    def __init__(self, strength: float = 4.0):
        check_positive("strength", strength)
        self.strength = strength

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], opponents: Sequence[str]) -> np.ndarray:
        """Play; see `Judge`. Exactly antisymmetric, also from one call to the next."""
        questions = as_questions(prompts, responses, opponents)
        features = {text: _features(text) for text in {*responses, *opponents}}
        x, y = (
            np.array([features[question[side]] for question in questions]).reshape(len(questions), 4).T
            for side in (1, 2)
        )
        # one product of two numbers at a time, and the same differences with the sides exchanged: exactly odd
        cycle = (x[1] * y[0] - x[0] * y[1]) + (x[2] * y[1] - x[1] * y[2]) + (x[0] * y[2] - x[2] * y[0])
        return sigmoid(self.strength * cycle + (x[3] - y[3]) / 4)


def _features(text: str) -> tuple[float, ...]:
    """The shares of the three letters, and the quality."""
    if not text:
        return (0.0,) * 4
    weights = dict.fromkeys(text, 0.0)
    for position, letter in enumerate(text, 1):
        weights[letter] += 1 / position
    whole = sum(weights.values())
    shares = [weights.get(letter, 0.0) / whole for letter in LETTERS]
    return (*shares, sum(shares) + len(weights) / len(text))
