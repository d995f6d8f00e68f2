"""Validity of the games of a batch, and the error for the first that is not a preference game."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nashjax.arguments import first_index, invalid, place_name
from nashjax.games.base import Game
from nashjax.pytree import Classes
from nashjax.transfers import explicit, is_concrete, to_host

NOT_A_GAME = "a preference game, P + P^T = 1 with P in [0, 1]"


def prepare_game(game: Any, reference: jax.Array | None) -> tuple[Game, jax.Array]:
    """Return a game in the form that is solved, and which games are preference games, bool `[*batch]`.

    Actions that the reference excludes are not looked at. Traceable.
    """
    if hasattr(game, "prepared"):
        return game.prepared(None if reference is None else reference > 0)
    return game, game.is_valid() if hasattr(game, "is_valid") else jnp.ones(game.batch_shape, bool)


_valid_games = jax.jit(lambda game, reference, classes: prepare_game(game, reference)[1])


def check_game(game: Game, reference: jax.Array | None) -> None:
    """Raise ValueError that names the first bad entry unless these are preference games.

    Traced games cannot be checked. Actions that the reference excludes are not looked at.
    """
    checked = hasattr(game, "prepared") or hasattr(game, "is_valid")
    if not checked or not is_concrete((game, reference)):
        return
    with jax.ensure_compile_time_eval():  # a concrete game can also stand inside a trace
        valid = to_host(_valid_games(*explicit((game, reference)), Classes.of(game)))
    if not valid.all():
        raise _bad_game(game, reference, first_index(~valid))


def _bad_game(game: Any, reference: jax.Array | None, bad: tuple[int, ...]) -> ValueError:
    """Return the error for the game at the place `bad` of the batch."""
    index = bad[len(bad) - len(game.batch_shape) :]
    here = all(getattr(leaf, "is_fully_addressable", True) for leaf in jax.tree.leaves(game))
    allowed = allowed_at(reference, bad)
    fault = None
    if here and hasattr(game, "fault"):
        fault = jax.tree.map(lambda leaf: leaf_at(leaf, index), game).fault(allowed, index)
    return ValueError(f"game.{fault}") if fault else invalid(place_name("game", index), NOT_A_GAME, "another matrix")


def leaf_at(leaf: Any, index: tuple[int, ...]) -> np.ndarray:
    """Return the part of an array of a batch of games that belongs to the game at `index`; shared axes have size 1."""
    sizes = np.shape(leaf)[: len(index)]
    return np.asarray(leaf)[tuple(0 if size == 1 else i for i, size in zip(index, sizes, strict=True))]


def allowed_at(reference: Any, index: tuple[int, ...]) -> np.ndarray | None:
    """Return which actions the reference `[*batch, n]` allows the game at `index`, bool `[n]`; None for all."""
    if reference is None:
        return None
    values = to_host(reference)
    rank = values.ndim - 1
    return leaf_at(values, index[len(index) - rank :]) > 0
