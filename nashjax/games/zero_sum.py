"""Zero-sum games of several players, given by what each player gets from each other one."""

from __future__ import annotations

import abc
import dataclasses
import operator
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from nashjax._math.linear import product
from nashjax._math.pytree import register_dataclass
from nashjax._validation import as_floating, as_real_array, check_integer, first_index, invalid, message, wrong_type
from nashjax.games.base import Game
from nashjax.games.faults import SYMMETRY_TOLERANCE

Pair = tuple[int, int]


class PlayersGame(Game):
    """Game of several players whose payoffs are sums over pairs of players and add up to 0."""

    has_matrix: ClassVar[bool] = True

    @abc.abstractmethod
    def pairs(self) -> dict[Pair, jax.Array]:
        """Return what player `g` gets from player `k`, `[*batch_shape, n_g, n_k]`, for pairs `g < k`."""

    @property
    def num_actions(self) -> int:
        """Number of actions of all players together."""
        return sum(self.sizes)

    def payoffs(self, weights: jax.Array) -> jax.Array:
        """Return what each action earns against the policies of the other players, `[n, *batch]`.

        Args:
          weights: policies of all players, concatenated, `[n, *batch]`.
        """
        return pair_payoffs(self.pairs(), self.sizes, weights)

    def dense(self) -> jax.Array:
        """Return the skew-symmetric matrix `M` of all players, `[*batch_shape, n, n]`, with zero diagonal blocks."""
        return pair_matrix(self.pairs(), self.sizes)

    def fault(self, allowed: np.ndarray | None = None, index: tuple[int, ...] = ()) -> str | None:
        """Return the error message for the first payoff between allowed actions that is not finite, or None."""
        starts = np.cumsum([0, *self.sizes])
        for (g, k), matrix in self.pairs().items():
            bad = ~np.isfinite(np.asarray(matrix))
            if allowed is not None:
                rows, columns = (allowed[starts[i] : starts[i + 1]] for i in (g, k))
                bad &= rows[:, None] & columns[None, :]
            if bad.any():
                at = first_index(bad)
                name = f"{self.pair_name((g, k))}{[*index, *at]}"
                return message(name, "a finite number", str(np.asarray(matrix)[at]))
        return None

    @abc.abstractmethod
    def pair_name(self, pair: Pair) -> str:
        """Return the name of the matrix of a pair in error messages."""


