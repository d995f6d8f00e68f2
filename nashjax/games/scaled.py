"""Zero-sum games in the units of a solve, in which payoffs lie within 1/2 as those of preference games do."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nashjax._math import layout, simplex
from nashjax._math.linear import product
from nashjax._math.pytree import register_dataclass
from nashjax._math.transfers import explicit, is_concrete, to_host
from nashjax._validation import first_index, invalid, place_name
from nashjax.games.base import Game
from nashjax.games.matrix import MOST_SMALL, SmallGames, allowed_somewhere, has_no_fault_among
from nashjax.games.players import split_policies
from nashjax.games.zero_sum import Pair, PlayersGame, pair_matrix


@register_dataclass
@dataclasses.dataclass(frozen=True)
class ScaledGame(PlayersGame):
    """Zero-sum games, shifted and scaled so that all payoffs lie in [-1/2, 1/2].

    A constant that is added to all payoffs between two players changes no policy, and neither does a common unit. The
    unit is a power of two, so that scaling does not round.

    Attributes:
      sizes: number of actions of each player.
      scaled: scaled payoffs of the pairs, `[*batch_shape, n_g, n_k]`.
      unit: what one unit of the solve is worth in payoffs, `[*batch_shape]`.
      largest: largest absolute payoff after the shift, in units of the solve, `[*batch_shape]`.
      shift: what each player earns in addition, in payoffs, `[*batch_shape, players]`.
      names: name of the matrix of each pair in messages.
    """

    sizes: tuple[int, ...] = dataclasses.field(metadata={"static": True})  # pyright: ignore[reportIncompatibleVariableOverride]
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    scaled: dict[Pair, jax.Array]
    unit: jax.Array
    largest: jax.Array
    shift: jax.Array

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch axes; `()` for one game."""
        return tuple(self.unit.shape)

    def pairs(self) -> dict[Pair, jax.Array]:
        """Return the scaled payoffs."""
        return self.scaled

    def pair_name(self, pair: Pair) -> str:
        """See `PlayersGame.pair_name`."""
        return self.names[list(self.scaled).index(pair)]

    def payoffs(self, weights: jax.Array) -> jax.Array:
        """Answer one query; see `PlayersGame.payoffs`."""
        return simplex.materialize(super().payoffs(weights), next(iter(self.scaled.values())))

    def prepared(self, allowed: jax.Array | None = None) -> tuple[Game, jax.Array]:
        """Return the game with finite payoffs, and whether all payoffs between allowed actions are finite.

        Many small games come in the layout that is quickest to query.

        Args:
          allowed: bool `[*batch, n]`, default all.
        """
        clean, valid = {}, jnp.asarray(True)
        ends = np.cumsum(self.sizes)
        for (g, k), matrix in self.scaled.items():
            finite = jnp.isfinite(matrix)
            clean[g, k] = jnp.where(finite, matrix, 0)
            if allowed is None:
                valid &= jnp.all(finite, axis=(-2, -1))
            else:
                rows, columns = (allowed[..., ends[i] - self.sizes[i] : ends[i]] for i in (g, k))
                valid &= has_no_fault_among(columns, ~finite, rows)
        if self.num_actions <= MOST_SMALL and math.prod(self.batch_shape) > 1:
            some = next(iter(clean.values()))
            matrix = layout.actions_first(pair_matrix(clean, self.sizes), 2)
            return SmallGames(simplex.materialize(matrix, some), self.sizes), valid
        return dataclasses.replace(self, scaled=clean), valid


def player_earnings(game: ScaledGame, policy: Any) -> Any:
    """Return what each player earns, `[*batch, players]`, in payoffs, from the policies of all, `[*batch, n]`."""
    on_host = isinstance(policy, np.ndarray) and is_concrete(game)
    if on_host:
        return _earnings(jax.tree.map(np.asarray, game), policy, np)
    return _earnings_in_jax(*explicit((game, policy)))


def _earnings(game: ScaledGame, policy: Any, xp: Any) -> Any:
    parts, batch = split_policies(policy, game.sizes), policy.shape[:-1]
    earned = [xp.zeros(batch, policy.dtype)] * len(game.sizes)
    for (g, k), matrix in game.scaled.items():
        # Payoffs of excluded actions may be anything.
        finite = xp.where(xp.isfinite(matrix), matrix, 0)
        if xp is np:
            against = np.einsum("...ij,...j->...i", finite, parts[k])
        else:
            against = product("...ij,...j->...i", finite, parts[k])
        gets = xp.sum(parts[g] * against, axis=-1)
        earned[g], earned[k] = earned[g] + gets, earned[k] - gets
    rank = len(batch)
    unit, shift = (xp.reshape(x, (1,) * (rank - len(game.batch_shape)) + x.shape) for x in (game.unit, game.shift))
    return xp.stack(earned, axis=-1) * unit[..., None] + shift


