"""Single arguments, checked before any compute; what is wrong with one is said as `NAME: is FOUND; allowed are WHAT`.

Where an argument is an array, the name is followed by the index of the first bad entry: `beta[2]: is -1.0; ...`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LARGEST_INT = 2**31 - 1
"""Queries, comparisons and games are counted in int32."""
LARGEST_SEED = 2**32 - 1
"""Seeds of `jax.random.key` are 32 bits wide, unless jax computes in double precision."""
SUM_TOLERANCE = 1e-6
"""How far the probabilities of a reference or initial policy may be from summing to 1."""


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """The value as a Python integer; raises ValueError unless it is an integer >= least and, if given, <= most."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        allowed = f">= {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}: is {shown(value)}; allowed are integers {allowed}")
    return number


def check_number(
    name: str, value: Any, least: float = 0.0, most: float = math.inf, *, open_at: Sequence[float] = ()
) -> float:
    """The value as a Python number; raises ValueError unless it is a finite one from least to most, less `open_at`."""
    try:
        number = math.nan if isinstance(value, (str, bool)) or np.ndim(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and least <= number <= most) or number in open_at:
        low = f"{'>' if least in open_at else '>='} {least:g}"
        high = "" if most == math.inf else f" and {'<' if most in open_at else '<='} {most:g}"
        raise ValueError(f"{name}: is {shown(value)}; allowed are finite numbers {low}{high}")
    return number


def check_positive(name: str, value: Any, most: float = math.inf) -> float:
    """The value as a Python number; raises ValueError unless it is a finite one > 0, at most `most`."""
    return check_number(name, value, 0.0, most, open_at=(0.0,))


def check_shape(name: str, value: Any) -> tuple[int, ...]:
    """The value as a tuple of Python integers; raises ValueError unless it is a tuple or list of integers >= 0."""
    if not isinstance(value, (tuple, list)):
        raise ValueError(f"{name}: is {shown(value)}; allowed are tuples of integers >= 0")
    return tuple(check_integer(f"{name}[{axis}]", size, 0) for axis, size in enumerate(value))


def check_choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Raise ValueError unless the value is one of some words."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: is {shown(value)}; allowed are {', '.join(map(repr, allowed))}")


def check_texts(name: str, value: Any) -> None:
    """Raise ValueError for one text where several are asked for: its letters would pass for them."""
    if isinstance(value, str):
        raise ValueError(f"{name}: is one text, {shown(value)}; allowed are lists of texts")


def check_key(name: str, key: Any) -> None:
    """Raise ValueError unless this is one jax random key, of `jax.random.key` or `jax.random.PRNGKey`."""
    good = False
    if isinstance(key, jax.Array):
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        good = key.shape == () if typed else key.dtype == jnp.uint32 and key.ndim == 1
    if not good:
        raise ValueError(f"{name}: is {shown(key)}; allowed are jax random keys, such as jax.random.key(0)")


def check_all(name: str, values: np.ndarray, good: np.ndarray, allowed: str) -> None:
    """Raise ValueError, naming the first place where `good` is not true, what is there and what is allowed."""
    if not good.all():
        index = first_index(~good)
        raise ValueError(f"{place_name(name, index)}: is {values[index]}; allowed are {allowed}")


def check_policy(name: str, policy: np.ndarray) -> None:
    """Raise ValueError unless the last axis holds probabilities that sum to 1."""
    check_all(name, policy, np.isfinite(policy) & (policy >= 0), "probabilities >= 0")
    sums = policy.sum(axis=-1)
    wrong = np.abs(sums - 1) > SUM_TOLERANCE
    if wrong.any():
        index = first_index(wrong)
        found = "is all zero" if sums[index] == 0 else f"sums to {sums[index]}"
        raise ValueError(
            f"{place_name(name, index)}: {found}; allowed are probabilities that sum to 1 within {SUM_TOLERANCE:g}"
        )


def check_square(name: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the last two axes of an array are `n, n` with `n >= 2`."""
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] < 2:
        raise ValueError(f"{name}: has shape {list(shape)}; allowed are square matrices [..., n, n], n >= 2")


def as_real_array(name: str, x: Any) -> jax.Array | np.ndarray:
    """The argument as an array of real numbers; raises ValueError where it is none."""
    if not isinstance(x, jax.Array):
        try:
            x = np.asarray(x)
        except ValueError:
            raise ValueError(f"{name}: is not an array; allowed are real numbers in rows of equal length") from None
    if not (jnp.issubdtype(x.dtype, jnp.floating) or x.dtype.kind in "biu"):
        raise ValueError(f"{name}: has dtype {x.dtype}; allowed are real numbers")
    return x if isinstance(x, jax.Array) else x.astype(x.dtype.newbyteorder("="), copy=False)


def real_numbers_or_none(x: Any) -> np.ndarray | None:
    """The values in float64; None where they are no array of real numbers."""
    try:
        found = np.asarray(x)
        # None, texts, times and complex numbers are none.
        return None if found.dtype.kind in "cmMOSU" else found.astype(np.float64)
    except Exception:  # whatever the arrays of another library do
        return None


def as_floating(array: jax.Array | np.ndarray) -> jax.Array:
    """The array in float32 or float64 as it came; half precision in float32, integers and booleans in jax's default.

    What is numpy's stays numpy's, concrete also inside of a trace.
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
    """The name of an argument and where in it."""
    return name + (str(list(index)) if index else "")


def first_index(mask: np.ndarray) -> tuple[int, ...]:
    """The index of the first entry that is true."""
    return tuple(int(i) for i in np.unravel_index(np.argmax(mask), mask.shape))


def shown(value: Any) -> str:
    """A value in a message: as Python writes it, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
