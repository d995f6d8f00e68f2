"""Drawn answers and their log-probabilities: the two agree, and both with a listing of all answers."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

pytest.importorskip("optax", reason="needs the extra `train`")
pytest.importorskip("flax", reason="needs the extra `train`")

from nashjax import lm
from tests.lm.small import all_answers, frozen, small_policy

PROMPTS = ["a", "abca", "cb", "bbbbbb"]
LENGTH = 4


@pytest.mark.parametrize("stop", [True, False])
def test_the_probabilities_of_all_answers_sum_to_one(stop):
    policy = small_policy(stop=stop)
    prompts = policy.encode(PROMPTS, LENGTH)
    log_probs = policy.log_probs(policy.params, prompts, all_answers(policy, LENGTH, len(PROMPTS)))
    np.testing.assert_allclose(np.exp(np.asarray(log_probs, np.float64)).sum(axis=1), 1, atol=1e-5)
    assert np.exp(log_probs).max() > 2 / log_probs.shape[1]  # not the uniform policy, where much would hold by itself


def test_a_seed_gives_the_same_weights_and_answers_with_and_without_x64():
    found = []
    for x64 in (False, True):
        with jax.enable_x64(x64):
            policy = small_policy(seed=3, lora_rank=2)
            prompts = policy.encode(["ab"], 3)
            answers, _ = policy.sample(policy.params, jax.random.key(1), prompts, 8, 3)
            found.append(jax.tree.map(np.asarray, (policy.params, frozen(policy), answers)))
    single, double = (jax.tree.leaves(x) for x in found)
    assert {str(x.dtype) for x in single} == {"float32", "int32", "bool"}
    for a, b in zip(single, double, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_drawn_answers_come_as_often_as_their_probabilities_say():
    policy = small_policy()
    prompts = policy.encode(PROMPTS[:2], 3)
    answers = all_answers(policy, 3, 2)
    probability = np.exp(np.asarray(policy.log_probs(policy.params, prompts, answers), np.float64))
    place = {tuple(row): index for index, row in enumerate(np.where(answers.mask[0], answers.tokens[0], -1).tolist())}
    drawn, _ = policy.sample(policy.params, jax.random.key(5), prompts, 20_000, 3)
    for prompt in range(2):
        rows = np.where(drawn.mask[prompt], drawn.tokens[prompt], -1).tolist()
        counts = np.bincount([place[tuple(row)] for row in rows], minlength=len(place))
        common = probability[prompt] * len(rows) > 5
        observed = np.append(counts[common], counts[~common].sum())
        expected = np.append(probability[prompt][common], probability[prompt][~common].sum()) * len(rows)
        assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize(("dtype", "share"), [("float32", 0.0), ("float32", 0.3), ("bfloat16", 0.0)])
def test_drawing_and_scoring_agree_with_padding_and_stop_tokens(dtype, share):
    policy = small_policy()
    decoder, params = _as_dtype(policy, dtype)
    policy = dataclasses.replace(policy, decoder=decoder)
    other = jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), params)
    prompts = policy.encode(PROMPTS, LENGTH)
    answers, drawn = policy.sample(other, jax.random.key(1), prompts, 50, LENGTH, reference_share=share)
    scored = policy.log_probs(other, prompts, answers, reference_share=share)
    lengths = np.asarray(answers.mask.sum(axis=-1))
    assert lengths.min() < LENGTH, "an answer was ended by its stop token"
    tolerance = 1e-4 if dtype == "float32" else 0.1
    np.testing.assert_allclose(drawn, scored, atol=tolerance)
    # A stop token is the last one that counts, and the only one in its answer.
    stops = np.asarray((answers.tokens == policy.stop_ids[0]) & answers.mask)
    assert (stops.sum(axis=-1) <= 1).all()
    assert (stops.any(axis=-1) | (lengths == LENGTH)).all()


def test_a_share_of_the_reference_may_be_traced():
    policy = small_policy()
    other = jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), policy.params)
    prompts, answers = policy.encode(["cb"], 3), all_answers(policy, 3, 1)

    def scored(share):
        return policy.log_probs(other, prompts, answers, reference_share=share)

    for share in (0.0, 0.3, 1.0):
        np.testing.assert_allclose(jax.jit(scored)(share), scored(share), atol=1e-5)


def test_padding_changes_nothing():
    policy = small_policy()
    answers = all_answers(policy, 3, 1)
    alone = policy.log_probs(policy.params, policy.encode(["cb"], 3), answers)
    among = policy.encode(["cb", "abcabcabca"], 3)
    both = policy.log_probs(policy.params, among, jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), answers))
    assert among.tokens.shape[1] > 2
    np.testing.assert_allclose(both[0], alone[0], atol=1e-5)


def test_what_is_behind_the_stop_token_does_not_count():
    policy = small_policy()
    prompts = policy.encode(["ab"], LENGTH)
    answers = policy.encode_answers([["c", "c"]], LENGTH)
    other = answers._replace(tokens=answers.tokens.at[0, 1, 2:].set(2))
    scored = policy.log_probs(policy.params, prompts, other)
    np.testing.assert_allclose(scored[0, 0], scored[0, 1], atol=1e-6)


def test_temperature_zero_takes_the_likeliest_token():
    policy = small_policy()
    prompts = policy.encode(PROMPTS, LENGTH)
    greedy, _ = policy.sample(policy.params, jax.random.key(0), prompts, 1, LENGTH, temperature=0)
    for prompt in range(len(PROMPTS)):
        for t in range(int(greedy.mask[prompt, 0].sum())):
            others = (
                jnp.repeat(greedy.tokens[prompt : prompt + 1], 4, axis=1)
                .at[0, :, t]
                .set(jnp.arange(4, dtype=jnp.int32))
            )
            mask = jnp.broadcast_to(jnp.arange(LENGTH) <= t, others.shape)
            row = jax.tree.map(lambda x, p=prompt: x[p : p + 1], prompts)
            scored = policy.log_probs(policy.params, row, lm.Tokens(others, mask))
            assert int(jnp.argmax(scored[0])) == int(greedy.tokens[prompt, 0, t])


def test_top_p_draws_from_the_likeliest_tokens_only():
    policy = small_policy(stop=False)
    prompts = policy.encode(["ab"], 1)
    probability = np.exp(np.asarray(policy.log_probs(policy.params, prompts, all_answers(policy, 1, 1))[0]))
    order = np.argsort(-probability)
    share = float(probability[order[0]] + probability[order[1]] / 2)  # the first two have it together
    drawn, _ = policy.sample(policy.params, jax.random.key(0), prompts, 2000, 1, top_p=share)
    found = np.bincount(np.asarray(drawn.tokens).reshape(-1), minlength=3)
    assert set(np.flatnonzero(found)) == set(order[:2])
    assert abs(found[order[0]] / 2000 - probability[order[0]] / probability[order[:2]].sum()) < 0.05


@pytest.mark.parametrize("options", [{"temperature": 1e-40}, {"temperature": 1e-60, "top_p": 0.5}, {"top_p": 1e-50}])
def test_the_smallest_temperatures_and_shares_take_the_likeliest_token(options):
    """Also where single precision has no such number."""
    policy = dataclasses.replace(small_policy(), forbidden=("a",))
    prompts = policy.encode(PROMPTS, LENGTH)
    greedy, drawn = (
        policy.sample(policy.params, jax.random.key(0), prompts, 2, LENGTH, **chosen)[0]
        for chosen in ({"temperature": 0}, options)
    )
    np.testing.assert_array_equal(drawn.tokens, greedy.tokens)
    np.testing.assert_array_equal(drawn.mask, greedy.mask)


def test_forbidden_tokens_are_never_drawn_and_have_no_probability():
    policy = dataclasses.replace(small_policy(), forbidden=("b",))
    prompts = policy.encode(["ab"], 3)
    drawn, _ = policy.sample(policy.params, jax.random.key(0), prompts, 500, 3)
    assert not ((drawn.tokens == 1) & drawn.mask).any()
    assert np.isneginf(policy.log_probs(policy.params, prompts, policy.encode_answers([["aba"]], 3))).all()


def test_the_mixture_is_geometric_token_by_token():
    policy = small_policy(stop=False)
    other = jax.tree.map(lambda x: x * 0.7, policy.params)
    prompts, answers = policy.encode(["ab"], 1), all_answers(policy, 1, 1)
    ours, theirs, mixed = (
        np.asarray(policy.log_probs(params, prompts, answers, reference_share=share)[0], np.float64)
        for params, share in ((other, 0.0), (policy.params, 0.0), (other, 0.25))
    )
    expected = 0.75 * ours + 0.25 * theirs
    np.testing.assert_allclose(mixed, expected - np.log(np.exp(expected).sum()), atol=1e-5)


def test_new_adapters_change_nothing():
    policy = small_policy(lora_rank=2)
    assert all(2 in x.shape[-2:] for x in jax.tree.leaves(policy.params))
    prompts, answers = policy.encode(PROMPTS, 3), all_answers(policy, 3, len(PROMPTS))
    zeros = jax.tree.map(jnp.zeros_like, policy.params)
    with_new, with_zeros = (policy.log_probs(params, prompts, answers) for params in (policy.params, zeros))
    np.testing.assert_array_equal(with_new, with_zeros)
    moved = jax.tree.map(lambda x: x + 0.3, policy.params)
    assert np.abs(policy.log_probs(moved, prompts, answers) - with_zeros).max() > 1e-2


def test_a_drawn_answer_ends_at_its_length_where_there_is_no_stop_token():
    policy = small_policy(stop=False)
    drawn, _ = policy.sample(policy.params, jax.random.key(0), policy.encode(PROMPTS, LENGTH), 7, LENGTH)
    assert drawn.tokens.shape == (len(PROMPTS), 7, LENGTH)
    assert drawn.mask.all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 0}, "num must be an integer >= 1, got 0"),
        ({"length": 0}, "length must be .* got 0"),
        ({"temperature": -1.0}, "temperature must be .* got -1.0"),
        ({"top_p": 0.0}, "top_p must be .* got 0.0"),
        ({"reference_share": 2.0}, "reference_share must be .* got 2.0"),
    ],
)
def test_bad_draws_are_refused(options, message):
    policy = small_policy()
    arguments = {"num": 1, "length": 2} | options
    with pytest.raises((TypeError, ValueError), match=message):
        policy.sample(policy.params, jax.random.key(0), policy.encode(["a"], 2), **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": ("<stop>",)}, "stop: .*'<stop>'"),
        ({"forbidden": ("z",)}, "forbidden: .*'z'"),
        (
            {"stop": ("<end>",), "forbidden": ("<end>",)},
            "forbidden must be a tuple of tokens that are not in stop, got '<end>'",
        ),
        ({"stop": "<end>"}, "stop must be a tuple of names of tokens, got '<end>'"),
        ({"template": "no place"}, "template must be a text with '{prompt}' in it once, got .*no place"),
        ({"template": "{prompt}a{prompt}"}, "template must be a text with '{prompt}' in it once, got"),
        ({"context_length": 1}, "context_length must be .* got 1"),
    ],
)
def test_bad_policies_are_refused(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        dataclasses.replace(small_policy(), **options)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["ab", "a" * 13], r"prompts\[1\] must have 1 to 12 tokens, the context of 16 less 4 for an answer, got 13"),
        (["ab", ""], r"prompts\[1\] must have .* got 0"),
        (["ab", 3], r"prompts\[1\] must be a text, got 3"),
        ([], "prompts must be a list of at least one string, got "),
        ("ab", "prompts must be a list of strings, got 'ab'"),
        (["xy"], r"^prompts\[0\]: text\[0\] must be one of 'abc', got 'x'"),
    ],
)
def test_bad_prompts_are_refused(prompts, message):
    with pytest.raises((TypeError, ValueError), match=message):
        small_policy().encode(prompts, LENGTH)


def test_a_prompt_or_template_of_another_type_is_refused():
    with pytest.raises(TypeError, match=r"^prompts\[1\] must be a text, got 3\.$"):
        small_policy().encode(["ab", 3], LENGTH)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"^template must be a text with '{prompt}' or a ChatTemplate, got 3\.$"):
        dataclasses.replace(small_policy(), template=3)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([["a"], ["b", "c"]], r"answers\[1\] must be a list of 1 strings, .* got \['b', 'c'\]"),
        ([["a", "b"], ["c"]], r"answers\[1\] must be a list of 2 strings, .* got \['c'\]"),
        (["ab"], r"answers\[0\] must be a list of strings, got 'ab'"),
        ([["aaaa", "aaaaa"]], r"answers\[0, 1\] must have at most 4 tokens, got 5"),
    ],
)
def test_bad_answers_are_refused(answers, message):
    with pytest.raises((TypeError, ValueError), match=message):
        small_policy().encode_answers(answers, LENGTH)


def test_a_template_stands_around_a_prompt():
    policy = dataclasses.replace(small_policy(), template="c{prompt}b")
    found = policy.encode(["ab", "a"], 3)
    assert np.asarray(found.tokens)[0].tolist() == [2, 0, 1, 1]
    assert np.asarray(found.mask)[1].tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads must be a divisor of num_heads, 4, got 3"),
        ({"width": 18}, "num_heads must be a divisor of width, 18, got 4"),
        ({"head_size": 3}, "head_size must be an even integer >= 2, got 3"),
        ({"dtype": "float16"}, "dtype must be .* got 'float16'"),
        ({"rope_base": 0.0}, "rope_base must be .* got 0.0"),
        ({"num_layers": 0}, "num_layers must be .* got 0"),
    ],
)
def test_bad_shapes_are_refused(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        lm.LlamaConfig(8, **{"num_kv_heads": 2, "width": 16} | options)


def test_bytes_and_letters_come_back():
    tokenizer = lm.ByteTokenizer()
    text = "naïve 😀\n"
    assert tokenizer.decode([*tokenizer.encode(text), tokenizer.token_id("<end>")]) == text
    with pytest.raises(ValueError, match=r"^token must be '<end>' or a single byte, got 'ab'"):
        tokenizer.token_id("ab")
    letters = lm.AlphabetTokenizer("xyz")
    assert letters.decode([*letters.encode("zyx"), letters.token_id("<end>")]) == "zyx"
    with pytest.raises(ValueError, match="each once"):
        lm.AlphabetTokenizer("xx")


def _as_dtype(policy, dtype):
    model = policy.decoder.model(policy.params)
    model.config = dataclasses.replace(model.config, dtype=dtype)
    return lm.LlamaDecoder.split(model)