_earnings_in_jax = jax.jit(functools.partial(_earnings, xp=jnp))


def in_units(game: PlayersGame, allowed: Any) -> ScaledGame:
    """Shift and scale a game.

    Args:
      game: payoffs in any units.
      allowed: bool `[*batch, n]`, None for all actions. Payoffs of actions that no reference of a game allows do not
        count.

    Raises:
      ValueError: the dtype cannot hold the range of the payoffs of a game.
    """
    pairs, own = game.pairs(), None
    on_host = all(isinstance(matrix, np.ndarray) for matrix in pairs.values()) and is_concrete(allowed)
    if allowed is not None:
        allowed = np.asarray(allowed) if on_host else jnp.asarray(explicit(allowed))
        own = _allowed_somewhere(allowed, game.batch_shape, on_host)
    if on_host:
        with np.errstate(over="ignore", invalid="ignore"):  # payoffs that do not count may be anything
            scaled, unit, largest, shift = _scale(pairs, own, game.sizes, game.batch_shape)
    else:
        scaled, unit, largest, shift = _scale_in_jax(*explicit((pairs, own)), game.sizes, game.batch_shape)
    names = tuple(game.pair_name(pair) for pair in pairs)
    if is_concrete(unit):
        _check_range(unit)
    return ScaledGame(game.sizes, names, scaled, unit, largest, shift)


def _allowed_somewhere(allowed: Any, batch_shape: tuple[int, ...], on_host: bool) -> Any:
    with jax.ensure_compile_time_eval():
        found = allowed_somewhere(allowed, batch_shape)
    return np.asarray(found) if on_host else found


def _scale(
    pairs: dict[Pair, Any], allowed: Any, sizes: tuple[int, ...], batch: tuple[int, ...], xp: Any = np
) -> tuple[dict[Pair, Any], Any, Any, Any]:
    """Return the scaled payoffs, the unit, the largest payoff and the shift; derivatives pass the payoffs alone."""
    stop: Any = jax.lax.stop_gradient if xp is jnp else lambda x: x
    ends, dtype = np.cumsum(sizes), next(iter(pairs.values())).dtype
    middle: dict[Pair, Any] = {}
    half: dict[Pair, Any] = {}
    for (g, k), matrix in pairs.items():
        counts = xp.isfinite(matrix)
        if allowed is not None:
            rows, columns = (allowed[..., ends[i] - sizes[i] : ends[i]] for i in (g, k))
            counts = counts & (rows[..., :, None] & columns[..., None, :])
        any_counts = xp.any(counts, axis=(-2, -1))
        high = xp.max(xp.where(counts, matrix, -np.inf), axis=(-2, -1))
        low = xp.min(xp.where(counts, matrix, np.inf), axis=(-2, -1))
        high, low = xp.where(any_counts, high, 0), xp.where(any_counts, low, 0)
        middle[g, k], half[g, k] = stop(high / 2 + low / 2).astype(dtype), stop(high / 2 - low / 2).astype(dtype)
    # Against several opponents the payoffs of a player add up.
    against = [sum((x for pair, x in half.items() if g in pair), start=xp.zeros((), dtype)) for g in range(len(sizes))]
    most = _largest(against, xp)
    _, exponent = xp.frexp(most)
    unit = xp.broadcast_to(xp.where(most > 0, xp.ldexp(xp.ones_like(most), exponent + 1), 1).astype(dtype), batch)
    shift = [xp.zeros(batch, dtype)] * len(sizes)
    for (g, k), x in middle.items():
        shift[g], shift[k] = shift[g] + x, shift[k] - x
    scaled = {
        pair: ((matrix - middle[pair][..., None, None]) / unit[..., None, None]).astype(dtype)
        for pair, matrix in pairs.items()
    }
    largest = xp.broadcast_to(_largest(list(half.values()), xp) / unit, batch).astype(dtype)
    return scaled, unit, largest, xp.stack(shift, axis=-1)


_scale_in_jax = jax.jit(functools.partial(_scale, xp=jnp), static_argnums=(2, 3))


def _largest(arrays: list[Any], xp: Any) -> Any:
    return functools.reduce(xp.maximum, arrays)


def _check_range(unit: Any) -> None:
    found = to_host(unit)
    tiny, largest = np.finfo(found.dtype).tiny, np.finfo(found.dtype).max / 4
    good = np.isfinite(found) & (found >= tiny)
    if not good.all():
        index = first_index(~good)
        requirement = f"one whose payoffs differ by 0 or, in {found.dtype}, by {tiny:.3g} to {largest:.3g}"
        raise invalid(place_name("game", index), requirement, f"a range of about {found[index]}", "Scale the payoffs.")
