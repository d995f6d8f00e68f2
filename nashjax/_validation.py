"""Argument validation and error messages.

Every message has the form *subject* must be *requirement*, got *value*, followed by one sentence of advice where there
is an obvious fix. The subject names the index of the first bad entry: `beta[2] must be finite and >= 0, got -1.0.`
A wrong type raises `TypeError`, a wrong value `ValueError`.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from nashjax._math.transfers import explicit, is_concrete, owned, to_host
from nashjax.solution import Solution

LARGEST_INT = 2**31 - 1
"""Queries, comparisons and games are counted in int32."""
LARGEST_SEED = 2**32 - 1
"""Seeds of `jax.random.key` are 32 bits wide, unless jax computes in double precision."""
SUM_TOLERANCE = 1e-6
"""How far the probabilities of a reference or initial policy may be from summing to 1."""


def message(subject: str, requirement: str, got: str, advice: str = "") -> str:
    """Return `SUBJECT must be REQUIREMENT, got GOT. ADVICE`.

    A requirement that begins with a verb other than "be" starts with "must": `"must have shape [3]"`.

    Args:
      subject: name of the argument, with the index of the entry if there is one.
      requirement: what the subject must be, a noun phrase or an adjective.
      got: what was found.
      advice: one full sentence that says how to fix it, or nothing.
    """
    verb = requirement if requirement.startswith("must ") else f"must be {requirement}"
    return f"{subject} {verb}, got {got}." + (f" {advice}" if advice else "")


def invalid(subject: str, requirement: str, got: str, advice: str = "") -> ValueError:
    """Return the error for a wrong value; the arguments are those of `message`."""
    return ValueError(message(subject, requirement, got, advice))


def wrong_type(subject: str, requirement: str, value: Any, advice: str = "") -> TypeError:
    """Return the error for a value of a wrong type; the arguments are those of `message`, with the value itself."""
    return TypeError(message(subject, requirement, shown(value), advice))


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return the value as a Python integer.

    Raises:
      TypeError: the value is not an integer.
      ValueError: the integer is less than `least` or more than `most`.
    """
    bounds = f">= {least}" if most is None else f"from {least} to {most}"
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise wrong_type(name, f"an integer {bounds}", value)
    if number < least or (most is not None and number > most):
        raise invalid(name, f"an integer {bounds}", shown(value))
    return number


def check_number(
    name: str, value: Any, least: float = 0.0, most: float = math.inf, *, open_at: Sequence[float] = ()
) -> float:
    """Return the value as a Python number.

    Raises:
      TypeError: the value is not a real number.
      ValueError: the number is not finite, not from `least` to `most`, or one of `open_at`.
    """
    low = f"{'>' if least in open_at else '>='} {least:g}"
    high = "" if most == math.inf else f" and {'<' if most in open_at else '<='} {most:g}"
    requirement = f"a finite number {low}{high}"
    if not _is_real_scalar(value):
        raise wrong_type(name, requirement, value)
    try:
        number = float(value)
    except OverflowError:  # an integer beyond the largest float
        number = math.inf
    if not (math.isfinite(number) and least <= number <= most) or number in open_at:
        raise invalid(name, requirement, shown(value))
    return number


