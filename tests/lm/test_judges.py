"""Judges: what they answer, what they ask for, and what they say of answers that cannot be used."""

import itertools
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest

pytest.importorskip("optax", reason="needs the extra `lm`")
pytest.importorskip("httpx", reason="needs the extra `lm`")
pytest.importorskip("tenacity", reason="needs the extra `lm`")

from hypothesis import given, settings
from hypothesis import strategies as hs

from nashjax.lm import judges
from nashjax.lm.judges import ask
from tests.mistyped import anything

# Asking.


@given(
    hs.lists(hs.tuples(*(hs.sampled_from(texts) for texts in ("xy", ["", "a", "b", "ab"], ["", "a", "b", "c"])))),
    hs.randoms(use_true_random=False),
)
@settings(deadline=None)
def test_answers_are_antisymmetric_and_no_question_is_asked_twice(questions, random):
    table: dict[tuple, float] = {}
    seen = []

    def judge(*columns):
        assert columns[0]  # nothing to ask is not asked
        asked = list(zip(*columns, strict=True))
        seen.extend(asked)
        return [table.setdefault(question, random.random()) for question in asked]

    columns = [list(column) for column in zip(*questions, strict=True)] or [[], [], []]
    prompts, responses, opponents = (c * 2 for c in columns)
    n = len(questions)
    outcome = ask(judge, prompts, responses[:n] + opponents[:n], opponents[:n] + responses[:n])
    assert outcome.dtype == np.float64
    assert outcome.shape == (2 * n,)
    np.testing.assert_array_equal(outcome[:n] + outcome[n:], 1.0)
    assert len({(p, *sorted(pair)) for p, *pair in seen}) == len(seen)
    assert all(response != opponent for _, response, opponent in seen)
    for (prompt, response, opponent), answer in zip(questions, outcome[:n], strict=True):
        if response == opponent:
            assert answer == 0.5
        else:
            direct = table.get((prompt, response, opponent))
            assert answer == (direct if direct is not None else 1 - table[prompt, opponent, response])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([0.5, np.nan], "whether 'c' is preferred over 'd' for the prompt 'q' must be a number from 0 to 1, got nan."),
        ([0.5, 1.5], "whether 'c' is preferred over 'd' for the prompt 'q' must be a number from 0 to 1, got 1.5."),
        ([-0.25, 1], "whether 'a' is preferred over 'b' for the prompt 'p' must be a number from 0 to 1, got -0.25."),
        (
            [0.5],
            r"2 questions, the first whether 'a' is .* must be an array of 2 numbers, got shape \[1\]",
        ),
        (0.5, r"must be an array of 2 numbers, got shape \[\]"),
        (["0.5", "0.5"], "must be an array of 2 numbers, got .*'0.5'"),
        ([None, 0.5], r"must be an array of 2 numbers, got '\[None, 0.5\]'"),
        ([[0.5], [0.5, 1]], "must be an array of 2 numbers, got "),
    ],
)
def test_an_unusable_answer_is_reported_with_its_question(answer, said):
    with pytest.raises(judges.JudgeError, match=said):
        ask(lambda *_: answer, ["p", "q"], ["a", "c"], ["b", "d"])


def test_what_a_judge_raises_is_a_judge_error_except_an_interrupt():
    def judge(error):
        def raises(*_):
            raise error

        return raises

    with pytest.raises(judges.JudgeError, match=r"1 questions, .* got the error KeyError: \"'boom\\\\x1b'\"") as caught:
        ask(judge(KeyError("boom\x1b")), ["p"], ["a"], ["b"])
    assert isinstance(caught.value.__cause__, KeyError)
    own = judges.JudgeError("no time")
    with pytest.raises(judges.JudgeError) as caught:
        ask(judge(own), ["p"], ["a"], ["b"])
    assert caught.value is own
    with pytest.raises(KeyboardInterrupt):
        ask(judge(KeyboardInterrupt()), ["p"], ["a"], ["b"])


def test_texts_in_messages_are_short_and_visible():
    with pytest.raises(judges.JudgeError) as caught:
        ask(lambda *_: [2], ["p" * 10_000], ["\x1b[2J\u202eevil"], ["b\n" * 5_000])
    assert len(str(caught.value)) < 800
    assert str(caught.value).isprintable()
    assert r"\x1b[2J\u202eevil" in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (("p", ["a"], ["b"]), "prompts must be a list of strings, got 'p'."),
        ((["p"], ["a", "c"], ["b"]), "responses must have 1 texts, as many as prompts, got 2."),
        ((["p"], ["a"], [3]), r"opponents\[0\] must be a string, got 3\."),
    ],
)
def test_questions_that_are_none_are_refused(columns, said):
    with pytest.raises((TypeError, ValueError), match=said):
        ask(judges.DemoJudge(), *anything(columns))


