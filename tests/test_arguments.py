"""What single arguments may be, and what is said of those that cannot be used."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nashjax import arguments


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
        (lambda: arguments.check_integer("count", True, 0), "count: is True; allowed are integers >= 0"),
        (lambda: arguments.check_integer("count", 2.0, 0), "count: is 2.0; allowed are integers >= 0"),
        (lambda: arguments.check_integer("count", "2", 0), "count: is '2'; allowed are integers >= 0"),
        (lambda: arguments.check_integer("count", 6, 0, 5), "count: is 6; allowed are integers from 0 to 5"),
        (lambda: arguments.check_number("share", "0.5"), "share: is '0.5'; allowed are finite numbers >= 0"),
        (lambda: arguments.check_number("share", False), "share: is False; allowed are finite numbers >= 0"),
        (lambda: arguments.check_number("share", [0.5]), "share: is [0.5]; allowed are finite numbers >= 0"),
        (lambda: arguments.check_number("share", 1j), "share: is 1j; allowed are finite numbers >= 0"),
        (lambda: arguments.check_number("share", np.nan), "share: is nan; allowed are finite numbers >= 0"),
        (lambda: arguments.check_number("share", 1.5, 0, 1), "share: is 1.5; allowed are finite numbers >= 0 and <= 1"),
        (
            lambda: arguments.check_number("share", 1, 0, 1, open_at=(0, 1)),
            "share: is 1; allowed are finite numbers > 0 and < 1",
        ),
        (lambda: arguments.check_positive("rate", 0), "rate: is 0; allowed are finite numbers > 0"),
        (lambda: arguments.check_positive("rate", 10**400), "...; allowed are finite numbers > 0"),
        (lambda: arguments.check_choice("ask", "all", ("one", "two")), "ask: is 'all'; allowed are 'one', 'two'"),
        (lambda: arguments.check_choice("ask", ["one"], ("one",)), "ask: is ['one']; allowed are 'one'"),
        (lambda: arguments.check_texts("labels", "judge"), "labels: is one text, 'judge'; allowed are lists of texts"),
        (lambda: arguments.check_key("key", 0), "key: is 0; allowed are jax random keys"),
        (lambda: arguments.check_key("key", jax.random.split(jax.random.key(0))), "allowed are jax random keys"),
        (lambda: arguments.check_policy("p", np.array([[0.5, 0.5], [0.5, 0.4]])), "p[1]: sums to 0.9; allowed are"),
        (lambda: arguments.check_policy("p", np.array([0.0, 0.0])), "p: is all zero; allowed are probabilities"),
        (lambda: arguments.check_policy("p", np.array([1.5, -0.5])), "p[1]: is -0.5; allowed are probabilities >= 0"),
        (lambda: arguments.check_square("P", (3, 2, 1)), "P: has shape [3, 2, 1]; allowed are square matrices"),
        (lambda: arguments.as_real_array("x", [[1, 2], [3]]), "x: is not an array; allowed are real numbers"),
        (lambda: arguments.as_real_array("x", [1j]), "x: has dtype complex128; allowed are real numbers"),
    ],
)
def test_what_cannot_be_used_is_named(check, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        check()
