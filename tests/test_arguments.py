"""Argument validation and its messages."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nashjax import _validation as arguments


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), jnp.int32(3)])
def test_an_integer_is_one_of_any_library(value):
    number = arguments.check_integer("count", value, 0, 5)
    assert (number, type(number)) == (3, int)


@pytest.mark.parametrize("value", [0.25, np.float32(0.25), jnp.float32(0.25), np.array(0.25)])
def test_a_number_is_one_of_any_library(value):
    number = arguments.check_number("share", value, 0, 1)
    assert (number, type(number)) == (0.25, float)


@pytest.mark.parametrize("key", [jax.random.key(0), jax.random.PRNGKey(0)])
def test_a_key_is_of_either_kind(key):
    arguments.check_key("key", key)
    jax.jit(lambda key: arguments.check_key("key", key))(key)


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (lambda: arguments.check_integer("count", 6, 0, 5), "count must be an integer from 0 to 5, got 6."),
        (lambda: arguments.check_number("share", np.nan), "share must be a finite number >= 0, got nan."),
        (lambda: arguments.check_number("share", 1.5, 0, 1), "share must be a finite number >= 0 and <= 1, got 1.5."),
        (
            lambda: arguments.check_number("share", 1, 0, 1, open_at=(0, 1)),
            "share must be a finite number > 0 and < 1, got 1.",
        ),
        (lambda: arguments.check_positive("rate", 0), "rate must be a finite number > 0, got 0."),
        (lambda: arguments.check_positive("rate", 10**400), "rate must be a finite number > 0, got 1000000"),
        (lambda: arguments.check_choice("ask", "all", ("one", "two")), "ask must be one of 'one', 'two', got 'all'."),
        (
            lambda: arguments.check_policy("p", np.array([[0.5, 0.5], [0.5, 0.4]])),
            "p[1] must be probabilities that sum to 1 within 1e-06, got the sum 0.9. Divide them by their sum.",
        ),
        (lambda: arguments.check_policy("p", np.array([0.0, 0.0])), "p must be probabilities that sum to 1"),
        (lambda: arguments.check_policy("p", np.array([1.5, -0.5])), "p[1] must be a probability >= 0, got -0.5."),
        (lambda: arguments.check_policy("p", np.log([0.5, 0.5])), "pass their exponentials."),
        (
            lambda: arguments.check_square("P", (3, 2, 1)),
            "P must be a square matrix [..., n, n] with n >= 2, got shape [3, 2, 1].",
        ),
        (lambda: arguments.as_real_array("x", [[1, 2], [3]]), "x must be an array of real numbers, rows of equal"),
    ],
)
def test_a_wrong_value_is_a_value_error_that_says_what_it_must_be(check, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        check()


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (lambda: arguments.check_integer("count", True, 0), "count must be an integer >= 0, got True."),
        (lambda: arguments.check_integer("count", 2.0, 0), "count must be an integer >= 0, got 2.0."),
        (lambda: arguments.check_integer("count", "2", 0), "count must be an integer >= 0, got '2'."),
        (lambda: arguments.check_number("share", "0.5"), "share must be a finite number >= 0, got '0.5'."),
        (lambda: arguments.check_number("share", False), "share must be a finite number >= 0, got False."),
        (lambda: arguments.check_number("share", [0.5]), "share must be a finite number >= 0, got [0.5]."),
        (lambda: arguments.check_number("share", 1j), "share must be a finite number >= 0, got 1j."),
        (lambda: arguments.check_number("share", None), "share must be a finite number >= 0, got None."),
        (lambda: arguments.check_choice("ask", ["one"], ("one",)), "ask must be 'one', got ['one']."),
        (lambda: arguments.check_texts("labels", "judge"), "labels must be a list of strings, got 'judge'. Put the"),
        (lambda: arguments.check_key("key", 0), "key must be one jax random key, such as jax.random.key(0), got 0."),
        (lambda: arguments.check_key("key", jax.random.split(jax.random.key(0))), "must be one jax random key"),
        (lambda: arguments.as_real_array("x", [1j]), "x must be an array of real numbers, got dtype complex128."),
    ],
)
def test_a_wrong_type_is_a_type_error_that_says_what_it_must_be(check, said):
    with pytest.raises(TypeError, match=re.escape(said)):
        check()