def _is_real_scalar(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return value.ndim == 0 and (value.dtype.kind in "iuf" or jnp.issubdtype(value.dtype, jnp.floating))
    return isinstance(value, Real)


def check_positive(name: str, value: Any, most: float = math.inf) -> float:
    """Return the value as a Python number; as `check_number` for finite numbers > 0, at most `most`."""
    return check_number(name, value, 0.0, most, open_at=(0.0,))


def check_shape(name: str, value: Any) -> tuple[int, ...]:
    """Return the value as a tuple of Python integers.

    Raises:
      TypeError: the value is not a tuple or list of integers.
      ValueError: an integer is negative.
    """
    if not isinstance(value, (tuple, list)):
        raise wrong_type(name, "a tuple of integers >= 0", value)
    return tuple(check_integer(f"{name}[{axis}]", size, 0) for axis, size in enumerate(value))


def check_choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Raise TypeError unless the value is a string, ValueError unless it is one of the allowed strings."""
    requirement = f"one of {', '.join(map(repr, allowed))}" if len(allowed) > 1 else repr(allowed[0])
    if not isinstance(value, str):
        raise wrong_type(name, requirement, value)
    if value not in allowed:
        raise invalid(name, requirement, shown(value))


def check_texts(name: str, value: Any) -> None:
    """Raise TypeError for one string where a list of strings is required: its letters would pass for the strings."""
    if isinstance(value, str):
        raise wrong_type(name, "a list of strings", value, "Put the string in a list.")


def check_key(name: str, key: Any) -> None:
    """Raise TypeError unless this is one jax random key, from `jax.random.key` or `jax.random.PRNGKey`."""
    good = False
    if isinstance(key, jax.Array):
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        good = key.shape == () if typed else key.dtype == jnp.uint32 and key.ndim == 1
    if not good:
        raise wrong_type(name, "one jax random key, such as jax.random.key(0)", key)


def check_all(name: str, values: np.ndarray, good: np.ndarray, requirement: str, advice: str = "") -> None:
    """Raise ValueError that names the first entry where `good` is false; `requirement` is that of one entry."""
    if not good.all():
        index = first_index(~good)
        raise invalid(place_name(name, index), requirement, str(values[index]), advice)


def check_policy(name: str, policy: np.ndarray) -> None:
    """Raise ValueError unless the last axis holds probabilities that sum to 1."""
    log_probabilities = bool(policy.size) and bool((policy <= 0).all()) and bool((policy < 0).any())
    advice = "These look like log-probabilities: pass their exponentials." if log_probabilities else ""
    check_all(name, policy, np.isfinite(policy) & (policy >= 0), "a probability >= 0", advice)
    sums = policy.sum(axis=-1)
    wrong = np.abs(sums - 1) > SUM_TOLERANCE
    if wrong.any():
        index = first_index(wrong)
        requirement = f"probabilities that sum to 1 within {SUM_TOLERANCE:g}"
        advice = "Divide them by their sum." if sums[index] > 0 else ""
        raise invalid(place_name(name, index), requirement, f"the sum {sums[index]}", advice)


def check_square(name: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the last two axes of an array are `n, n` with `n >= 2`."""
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] < 2:
        raise invalid(name, "a square matrix [..., n, n] with n >= 2", f"shape {list(shape)}")


def as_real_array(name: str, x: Any) -> jax.Array | np.ndarray:
    """Return the argument as an array of real numbers.

    Raises:
      TypeError: the argument is not an array of real numbers.
      ValueError: its rows differ in length.
    """
    if not isinstance(x, jax.Array):
        check_not_solution(name, x)
        if x is None or isinstance(x, (str, bytes)):
            raise wrong_type(name, "an array of real numbers", x)
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(x)):  # a nested list under `jit`
            return _stacked(name, x)
        try:
            x = np.asarray(x)
        except ValueError:
            raise invalid(name, "an array of real numbers, rows of equal length", "rows that differ") from None
    if not (jnp.issubdtype(x.dtype, jnp.floating) or x.dtype.kind in "biu"):
        raise TypeError(message(name, "an array of real numbers", f"dtype {x.dtype}"))
    return x if isinstance(x, jax.Array) else x.astype(x.dtype.newbyteorder("="), copy=False)


def _stacked(name: str, x: Any) -> jax.Array:
    """Return nested lists with traced numbers as one array."""
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError):
        raise invalid(name, "an array of real numbers, rows of equal length", "rows that differ") from None


def check_not_solution(name: str, x: Any) -> None:
    """Raise TypeError for a solution where an array is required."""
    if isinstance(x, Solution):
        field = {"log_policy": "log_policy", "exploitability": "exploitability", "game": None, "beta": None}
        found = field.get(name, "policy")
        raise TypeError(message(name, "an array", "a Solution", f"Pass its .{found}." if found else ""))


def real_numbers_or_none(x: Any) -> np.ndarray | None:
    """Return the values in float64, or None if they are not an array of real numbers."""
    try:
        found = np.asarray(x)
        # None, texts, times and complex numbers are none.
        return None if found.dtype.kind in "cmMOSU" else found.astype(np.float64)
    except Exception:  # whatever the arrays of another library do
        return None


