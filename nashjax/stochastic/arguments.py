"""Checks of single numbers among the arguments."""

from __future__ import annotations

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp


def at_least(name: str, value: Any, least: int) -> None:
    """Raise ValueError unless the value is an integer >= least."""
    try:
        good = not isinstance(value, bool) and operator.index(value) >= least
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"{name}: is {value!r}; allowed are integers >= {least}")


def number(name: str, value: Any, least: float = 0.0, most: float = math.inf, *, open_at: float | None = None) -> None:
    """Raise ValueError unless the value is a finite number from least to most; `open_at` excludes an end."""
    try:
        good = math.isfinite(value) and least <= value <= most and value != open_at
    except TypeError:
        good = False
    if not good:
        low = f"> {least:g}" if open_at == least else f">= {least:g}"
        high = "" if most == math.inf else f" and <= {most:g}"
        raise ValueError(f"{name}: is {value!r}; allowed are finite numbers {low}{high}")


def positive(name: str, value: Any, most: float = math.inf) -> None:
    """Raise ValueError unless the value is a finite number > 0, at most `most`."""
    number(name, value, 0.0, most, open_at=0.0)


def random_key(name: str, value: Any) -> None:
    """Raise ValueError unless the value is one jax random key, of either kind."""
    good = isinstance(value, jax.Array)
    if good and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        good = value.shape == ()
    elif good:
        good = value.dtype == jnp.uint32 and value.ndim == 1  # as `jax.random.PRNGKey` makes them
    if not good:
        raise ValueError(f"{name}: is {value!r}; allowed are jax random keys, such as jax.random.key(0)")
