"""Real weights (opt-in): three steps of fine-tuning SmolLM2-135M, a minute or two on a core.

The environment variable `NASHJAX_SMOLLM2` names the GGUF file; `python -m benchmarks.smollm2` downloads it.
"""

import os

import jax
import numpy as np
import pytest

pytest.importorskip("flax", reason="needs the extra `train`")

from benchmarks.plain_answers import HELD_OUT, TRAINING, PlainAnswers
from benchmarks.smollm2 import (
    ANSWER_LENGTH,
    MOST_PERPLEXITY,
    PASSAGE,
    QUESTIONS,
    TEMPLATE,
    check_tokenizer,
    perplexity,
)
from nashjax.lm import LanguagePolicy, make_method, train
from nashjax.lm.gguf import load_gguf

FILE = os.environ.get("NASHJAX_SMOLLM2")

pytestmark = [
    pytest.mark.real_weights,
    pytest.mark.skipif(not FILE, reason="needs the GGUF file of SmolLM2-135M, named by NASHJAX_SMOLLM2"),
]


@pytest.fixture(scope="module")
def policy() -> LanguagePolicy:
    return load_gguf(str(FILE), template=TEMPLATE)


def test_texts_and_their_probabilities(policy: LanguagePolicy):
    """The tokenizer loses nothing, and plain English is likely."""
    check_tokenizer(policy)
    tokens, found = perplexity(policy, PASSAGE)
    assert tokens > 100
    assert found < MOST_PERPLEXITY


def test_answers_are_as_likely_as_the_draw_says(policy: LanguagePolicy):
    """Token by token from a cache, and all tokens at once, prompts padded or not."""
    prompts = policy.encode(HELD_OUT[:2], ANSWER_LENGTH)
    answers, drawn = policy.sample(policy.params, jax.random.key(0), prompts, 4, ANSWER_LENGTH)
    np.testing.assert_allclose(policy.log_probs(policy.params, prompts, answers), drawn, atol=3e-4)


def test_three_steps(policy: LanguagePolicy):
    """Metrics are finite, all adapters move, and the frozen model is where it was."""
    prompts = policy.encode(QUESTIONS, 8)
    before = np.asarray(policy.decoder.prefill(policy.params, prompts, 0)[0])
    method = make_method("two_average", prompts_per_step=2, samples_per_prompt=2)
    result = train(
        policy,
        TRAINING[:8],
        PlainAnswers(),
        0.03,
        num_steps=3,
        answer_length=8,
        key=jax.random.key(0),
        method=method,
        held_out=HELD_OUT[:2],
        num_records=3,
    )
    assert [record.step for record in result.history] == [1, 2, 3]
    for record in result.history:
        assert np.isfinite([record.win_rate, record.kl, record.entropy, record.gradient_norm]).all()
        assert record.reference_win_rate is not None
        assert 0 < record.reference_win_rate.mean < 1
        assert record.gradient_norm > 0
    moved = jax.tree.map(lambda x, y: bool((x != y).any()), policy.params, result.params)
    assert all(jax.tree.leaves(moved))
    np.testing.assert_array_equal(policy.decoder.prefill(policy.params, prompts, 0)[0], before)