def test_every_judge_is_one():
    function = judges.CallableJudge(lambda p, r, o: [0.5] * len(p))
    for judge in (
        function,
        judges.DemoJudge(),
        judges.RewardJudge(lambda p, texts: [len(text) for text in texts]),
        judges.MatrixJudge([[0.5]], ["p"], ["a"]),
    ):
        assert isinstance(judge, judges.Judge)
        assert np.asarray(judge([], [], [])).shape == (0,)
        assert ask(judge, ["p"], ["a"], ["a"]) == 0.5
    with pytest.raises(AttributeError, match="has no attribute 'Jury'"):
        anything(judges).Jury  # noqa: B018


def test_only_what_needs_the_libraries_of_the_extra_lm_asks_for_them():
    code = """
    import sys
    for name in ("gguf", "httpx", "jinja2", "tenacity", "tokenizers"):
        sys.modules[name] = None
    from nashjax import lm
    print(*lm.DemoJudge()(["p"], ["r"], ["p"]))
    lm.HttpJudge
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert float(done.stdout) < 0.5
    message = 'ImportError: HttpJudge needs httpx: python -m pip install "nashjax[lm]"'
    assert done.stderr.splitlines()[-1] == message, done.stderr


# Judges of this process.


def test_a_function_is_asked_in_lists_or_one_by_one():
    columns = ["p", "p", "q"], ["aa", "a", "a"], ["a", "aaa", "a"]
    batched = judges.CallableJudge(lambda p, r, o: [len(x) > len(y) for x, y in zip(r, o, strict=True)])
    single = judges.CallableJudge(lambda p, r, o: float(len(r) > len(o)), batched=False)
    for judge in (batched, single):
        np.testing.assert_array_equal(ask(judge, *columns), [1.0, 0.0, 0.5])
        assert judge.calls == 2


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda p, r, o: 1 / (len(r) - 1), "whether 'x' is .* got the error ZeroDivisionError"),
        (
            lambda p, r, o: None if r == "x" else 0.5,
            "whether 'x' is .* must be a number from 0 to 1, got 'None'",
        ),
        (lambda p, r, o: "0.5" if r == "x" else 0.5, "whether 'x' is .* must be a number from 0 to 1, got \"'0.5'\""),
        (lambda p, r, o: len(r) * 0.4, "whether 'yyy' is .* must be a number from 0 to 1, got 1.2"),
    ],
)
def test_a_function_of_single_questions_is_reported_with_the_one_it_failed_at(function, said):
    with pytest.raises(judges.JudgeError, match=said):
        ask(judges.CallableJudge(function, batched=False), ["p"] * 3, ["yy", "x", "yyy"], ["b"] * 3)


def test_rewards_are_compared_as_bradley_and_terry_do_and_asked_for_once():
    seen = []

    def reward(prompts, texts):
        seen.append(list(zip(prompts, texts, strict=True)))
        return [len(prompt) * len(text) for prompt, text in zip(prompts, texts, strict=True)]

    judge = judges.RewardJudge(reward, scale=0.5)
    answers = judge(["p", "p", "qq"], ["a", "bb", "a"], ["bb", "ccc", "bb"])
    np.testing.assert_allclose(answers, 1 / (1 + np.exp([0.5, 0.5, 1.0])), rtol=1e-15)
    assert seen == [[("p", "a"), ("p", "bb"), ("qq", "a"), ("p", "ccc"), ("qq", "bb")]]
    np.testing.assert_array_equal(answers[0] + judge(["p"], ["bb"], ["a"])[0], 1.0)


def test_huge_rewards_are_certain_preferences_and_infinite_ones_errors():
    scores = {"a": 1e308, "b": -1e308, "c": np.inf}
    judge = judges.RewardJudge(lambda p, texts: [scores[text] for text in texts], scale=10.0)
    np.testing.assert_array_equal(ask(judge, ["p"] * 2, ["a", "b"], ["b", "a"]), [1.0, 0.0])
    with pytest.raises(judges.JudgeError, match=r"reward of 'c' for the prompt 'p' must be a finite number, got inf\."):
        ask(judge, ["p"], ["a"], ["c"])
    with pytest.raises(judges.JudgeError, match=r"to 2 texts, .* must be an array of 2 numbers, got shape \[1\]"):
        ask(judges.RewardJudge(lambda p, texts: [1.0]), ["p"], ["a"], ["c"])
    with pytest.raises(ValueError, match="scale must be a finite number > 0, got 0"):
        judges.RewardJudge(lambda p, texts: [1.0], scale=0)


def random_preferences(*shape: int) -> np.ndarray:
    P = np.random.default_rng(3).random(shape)
    return (P + 1 - np.swapaxes(P, -1, -2)) / 2


def test_a_matrix_is_looked_up_by_prompt_and_text():
    P = random_preferences(2, 3, 3)
    for answers in (["a", "b", "c"], [["a", "b", "c"], ["c", "x", "y"]]):
        judge = judges.MatrixJudge(P, ["one", "two"], anything(answers))
        lists: list[Any] = [answers] * 2 if answers[0] == "a" else answers
        places = list(itertools.product(range(2), range(3), range(3)))
        outcome = judge(
            [["one", "two"][m] for m, _, _ in places],
            [lists[m][i] for m, i, _ in places],
            [lists[m][j] for m, _, j in places],
        )
        np.testing.assert_array_equal(outcome, P.reshape(-1))
    shared = judges.MatrixJudge(P[0], ["one", "two"], ["a", "b", "c"])
    np.testing.assert_array_equal(shared(["one", "two"], ["a", "a"], ["b", "b"]), [P[0, 0, 1]] * 2)


def test_a_matrix_says_what_it_does_not_know():
    judge = judges.MatrixJudge(random_preferences(2, 2), ["one"], ["a", "b"])
    with pytest.raises(
        judges.JudgeError, match=r"prompts\[1\] must be one of the 1 prompts that the judge knows, got 'two'"
    ):
        ask(judge, ["one", "two"], ["a", "a"], ["b", "b"])
    with pytest.raises(judges.JudgeError, match=r"opponents\[0\] must be one of the 2 answers .* to 'one', got 'c'"):
        ask(judge, ["one"], ["a"], ["c"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ([[0.5, 0.7], [0.4, 0.5]], ["p"], ["a", "b"]),
            r"preferences\[0, 1\] must satisfy .*, got 0.7, and 0.4 at",
        ),
        (([[[0.5, 1.2], [-0.2, 0.5]]], ["p"], ["a", "b"]), r"preferences\[0, 0, 1\] must be a prob.*, got 1.2"),
        (([[0.5, np.nan], [0.5, 0.5]], ["p"], ["a", "b"]), r"preferences\[0, 1\] must be .* got nan"),
        (([0.5], ["p"], ["a"]), r"preferences must have shape \[n, n\] or .* got \[1\]"),
        (([[[0.5]]], ["p", "q"], ["a"]), "preferences must have 2 matrices, one for each prompt, got 1"),
        (([[0.5]], ["p"], ["a", "b"]), "answers must have 1 texts, one for each row, got 2"),
        (([[0.5]], ["p", "p"], ["a"]), r"prompts\[1\] must be different from prompts\[0\], got 'p'"),
        (([[0.5]], [], ["a"]), "prompts must have at least one text, got 0"),
        (([[0.5]], "p", ["a"]), "prompts must be a list of strings, got 'p'"),
        (([[0.5]], ["p", "q"], [["a"]]), "answers must have 2 lists, one for each prompt, got 1"),
        (([[0.5]], ["p", "q"], [["a"], ["b", "c"]]), r"answers\[1\] must have 1 texts, one for each row, got 2"),
    ],
)
def test_matrices_and_texts_that_do_not_fit_are_refused(arguments, said):
    with pytest.raises((TypeError, ValueError), match=said):
        judges.MatrixJudge(*arguments)


def test_the_demo_plays_rock_paper_scissors():
    def demo(response: str, opponent: str) -> float:
        return float(judges.DemoJudge()(["p"], [response], [opponent])[0])

    for winner, loser in ("pr", "sp", "rs"):
        assert demo(winner * 3, loser * 3) == pytest.approx(1 / (1 + np.exp(-4.0)), abs=1e-15)
    # Shares of "rp" 2/3 and 1/3, quality 2; of "r" 1, quality 2: the cycle is 1/3.
    assert demo("rp", "r") == pytest.approx(1 / (1 + np.exp(-4 / 3)), abs=1e-15)
    # No letter that plays: quality 1 + 0 and 1/2 + 0.
    assert demo("xy", "xx") == pytest.approx(1 / (1 + np.exp(-1 / 8)), abs=1e-15)
    assert demo("", "x") == pytest.approx(1 / (1 + np.exp(1 / 4)), abs=1e-15)


def test_the_demo_has_no_best_answer_but_an_equilibrium_of_three():
    texts = ["".join(letters) for letters in itertools.product("rps.", repeat=3)]
    pairs = list(itertools.product(texts, texts))
    P = judges.DemoJudge()(["p"] * len(pairs), [r for r, _ in pairs], [o for _, o in pairs]).reshape(64, 64)
    np.testing.assert_array_equal(P + P.T, 1.0)
    assert P.min(axis=1).max() < 0.4  # every answer loses to some other
    equilibrium = np.isin(texts, ["rps", "psr", "srp"]) / 3
    assert (equilibrium @ P).min() >= 0.5 - 1e-12
    assert (equilibrium @ P)[equilibrium == 0].min() > 0.5  # and there is no other
