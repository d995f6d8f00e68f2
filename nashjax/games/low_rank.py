"""Games of very many actions whose preferences are of low rank: no matrix is ever made."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from nashjax._math.linear import product
from nashjax._math.pytree import register_dataclass
from nashjax._validation import invalid
from nashjax.games.base import Game
from nashjax.games.faults import check_factor, describe_not_finite
from nashjax.games.matrix import allowed_somewhere, holds_where_allowed
from nashjax.games.transposable import transposable

CHUNK = 4096
"""Actions summed one after the other."""
SUMS = "...ir,i...->r..."


@register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRankGame(Game):
    """Preference games `P = 1/2 + L R^T - R L^T` given by two factors; a query costs `O(n r)`.

    Whether every entry of `P` lies in [0, 1] cannot be found in `O(n r)`, so it is not looked for: with factors that
    are too large the "game" is one of skew-symmetric payoffs `P - 1/2`. Certificates hold for it, too, but the steps of
    first-order methods are made for margins within 1/2, and solves can end as `Status.MAX_QUERIES`: scale the factors.

    Attributes:
      left: `L`, `[*batch, n, r]`, float, `n >= 2`, `r >= 1`.
      right: `R`, of as many axes; batch axes of size 1 are shared.

    Raises:
      ValueError: the shapes do not belong together.

    >>> game = LowRankGame(jnp.array([[0.5], [0.25]]), jnp.array([[0.0], [1.0]]))
    >>> game.payoffs(jnp.eye(2)).tolist()
    [[0.5, 1.0], [0.0, 0.5]]
    """

    left: jax.Array
    right: jax.Array

    def __post_init__(self):
        if not check_factor("left", self.left, "[*batch, n, r]") or not check_factor(
            "right", self.right, "[*batch, n, r]"
        ):
            return
        if self.left.ndim != self.right.ndim or self.left.shape[-2:] != self.right.shape[-2:]:
            requirement = f"an array of the shape of left, {list(self.left.shape)}, but for batch axes of size 1"
            raise invalid("right", requirement, f"shape {list(self.right.shape)}")

    @property
    def num_actions(self) -> int:
        """The number `n` of actions of each game."""
        return self.left.shape[-2]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The batch axes; `()` for one game."""
        return np.broadcast_shapes(self.left.shape[:-2], self.right.shape[:-2])

    def payoffs(self, weights: jax.Array) -> jax.Array:
        """Answer one preference query `P v`; see `Game.payoffs`."""
        left_sums, right_sums = (
            transposable(functools.partial(_sums, factor))(weights) for factor in (self.left, self.right)
        )
        margins = product("...ir,r...->i...", self.left, right_sums)
        return (
            jnp.sum(weights, axis=0, keepdims=True) / 2 + margins - product("...ir,r...->i...", self.right, left_sums)
        )

    def prepared(self, allowed: jax.Array | None = None) -> tuple[LowRankGame, jax.Array]:
        """Return the game without the factors of excluded actions, and which games are valid; see `Game`."""
        if allowed is None:
            return self, self.is_valid()
        finite = [jnp.all(jnp.isfinite(factor), axis=-1) for factor in (self.left, self.right)]
        left, right = (
            jnp.where((rows & allowed_somewhere(allowed, factor.shape[:-2]))[..., None], factor, 0)
            for rows, factor in zip(finite, (self.left, self.right), strict=True)
        )
        return LowRankGame(left, right), holds_where_allowed(finite[0] & finite[1], allowed)

    def is_valid(self) -> jax.Array:
        """Return which games have finite factors, bool `[*batch_shape]`."""
        finite = [jnp.all(jnp.isfinite(factor), axis=(-2, -1)) for factor in (self.left, self.right)]
        return jnp.logical_and(*finite)

    def fault(self, allowed: np.ndarray | None = None, index: tuple[int, ...] = ()) -> str | None:
        """Return the message for the first bad factor of one game, None if there is none; see `Game`."""
        not_finite = describe_not_finite("left", self.left, allowed, index)
        return not_finite or describe_not_finite("right", self.right, allowed, index)


def _sums(factor: jax.Array, weights: jax.Array) -> jax.Array:
    """The sums of `factor[i] * weights[i]` over all actions, `[r, *batch]`.

    Sums of sums of `CHUNK` terms: the rounding of a million additions one after the other would show in float32, as an
    exploitability wrong by 3e-7 at beta 0.01.
    """
    whole = factor.shape[-2] // CHUNK

    def sum_chunk(k: jax.Array) -> jax.Array:
        rows = jax.lax.dynamic_slice_in_dim(factor, k * CHUNK, CHUNK, -2)
        return product(SUMS, rows, jax.lax.dynamic_slice_in_dim(weights, k * CHUNK, CHUNK, 0))

    rest = product(SUMS, factor[..., whole * CHUNK :, :], weights[whole * CHUNK :])
    # Not added up in the loop: before jax 0.10.2 XLA makes one long sum of that.
    return rest + jnp.sum(jax.lax.map(sum_chunk, jnp.arange(whole)), axis=0) if whole else rest
