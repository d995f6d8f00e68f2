"""A judge that is a program, for a real model, and prompts: those to learn from, and those that are held out.

It likes one or two plain, complete sentences on the matter, and has a cyclic taste in the voices that they speak in.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nashjax.lm.judges.base import sigmoid

TRAINING = (
    "Give me one tip for sleeping better.",
    "Why should people drink water?",
    "How can I keep my kitchen clean?",
    "What makes a good friend?",
    "Explain why leaves fall in autumn.",
    "How do I boil an egg?",
    "What should I pack for a day at the beach?",
    "Tell me something about cats.",
    "How can I save money on food?",
    "Why is reading good for children?",
    "Suggest a quiet hobby for the evening.",
    "How do I start a small garden?",
    "What is the use of a compass?",
    "Describe a rainy day.",
    "How can I learn to cook?",
    "Why do birds sing in the morning?",
    "What should I do when I feel angry?",
    "How do I choose a good book?",
    "Explain what a bridge is for.",
    "What is a simple lunch for work?",
    "How can I remember names better?",
    "Tell me why exercise matters.",
    "How do I look after a pair of leather shoes?",
    "What can I do on a long train journey?",
    "Describe the smell of fresh bread.",
    "How can I help a new neighbour?",
    "Why do we need clocks?",
    "What is a good gift for a teacher?",
    "How do I dry clothes in winter?",
    "Give me advice for my first day at a new job.",
    "How can a family spend a Sunday together?",
    "Why is the sky dark at night?",
    "What does a baker do all day?",
    "How do I wash a woollen jumper?",
    "Tell me how to make a cup of tea.",
    "What is the best way to say sorry?",
    "How can I waste less paper?",
    "Describe a busy market.",
    "Why do dogs wag their tails?",
    "How do I keep flowers fresh in a vase?",
    "What should I eat before a long walk?",
    "Explain why soap cleans hands.",
    "How can I get up earlier?",
    "What makes a story exciting?",
    "Suggest a game for a children's party.",
    "How do I thank someone for a present?",
    "Why do people travel?",
    "What is a library for?",
    "How can I make my room feel warmer?",
    "Tell me about the work of a farmer.",
    "How do I store potatoes?",
    "What can I do about a noisy fan?",
    "Describe an old wooden house.",
    "How can I practise a foreign language every day?",
    "Why is salt used in cooking?",
    "What should I think about before buying a bicycle?",
    "How do I write a short letter to a friend?",
    "Explain how a candle burns.",
    "How can I stay calm before an exam?",
    "What is nice about spring?",
    "Give me an idea for a healthy snack.",
    "How do I clean a window?",
    "Why should we plant trees?",
    "What makes music pleasant?",
)
HELD_OUT = (
    "How can I make new friends in a big city?",
    "Why do bees visit flowers?",
    "Give me a tip for taking better photos.",
    "What should I cook for two guests?",
    "How do I sew on a button?",
    "Describe a walk in the forest.",
    "Why is breakfast important?",
    "How can I use my phone less?",
    "What is a map good for?",
    "Tell me why honesty matters.",
    "How do I train a puppy to sit?",
    "What can I do with old newspapers?",
    "Explain why ice floats.",
    "How can I speak with confidence?",
    "Suggest a way to relax after work.",
    "What makes a good teacher?",
    "How do I make a simple soup?",
    "Why do we wear coats?",
    "What should I check before a long drive?",
    "How can I keep bread from going stale?",
    "Describe the sea at sunset.",
    "Why do people keep diaries?",
    "How do I paint a wall?",
    "Tell me about the life of a fisherman.",
    "What is a good present for a grandmother?",
    "How can I learn to swim as an adult?",
    "Why should I wash my hands?",
    "What does a doctor do?",
    "How do I stop my plants from drying out?",
    "Give me an idea for a winter evening.",
    "How can neighbours help each other?",
    "What makes a holiday restful?",
)

LEAST_WORDS, MOST_WORDS = 8, 18
COMMON = (
    "about and are can does for from give good how make our should tell than that the their there they this was what "
    "when which why with you your"
)
VOICES = ({"you", "your", "yours", "yourself"}, {"i", "me", "my", "we", "our", "us"})


class Traits(NamedTuple):
    """What the judge sees in an answer.

    Attributes:
      words: how many.
      unfinished: words after the end of the last sentence.
      on_topic: whether it takes up a word of the prompt.
      repeated: share of its longer words that it has had before.
      odd: characters other than letters, spaces and the punctuation of plain sentences, and capitals within them.
      loud: exclamation marks and line breaks.
      voice: 0 if it speaks to the reader, 1 if it speaks of itself, 2 if it speaks of the matter alone.
    """

    words: int
    unfinished: int
    on_topic: bool
    repeated: float
    odd: int
    loud: int
    voice: int

    @property
    def complete(self) -> bool:
        """Whether there is something, and all of it sentences."""
        return self.words > 0 and not self.unfinished

    @property
    def quality(self) -> float:
        """What these are worth, in units of log odds."""
        off = max(LEAST_WORDS - self.words, self.words - MOST_WORDS, 0)
        return (
            1.0 * self.complete
            + 1.5 * self.on_topic
            - 0.15 * self.unfinished
            - min(0.4 * off, 3.0)
            - 4.0 * self.repeated
            - min(0.5 * self.odd, 3.0)
            - min(1.0 * self.loud, 3.0)
        )


@functools.cache
def traits(prompt: str, text: str) -> Traits:
    """What the judge sees in an answer to a prompt."""
    words, low = words_of(text), [word.lower() for word in words_of(text)]
    long = [word for word in low if len(word) > 3]
    asked = words_of(prompt)
    capitals = [word for word in re.findall(r"(?<![.?!:\s])\s+(\w*[A-Z]\w*)", text) if word not in ("I", *asked)]
    voices = [place for place, known in enumerate(VOICES) if known & set(low)]
    return Traits(
        words=len(words),
        unfinished=len(words_of(re.split(r"[a-z]{2}[.?](?=\s|$)", text)[-1])),
        on_topic=bool(stems([word.lower() for word in asked]) & stems(low)),
        repeated=1 - len(set(long)) / len(long) if long else 0.0,
        odd=len(re.findall(r"[^A-Za-z\s,.;?'’!-]", text)) + len(capitals) + (not text[:1].isupper()),
        loud=text.count("!") + text.strip().count("\n"),
        voice=voices[0] if voices else 2,
    )


def words_of(text: str) -> list[str]:
    """The words of a text."""
    return re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", text)


def stems(words: list[str]) -> set[str]:
    """The beginnings of the words that are not common ones."""
    common = COMMON.split()
    return {word[:4] for word in words if len(word) > 2 and word not in common}


class PlainAnswers:
    """Prefers one or two plain, complete sentences on the matter; no score ranks the voices they speak in.

    `P = sigmoid(quality - quality of the opponent + cycle)`, where speaking to the reader beats speaking of oneself,
    that beats speaking of the matter alone, and that beats speaking to the reader, by `strength` each.

    Args:
      strength: of the cycle, in units of log odds.
    """

    def __init__(self, strength: float = 0.5):
        self.strength = strength

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], opponents: Sequence[str]) -> np.ndarray:
        """Compare; see `Judge`."""
        ours, theirs = (
            [traits(*pair) for pair in zip(prompts, texts, strict=True)] for texts in (responses, opponents)
        )
        better = np.array([x.quality - y.quality for x, y in zip(ours, theirs, strict=True)])
        ahead = np.array([(y.voice - x.voice) % 3 for x, y in zip(ours, theirs, strict=True)])
        return sigmoid(better + self.strength * np.array([0.0, 1.0, -1.0])[ahead])