@register_dataclass
@dataclasses.dataclass(frozen=True)
class ZeroSumGame(PlayersGame):
    """Zero-sum games of a row player and a column player.

    `solve` returns the policies of both players, the value of the game and its duality gap. With `beta = 0` they are
    optimal strategies; with `beta > 0` each player also pays `beta` times the KL divergence from its reference. Scores
    of agents (rows) in tasks (columns) are such a game, too: its equilibrium at `beta = 0` is the Nash average of
    Balduzzi et al. (2018), appendix D.

    Attributes:
      payoff_matrix: what the row player gets, `[*batch_shape, n1, n2]`, float; integers are promoted. The column player
        gets the negative.

    Raises:
      TypeError: the payoffs are not an array of real numbers.
      ValueError: the payoffs are not `[*batch_shape, n1, n2]`. Values are checked when the game is solved.

    Example:
      >>> import nashjax as nj
      >>> matching_pennies = nj.ZeroSumGame([[3.0, -1.0], [-1.0, 1.0]])
      >>> solution = nj.solve(matching_pennies, beta=0)
      >>> [[round(float(x), 3) for x in policy] for policy in solution.policies], round(float(solution.value), 3)
      ([[0.333, 0.667], [0.333, 0.667]], 0.333)

    References:
      - von Neumann, 1928, "Zur Theorie der Gesellschaftsspiele", https://doi.org/10.1007/BF01448847
      - Balduzzi et al., 2018, "Re-evaluating Evaluation", https://arxiv.org/abs/1806.02643
    """

    payoff_matrix: Any

    def __post_init__(self):
        given = self.payoff_matrix
        if isinstance(given, (jax.Array, np.ndarray, list, tuple, str, bytes, int, float)) or given is None:
            object.__setattr__(self, "payoff_matrix", _as_payoffs("payoff_matrix", given))

    @property
    def sizes(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Number of rows and number of columns."""
        return tuple(self.payoff_matrix.shape[-2:])

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch axes; `()` for one game."""
        return tuple(self.payoff_matrix.shape[:-2])

    def pairs(self) -> dict[Pair, jax.Array]:
        """Return the payoffs of the row player as those of the pair `(0, 1)`."""
        return {(0, 1): self.payoff_matrix}

    def pair_name(self, pair: Pair) -> str:
        """See `PlayersGame.pair_name`."""
        del pair
        return "payoff_matrix"


@register_dataclass
@dataclasses.dataclass(frozen=True)
class PolymatrixGame(PlayersGame):
    """Zero-sum games of any number of players, each of whom plays one policy against all others.

    Player `g` earns the sum of `p_g^T A_gk p_k` over the other players `k`. The payoffs of each pair add up to 0,
    `A_kg = -A_gk^T`, so that one of the two matrices says all. Equilibria of such games are solutions of a linear
    program, for any number of players (Cai et al. 2016).

    Attributes:
      sizes: number of actions of each player, at least two players.
      pair_payoffs: matrices `A_gk` by pair `(g, k)`: what player `g` gets from player `k`,
        `[*batch_shape, n_g, n_k]`. A missing pair does not play. If both `(g, k)` and `(k, g)` are given, they must
        agree.

    Raises:
      TypeError: a pair is not a tuple of two integers, or a matrix is not an array of real numbers.
      ValueError: a pair names a player that does not exist, a shape is wrong, or two matrices of a pair disagree.

    Example:
      >>> import nashjax as nj
      >>> pennies = [[1.0, -1.0], [-1.0, 1.0]]
      >>> ring = nj.PolymatrixGame((2, 2, 2), {(0, 1): pennies, (1, 2): pennies, (2, 0): pennies})
      >>> [policy.tolist() for policy in nj.solve(ring, beta=0.1).policies]
      [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]

    References:
      - Cai, Candogan, Daskalakis, Papadimitriou, 2016, "Zero-Sum Polymatrix Games: A Generalization of Minmax",
        https://doi.org/10.1287/moor.2015.0745
    """

    sizes: tuple[int, ...] = dataclasses.field(metadata={"static": True})  # pyright: ignore[reportIncompatibleVariableOverride]
    pair_payoffs: Mapping[Pair, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "sizes", _checked_sizes(self.sizes))
        if not isinstance(self.pair_payoffs, Mapping):
            raise wrong_type("pair_payoffs", "a dict of matrices by pair of players", self.pair_payoffs)
        if not self.pair_payoffs:
            raise invalid("pair_payoffs", "a dict with at least one pair of players", "an empty dict")
        object.__setattr__(self, "pair_payoffs", _ordered_pairs(self.pair_payoffs, self.sizes))

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch axes; `()` for one game."""
        return tuple(np.broadcast_shapes(*(matrix.shape[:-2] for matrix in self.pair_payoffs.values())))

    def pairs(self) -> dict[Pair, jax.Array]:
        """Return the matrices of pairs `g < k`."""
        return dict(self.pair_payoffs)

    def pair_name(self, pair: Pair) -> str:
        """See `PlayersGame.pair_name`."""
        return f"pair_payoffs[{pair[0]}, {pair[1]}]"


def pair_payoffs(pairs: Mapping[Pair, jax.Array], sizes: tuple[int, ...], weights: jax.Array) -> jax.Array:
    """Return what each action earns, `[n, *batch]`, from matrices `[*batch_shape, n_g, n_k]` of pairs `g < k`."""
    ends = np.cumsum(sizes)
    parts = [weights[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    earned: list[Any] = [jnp.zeros_like(part) for part in parts]
    for (g, k), matrix in pairs.items():
        earned[g] = earned[g] + product("...ij,j...->i...", matrix, parts[k])
        earned[k] = earned[k] - product("...ij,i...->j...", matrix, parts[g])
    return jnp.concatenate(earned)


def pair_matrix(pairs: Mapping[Pair, jax.Array], sizes: tuple[int, ...]) -> jax.Array:
    """Return the matrix of all players, `[*batch_shape, n, n]`, from those of pairs `g < k`."""
    some = next(iter(pairs.values()))
    batch = np.broadcast_shapes(*(matrix.shape[:-2] for matrix in pairs.values()))

    def block(g: int, k: int) -> jax.Array:
        if (g, k) in pairs:
            return jnp.broadcast_to(pairs[g, k], (*batch, sizes[g], sizes[k]))
        if (k, g) in pairs:
            return -jnp.broadcast_to(pairs[k, g].mT, (*batch, sizes[g], sizes[k]))
        return jnp.zeros((*batch, sizes[g], sizes[k]), some.dtype)

    players = range(len(sizes))
    return jnp.concatenate([jnp.concatenate([block(g, k) for k in players], axis=-1) for g in players], axis=-2)


def _as_payoffs(name: str, given: Any) -> jax.Array:
    """Return payoffs as a float array; a numpy array stays one."""
    array = as_floating(as_real_array(name, given))
    if array.ndim < 2 or 0 in array.shape[-2:]:
        raise invalid(name, "an array [..., n1, n2] with n1, n2 >= 1", f"shape {list(array.shape)}")
    return array


def _checked_sizes(sizes: Any) -> tuple[int, ...]:
    if not isinstance(sizes, (tuple, list)):
        raise wrong_type("sizes", "a tuple with the number of actions of each player", sizes)
    if len(sizes) < 2:
        raise invalid("sizes", "a tuple of at least two players", repr(tuple(sizes)))
    return tuple(check_integer(f"sizes[{g}]", size, 1) for g, size in enumerate(sizes))


def _ordered_pairs(given: Mapping[Any, ArrayLike], sizes: tuple[int, ...]) -> dict[Pair, jax.Array]:
    """Return the matrices of pairs `g < k`, with equal numbers of axes."""
    found: dict[Pair, Any] = {}
    for key, value in given.items():
        g, k = _checked_pair(key, len(sizes))
        name = f"pair_payoffs[{g}, {k}]"
        matrix = _as_payoffs(name, value)
        if matrix.shape[-2:] != (sizes[g], sizes[k]):
            raise invalid(name, f"an array [..., {sizes[g]}, {sizes[k]}]", f"shape {list(matrix.shape)}")
        pair, ordered = ((g, k), matrix) if g < k else ((k, g), -matrix.mT)
        if pair in found:
            _check_agreement(pair, found[pair], ordered)
            if np.ndim(found[pair]) >= np.ndim(ordered):
                continue
        found[pair] = ordered
    try:
        batch = np.broadcast_shapes(*(matrix.shape[:-2] for matrix in found.values()))
    except ValueError:
        shapes = ", ".join(f"[{g}, {k}] {list(matrix.shape)}" for (g, k), matrix in found.items())
        raise invalid("pair_payoffs", "must have batch shapes that broadcast with each other", shapes) from None
    dtype = np.result_type(*(matrix.dtype for matrix in found.values()))
    return {
        pair: matrix.reshape((1,) * (len(batch) + 2 - matrix.ndim) + matrix.shape).astype(dtype)
        for pair, matrix in sorted(found.items())
    }


def _checked_pair(key: Any, num_players: int) -> Pair:
    requirement = f"a tuple of two different players from 0 to {num_players - 1}"
    try:
        if not isinstance(key, tuple):
            raise TypeError
        g, k = (operator.index(part) for part in key)
    except (TypeError, ValueError):
        raise TypeError(message("a key of pair_payoffs", requirement, repr(key))) from None
    if g == k or not (0 <= g < num_players and 0 <= k < num_players):
        raise invalid("a key of pair_payoffs", requirement, repr(key))
    return g, k


def _check_agreement(pair: Pair, one: Any, other: Any) -> None:
    if isinstance(one, Tracer) or isinstance(other, Tracer):
        return
    one, other = np.asarray(one), np.asarray(other)
    largest = max(np.abs(one).max(initial=0), np.abs(other).max(initial=0))
    try:
        differs = bool((np.abs(one - other) > SYMMETRY_TOLERANCE * largest).any())
    except ValueError:
        differs = True
    if differs:
        g, k = pair
        advice = "Give one of the two."
        raise invalid(f"pair_payoffs[{k}, {g}]", f"-pair_payoffs[{g}, {k}] transposed", "another matrix", advice)
