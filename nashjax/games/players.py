"""Arguments with one part for each player of a game: policies, references and betas."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nashjax._math.transfers import is_concrete
from nashjax._validation import as_policy, cast, check_betas, invalid, shown, wrong_type

PolicyLike = ArrayLike | Sequence[Any]
"""Policy `[*batch, n]`, or a tuple with one for each player."""
BetaLike = ArrayLike | tuple[Any, ...]
"""Beta `[*batch]`, or a tuple with one for each player."""


def as_policies(
    name: str,
    policies: PolicyLike,
    sizes: tuple[int, ...],
    dtype: jnp.dtype,
    *,
    validate: bool = True,
    in_place: bool = False,
) -> jax.Array:
    """Check policies and cast them to a dtype; those of several players are concatenated, `[*batch, n]`.

    Raises:
      TypeError: a game of several players gets something else than a tuple or list, or an array is not one of numbers.
      ValueError: the number of policies is not that of the players, or an entry is not valid; the message names it.
    """
    one: Any = functools.partial(as_policy, dtype=dtype, validate=validate, in_place=in_place)
    if len(sizes) == 1:
        return one(name, policies, sizes[0])
    if not isinstance(policies, (tuple, list)) or any(isinstance(part, Real) for part in policies):
        raise wrong_type(name, f"a tuple of {len(sizes)} policies, one for each player", policies)
    if len(policies) != len(sizes):
        raise invalid(name, f"a tuple of {len(sizes)} policies, one for each player", f"{len(policies)} of them")
    parts = [one(f"{name}[{g}]", part, size) for g, (part, size) in enumerate(zip(policies, sizes, strict=True))]
    batch = _common_batch(name, [part.shape[:-1] for part in parts])
    xp: Any = np if all(isinstance(part, np.ndarray) for part in parts) else jnp
    return xp.concatenate([xp.broadcast_to(part, (*batch, part.shape[-1])) for part in parts], axis=-1)


def split_betas(
    beta: BetaLike, tol: ArrayLike, sizes: tuple[int, ...], dtype: jnp.dtype, *, validate: bool, in_place: bool
) -> tuple[jax.Array, jax.Array | None]:
    """Check betas and cast them to a dtype.

    Returns:
      The beta of all players, `[*batch]`, or their largest; and that of each, `[*batch, players]`, None if they share
      one.

    Raises:
      ValueError: a beta is not valid, or their number is not that of the players.
    """
    if not isinstance(beta, tuple):
        if validate:
            check_betas(beta, tol, dtype)
        return cast(beta, dtype, in_place=in_place), None
    if len(sizes) == 1:
        raise wrong_type("beta", "a number or an array [*batch] for a preference game", beta)
    if len(beta) != len(sizes):
        requirement = f"a number, an array [*batch], or a tuple of {len(sizes)} of these, one for each player"
        raise invalid("beta", requirement, f"a tuple of {len(beta)}: {shown(beta)}")
    if validate:
        for g, own in enumerate(beta):
            check_betas(own, tol, dtype, f"beta[{g}]")
    parts = [cast(own, dtype, in_place=in_place) for own in beta]
    batch = _common_batch("beta", [part.shape for part in parts])
    on_host = in_place and all(isinstance(part, np.ndarray) for part in parts) and is_concrete(parts)
    xp: Any = np if on_host else jnp
    stacked = xp.stack([xp.broadcast_to(part, batch) for part in parts], axis=-1)
    return xp.max(stacked, axis=-1), stacked


def _common_batch(name: str, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        found = ", ".join(f"[{g}] {list(shape)}" for g, shape in enumerate(shapes))
        raise invalid(name, "must have batch shapes that broadcast with each other", found) from None


def split_policies(policies: Any, sizes: tuple[int, ...]) -> tuple[Any, ...]:
    """Split `[..., n]` into the policy of each player, `[..., n_g]`."""
    ends = np.cumsum(sizes)
    return tuple(policies[..., end - size : end] for size, end in zip(sizes, ends, strict=True))
