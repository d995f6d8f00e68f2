"""Validation of the games of a batch, and the error for the first invalid one."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from nashjax._math.pytree import Classes
from nashjax._math.transfers import explicit, is_concrete, to_host
from nashjax._validation import first_index, invalid, place_name
from nashjax.games.base import Game

NOT_A_GAME = "a preference game, P + P^T = 1 with P in [0, 1]"


def allowed_actions(reference: jax.Array | None) -> jax.Array | None:
    """Return the actions that a reference `[*batch, n]` allows, bool of the same shape; None for all."""
    return None if reference is None else reference > 0


_valid_games = jax.jit(lambda game, reference, classes: game.prepared(allowed_actions(reference))[1])


def check_game(game: Game, reference: jax.Array | None) -> None:
    """Raise ValueError that names the first bad entry unless all games are preference games.

    Traced games are not checked, nor are actions that the reference excludes.
    """
    if not game.checks_values() or not is_concrete((game, reference)):
        return
    with jax.ensure_compile_time_eval():  # a concrete game can also stand inside a trace
        valid = to_host(_valid_games(*explicit((game, reference)), Classes.of(game)))
    if not valid.all():
        raise _bad_game(game, reference, first_index(~valid))


def _bad_game(game: Game, reference: jax.Array | None, bad: tuple[int, ...]) -> ValueError:
    """Return the error for the game at the place `bad` of the batch."""
    index = bad[len(bad) - len(game.batch_shape) :]
    own = None
    if game.explains_faults() and all(
        not isinstance(leaf, jax.Array) or leaf.is_fully_addressable for leaf in jax.tree.leaves(game)
    ):
        own = jax.tree.map(lambda leaf: leaf_at(leaf, index), game)
    return game_error(own, allowed_at(reference, bad), index)


def game_error(own: Game | None, allowed: np.ndarray | None, index: tuple[int, ...]) -> ValueError:
    """Return the error for one invalid game; `own` is None if its arrays are out of reach."""
    fault = None if own is None else own.fault(allowed, index)
    return ValueError(f"game.{fault}") if fault else invalid(place_name("game", index), NOT_A_GAME, "another matrix")


def leaf_at(leaf: Any, index: tuple[int, ...]) -> np.ndarray:
    """Return the part of an array of a batch of games that belongs to the game at `index`; shared axes have size 1."""
    sizes = np.shape(leaf)[: len(index)]
    return np.asarray(leaf)[tuple(0 if size == 1 else i for i, size in zip(index, sizes, strict=True))]


def allowed_at(reference: Any, index: tuple[int, ...]) -> np.ndarray | None:
    """Return the actions that the reference `[*batch, n]` allows the game at `index`, bool `[n]`; None for all."""
    if reference is None:
        return None
    values = to_host(reference)
    rank = values.ndim - 1
    return leaf_at(values, index[len(index) - rank :]) > 0
