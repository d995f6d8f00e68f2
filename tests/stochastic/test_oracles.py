"""Oracles: what they answer, and what they say of answers that cannot be used."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nashjax as nj

pytest.importorskip("optax", reason="needs the extra `train`")

from nashjax import stochastic as st
from nashjax.stochastic.sampled_game import SampledGame
from tests.mistyped import anything

GAME = nj.games.random_game(jax.random.key(0), 4, (3,), "gaussian", scale=2.0)


def questions(num: int, batch: tuple[int, ...] = (), contexts: int = 1) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(5), 3)
    draws = [jax.random.randint(k, (*batch, num), 0, high) for k, high in zip(keys, (contexts, 4, 4), strict=True)]
    return tuple(draws)


def test_probabilities_are_the_entries_of_each_game():
    context, action, opponent = questions(50, (3,))
    answer = st.ProbabilityOracle(GAME).compare(jax.random.key(1), context, action, opponent)
    P = np.asarray(GAME.preferences)
    for game in range(3):
        np.testing.assert_allclose(answer[game], P[game, action[game], opponent[game]], atol=1e-15)


def test_contexts_are_the_last_axis_of_the_game():
    oracle = st.ProbabilityOracle(GAME, contextual=True)
    assert (oracle.batch_shape, oracle.num_contexts, oracle.num_actions) == ((), 3, 4)
    context, action, opponent = questions(50, contexts=3)
    answer = oracle.compare(jax.random.key(1), context, action, opponent)
    np.testing.assert_allclose(answer, np.asarray(GAME.preferences)[context, action, opponent], atol=1e-15)


def test_games_of_several_contexts():
    P = np.asarray(nj.games.random_game(jax.random.key(7), 4, (2, 3)).preferences)
    oracle = st.ProbabilityOracle(P, contextual=True)
    assert (oracle.batch_shape, oracle.num_contexts, oracle.num_actions) == ((2,), 3, 4)
    context, action, opponent = questions(50, (2,), contexts=3)
    answer = oracle.compare(jax.random.key(1), context, action, opponent)
    for game in range(2):
        np.testing.assert_allclose(answer[game], P[game, context[game], action[game], opponent[game]], atol=1e-15)


def test_votes_are_zeros_and_ones_with_the_probability_of_the_game():
    context, action, opponent = (jnp.full(40_000, i) for i in (0, 1, 2))
    P = np.asarray(GAME.preferences)[0]
    votes = st.BernoulliOracle(P).compare(jax.random.key(2), context, action, opponent)
    assert set(np.unique(votes)) == {0.0, 1.0}
    error = np.sqrt(P[1, 2] * (1 - P[1, 2]) / 40_000)
    assert abs(float(votes.mean()) - P[1, 2]) < 4 * error


def test_a_key_gives_the_same_votes_and_samples_with_and_without_x64():
    P = np.asarray(GAME.preferences, np.float32)
    found = []
    for x64 in (False, True):
        with jax.enable_x64(x64):
            oracle = st.BernoulliOracle(jnp.asarray(P, float), contextual=True)
            game = SampledGame(oracle, st.TabularPolicy(), jnp.asarray(0.1), jnp.log(jnp.full((3, 4), 0.25)))
            keys = jax.random.split(jax.random.key(8), 3)
            contexts = game.draw_contexts(keys[0], 200)
            actions = game.sample(jnp.zeros((3, 4)), keys[1], contexts, 2)
            votes = oracle.compare(keys[2], contexts, actions[:, 0], actions[:, 1])
            assert (contexts.dtype, actions.dtype, votes.dtype) == (jnp.int32, jnp.int32, jnp.result_type(float))
            found.append([np.asarray(x) for x in (contexts, actions, votes)])
    for single, double in zip(*found, strict=True):
        assert len(np.unique(double)) > 1
        np.testing.assert_array_equal(single, double)


def test_a_function_is_asked_in_one_row_however_it_is_mapped_and_never_about_an_action_and_itself():
    seen = []

    def prefer_larger(context, action, opponent):
        seen.append(action.shape)
        return np.where(action == opponent, np.nan, action > opponent)

    oracle = st.CallableOracle(prefer_larger, 4)
    ask = jax.jit(jax.vmap(lambda *x: oracle.compare(jax.random.key(0), *x)))
    context, action, opponent = questions(6, (5,))
    answer = jax.block_until_ready(ask(context, action, opponent))
    np.testing.assert_array_equal(answer, np.where(action == opponent, 0.5, action > opponent))
    different = int((action != opponent).sum())
    assert seen == [(different,)]
    assert oracle.comparisons == different < 30


def test_an_action_against_itself_counts_as_a_half_whatever_the_oracle_says():
    class Biased:
        num_actions, num_contexts, batch_shape = 3, 1, ()

        def compare(self, key, context, action, opponent):
            return jnp.where(action == opponent, 1.0, (action > opponent) * 1.0)

    result = st.train(Biased(), 0.2, method=st.ClosedFormNashMP(), num_comparisons=64_000, key=jax.random.key(0))
    larger = np.tril(np.ones((3, 3)), -1) + 0.5 * np.eye(3)
    np.testing.assert_allclose(result.policy, nj.solve(larger, 0.2, tol=1e-9).policy, atol=0.02)


@pytest.mark.parametrize("late", [1, 4, 60])
def test_a_failure_at_any_time_is_the_oracles(late):
    """Compiled code reports it in ways that depend on when it is met."""
    calls = []

    def judge(context, action, opponent):
        calls.append(1)
        if len(calls) == late:
            raise KeyError("the judge has left")
        return action > opponent

    with pytest.raises(st.OracleError, match=r"must be numbers .*, got KeyError: 'the judge has left'") as caught:
        st.train(st.CallableOracle(judge, 4), 0.1, num_comparisons=6400, num_records=1, key=jax.random.key(0))
    assert isinstance(caught.value.__cause__, KeyError)
    assert len(calls) == late


def test_an_interrupt_stays_one():
    def judge(context, action, opponent):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        st.train(st.CallableOracle(judge, 4), 0.1, num_comparisons=640, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda c, a, o: np.where(a == 3, np.nan, 0.5), "action 3 .* must be a number from 0 to 1, got nan"),
        (lambda c, a, o: a * 0.5 + 1, r"action \d .* must be a number from 0 to 1, got [12]"),
        (lambda c, a, o: a * 0 - 0.25, r"must be a number from 0 to 1, got -0\.25"),
        (lambda c, a, o: np.zeros(3), r"must be numbers \[\d+\], got shape \[3\]"),
        (lambda c, a, o: "yes", r"must be numbers \[\d+\], got 'yes'"),
        (lambda c, a, o: 1 / 0, "got ZeroDivisionError: division by zero"),
    ],
)
def test_an_unusable_answer_ends_a_run_with_what_was_asked(answer, said, tmp_path):
    oracle = st.CallableOracle(answer, 4)
    with pytest.raises(st.OracleError, match=said) as caught:
        st.train(oracle, 0.1, num_comparisons=320, num_records=2, key=jax.random.key(0), checkpoint=tmp_path)
    assert re.search(r"whether action \d is preferred over \d in context 0", str(caught.value))
    assert not [path for path in tmp_path.iterdir() if path.name.isdigit()]  # nothing half done is kept


@pytest.mark.parametrize("answer", [jnp.nan, 1.5, -0.1])
def test_an_unusable_answer_of_compiled_code_is_found_too(answer, tmp_path):
    class Broken:
        num_actions, num_contexts, batch_shape = 3, 1, ()

        def compare(self, key, context, action, opponent):
            return jnp.where(action == 2, answer, 0.5)

    with pytest.raises(
        st.OracleError,
        match=f"action 2 is preferred over . in context 0 must be .* 1, got {answer}",
    ):
        st.train(Broken(), 0.1, num_comparisons=640, num_records=2, key=jax.random.key(0), checkpoint=tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.isdigit()]


def test_a_wrong_shape_of_compiled_code_is_named():
    class Broken:
        num_actions, num_contexts, batch_shape = 3, 1, ()

        def compare(self, key, context, action, opponent):
            return jnp.zeros(5)

    with pytest.raises(st.OracleError, match=r"answer to 32 .* must be an array of shape \[32\], got shape \[5\]"):
        st.train(Broken(), 0.1, num_comparisons=64, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: st.BernoulliOracle(np.eye(3)), r"game.preferences\[0, 1\] must satisfy .*, got 0.0, and 0.0"),
        (
            lambda: st.BernoulliOracle(np.full((3, 3), 0.5), contextual=True),
            "game must be .*, got no batch axis",
        ),
        (lambda: st.CallableOracle(lambda c, a, o: a, 1), "num_actions must be an integer >= 2, got 1"),
        (lambda: st.CallableOracle(anything("judge"), 3), "function must be a function of .*, got 'judge'"),
        (
            lambda: st.CallableOracle(lambda c, a, o: a, 3, num_contexts=0),
            "num_contexts must be .* >= 1, got 0",
        ),
    ],
)
def test_what_is_no_oracle_is_refused(make, said):
    with pytest.raises((TypeError, ValueError), match=said):
        make()
