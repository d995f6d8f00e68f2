"""Games of very many actions with features: the matrix is computed tile by tile in each query and never stored."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from nashjax._math.linear import product
from nashjax._math.pytree import register_dataclass
from nashjax._validation import invalid
from nashjax.games.base import Game
from nashjax.games.faults import SYMMETRY_TOLERANCE, check_factor, describe_not_finite, describe_not_skew
from nashjax.games.matrix import allowed_somewhere, holds_where_allowed
from nashjax.games.transposable import transposable

TILE = {"cpu": 512}
"""Rows and columns of a tile: what the cache of a core holds. 1,024 and 2,048 took 10 and 40 % longer."""
LARGE_TILE = 2048
"""Of accelerators; not measured."""


@register_dataclass
@dataclasses.dataclass(frozen=True)
class EmbeddingGame(Game):
    """Preference games `P[i, j] = sigmoid(x_i^T S x_j)` of actions with features.

    General preference models are of this form, and with `S` of blocks `[[0, 1], [-1, 0]]` every skew-symmetric matrix
    of logits of rank at most `d` is. A query computes the tiles of the matrix above its diagonal, each once for both of
    its halves (`P^T = 1 - P`); it needs memory for the features and a tile, and its derivatives need no more.

    Attributes:
      features: `x`, `[*batch, n, d]`, float, `n >= 2`, `d >= 1`.
      skew: `S`, `[*batch, d, d]`, of as many axes; batch axes of size 1 are shared. `S + S^T = 0` to 1e-6 of its
        largest entry; used is `(S - S^T)/2`.

    Raises:
      ValueError: the shapes do not belong together.

    >>> circle = jnp.array([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])  # rock, paper, scissors
    >>> game = EmbeddingGame(circle, jnp.array([[0.0, 2.0], [-2.0, 0.0]]))
    >>> [round(float(payoff), 2) for payoff in game.payoffs(jnp.array([1.0, 0.0, 0.0]))]  # against rock
    [0.5, 0.15, 0.85]
    """

    features: jax.Array
    skew: jax.Array

    def __post_init__(self):
        if not check_factor("features", self.features, "[*batch, n, d]") or not check_factor(
            "skew", self.skew, "[*batch, d, d]", least=1
        ):
            return
        d = self.features.shape[-1]
        if self.skew.ndim != self.features.ndim or self.skew.shape[-2:] != (d, d):
            allowed = [*(1,) * (self.features.ndim - 2), d, d]
            requirement = (
                f"an array of shape {allowed} beside features {list(self.features.shape)}, or with its batch axes"
            )
            raise invalid("skew", requirement, f"shape {list(self.skew.shape)}")

    @property
    def num_actions(self) -> int:
        """The number `n` of actions of each game."""
        return self.features.shape[-2]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The batch axes; `()` for one game."""
        return np.broadcast_shapes(self.features.shape[:-2], self.skew.shape[:-2])

    def payoffs(self, weights: jax.Array) -> jax.Array:
        """Answer one preference query `P v`; see `Game.payoffs`."""
        return transposable(self._payoffs)(weights)

    def _payoffs(self, weights: jax.Array) -> jax.Array:
        n = self.num_actions
        count = math.ceil(n / TILE.get(jax.default_backend(), LARGE_TILE))
        tile = math.ceil(n / count)
        # An action without features is even with all others: its margins, of probability 0, are 0.
        with jax.numpy_dtype_promotion("standard"):
            dtype = jnp.result_type(self.features, self.skew, weights)  # margins in less are those of another game
        x = _pad(self.features.astype(dtype), count * tile - n, -2)
        v = _pad(weights.astype(dtype), count * tile - n, 0)
        skew = self.skew.astype(dtype)
        skew = (skew - skew.mT) / 2
        y = product("...id,...de->...ie", x, skew)

        # In reverse mode a tile is computed again: those of all pairs would be the matrix.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def answer(i: jax.Array, j: jax.Array, x: jax.Array, y: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
            """What the actions of tile `i` win from those of `j`, and the other way round."""
            logits = product("...id,...jd->...ij", _slice(y, i, tile, -2), _slice(x, j, tile, -2))
            margins = jnp.tanh(logits / 2) / 2
            won = product("...ij,j...->i...", margins, _slice(v, j, tile, 0))
            lost = product("...ij,i...->j...", margins, _slice(v, i, tile, 0))
            return won, jnp.where(i == j, 0, -lost)

        def add_pair(total: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            i, j = pair
            won, lost = answer(i, j, x, y, v)
            for part, k in ((won, i), (lost, j)):
                total = jax.lax.dynamic_update_slice_in_dim(total, _slice(total, k, tile, 0) + part, k * tile, 0)
            return total, None

        batch = np.broadcast_shapes(self.batch_shape, weights.shape[1:])
        # A sum of none, linear in the weights, that varies over a mesh as they and the features do (`shard_map`); a
        # choice, not a product with 0: a NaN of one game must not reach the others.
        never = (jnp.any(x[..., 0, 0] > 0) | jnp.any(skew[..., 0, 0] > 0)) & False
        none = jnp.where(never, jnp.sum(v[0]), 0)
        start = jnp.broadcast_to(none, (count * tile, *batch))
        first, second = (jnp.asarray(index, jnp.int32) for index in np.triu_indices(count))
        total, _ = jax.lax.scan(add_pair, start, (first, second))
        return jnp.sum(weights, axis=0, keepdims=True) / 2 + total[:n]

    def prepared(self, allowed: jax.Array | None = None) -> tuple[EmbeddingGame, jax.Array]:
        """Return the game without the features of excluded actions, and which games are valid; see `Game`."""
        if allowed is None:
            return self, self.is_valid()
        finite = jnp.all(jnp.isfinite(self.features), axis=-1)
        kept = finite & allowed_somewhere(allowed, self.features.shape[:-2])
        features = jnp.where(kept[..., None], self.features, 0)
        good = finite & jnp.all(self._is_skew(), axis=(-2, -1))[..., None]
        return dataclasses.replace(self, features=features), holds_where_allowed(good, allowed)

    def is_valid(self) -> jax.Array:
        """Return which games have finite features and a skew-symmetric `S`, bool `[*batch_shape]`."""
        finite = jnp.all(jnp.isfinite(self.features), axis=(-2, -1))
        return finite & jnp.all(self._is_skew(), axis=(-2, -1))

    def fault(self, allowed: np.ndarray | None = None, index: tuple[int, ...] = ()) -> str | None:
        """Return the message for the first bad entry of one game, None if there is none; see `Game`."""
        not_finite = describe_not_finite("features", self.features, allowed, index)
        not_finite = not_finite or describe_not_finite("skew", self.skew, None, index)
        return not_finite or describe_not_skew("skew", self.skew, self._allowed(), index)

    def _is_skew(self) -> jax.Array:
        return jnp.isfinite(self.skew) & (self._excess() <= self._allowed())

    def _excess(self) -> jax.Array:
        return jnp.abs(self.skew + self.skew.mT)

    def _allowed(self) -> jax.Array:
        return SYMMETRY_TOLERANCE * jnp.max(jnp.abs(self.skew), axis=(-2, -1), keepdims=True)


def _pad(array: jax.Array, amount: int, axis: int) -> jax.Array:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, amount)
    return jnp.pad(array, widths) if amount else array


def _slice(array: jax.Array, index: jax.Array, size: int, axis: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(array, index * size, size, axis)