def as_numbers(name: str, x: Any) -> np.ndarray:
    """Return the values of an argument in float64; raises TypeError if they are not real numbers."""
    check_not_solution(name, x)
    try:
        found = real_numbers_or_none(to_host(x))
    except ValueError:  # lists of different lengths
        found = None
    if found is None:
        raise wrong_type(name, "real numbers", x)
    return found


def as_policy(
    name: str,
    policy: ArrayLike,
    num_actions: int,
    dtype: jnp.dtype,
    *,
    validate: bool = True,
    in_place: bool = False,
) -> jax.Array:
    """Check probabilities `[*batch, n]` and cast them to a dtype, as `cast` does.

    Raises:
      ValueError: an entry is not valid; the message names `name` and the index of the first bad entry.
    """
    policy = as_real_array(name, policy)
    shape = policy.shape
    if not shape or shape[-1] != num_actions:
        raise invalid(name, f"an array [..., {num_actions}] with a probability for each action", f"shape {list(shape)}")
    if validate and is_concrete(policy):
        values = as_numbers(name, policy)
        check_policy(name, values)
        if name.startswith("reference"):  # in which a zero has a meaning
            tiny = float(jnp.finfo(dtype).tiny)
            check_all(name, values, (values == 0) | (values >= tiny), f"0 or, in {dtype}, at least {tiny:.3g}")
    return cast(policy, dtype, in_place=in_place)


def cast(x: ArrayLike, dtype: jnp.dtype, *, in_place: bool = False) -> jax.Array:
    """Return numbers as an array of a dtype; if `in_place`, what is not a jax array becomes a numpy array."""
    if in_place and not isinstance(x, jax.Array) and is_concrete(x):
        return np.asarray(x, dtype)  # pyright: ignore[reportReturnType]
    return jnp.asarray(explicit(owned(x)), dtype)


def check_betas(
    beta: ArrayLike, tol: ArrayLike, dtype: jnp.dtype, beta_name: str = "beta", tol_name: str = "tol"
) -> None:
    """Raise ValueError unless concrete betas and tolerances are numbers >= 0 that the dtype can hold."""
    tiny, largest = _range(dtype)
    if not _is_number_from(beta, tiny, largest) and is_concrete(beta):
        values = as_numbers(beta_name, beta)
        check_all(beta_name, values, np.isfinite(values) & (values >= 0), "finite and >= 0")
        allowed = f"0 or, in {dtype}, {tiny:.3g} to {largest:.3g}"
        check_all(beta_name, values, (values == 0) | ((values >= tiny) & (values <= largest)), allowed)
    if not _is_number_from(tol, 0, largest) and is_concrete(tol):
        values = as_numbers(tol_name, tol)
        allowed = f"a number >= 0 and, in {dtype}, <= {largest:.3g}"
        check_all(tol_name, values, (values >= 0) & (values <= largest), allowed)


@functools.cache
def _range(dtype: jnp.dtype) -> tuple[float, float]:
    return float(jnp.finfo(dtype).tiny), float(jnp.finfo(dtype).max)


def _is_number_from(x: object, low: float, high: float) -> bool:
    """Return whether this is a Python number in a range, which is known without making an array."""
    return isinstance(x, (int, float)) and low <= x <= high


def as_floating(array: jax.Array | np.ndarray) -> jax.Array:
    """Return the array in float32 or float64; half precision becomes float32, integers and booleans jax's default.

    A numpy array stays a numpy array, concrete also inside a trace.
    """
    if jnp.issubdtype(array.dtype, jnp.floating):
        dtype = jax.dtypes.canonicalize_dtype(array.dtype) if array.dtype.itemsize >= 4 else jnp.float32
    else:
        dtype = jnp.result_type(float)
    if isinstance(array, np.ndarray):
        return array.astype(dtype, copy=False)  # pyright: ignore[reportReturnType]
    # A weak type would give way to others.
    return array.astype(dtype) if array.dtype != dtype or array.weak_type else array


def place_name(name: str, index: tuple[int, ...]) -> str:
    """Return the name of an argument with an index in it."""
    return name + (str(list(index)) if index else "")


def first_index(mask: np.ndarray) -> tuple[int, ...]:
    """Return the index of the first entry that is true."""
    return tuple(int(i) for i in np.unravel_index(np.argmax(mask), mask.shape))


def shown(value: Any) -> str:
    """Return a value as a message shows it: its `repr` on one line, cut to 60 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
