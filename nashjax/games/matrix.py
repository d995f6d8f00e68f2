"""Games given by their preference matrix."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from nashjax import simplex
from nashjax.arguments import as_floating, as_real_array, check_all, check_square
from nashjax.games.faults import SYMMETRY_TOLERANCE, describe_not_skew, first_fault
from nashjax.pytree import register_dataclass
from nashjax.transfers import explicit

MOST_SMALL = 32
"""Up to this many actions a batch of games is queried all at once; above, by a product for each game."""


@register_dataclass
@dataclasses.dataclass(frozen=True)
class MatrixGame:
    """Preference games given by their matrices (spec 1).

    Attributes:
      preferences: `[*batch_shape, n, n]`, float; `preferences[..., i, j]` is the probability that action `i` is
        preferred over action `j`; `P + P^T = 1` to 1e-6. `nashjax.solve` uses `1/2 + (P - P^T)/2`.
      payoff_scale: `[*batch_shape]` or None: what one unit of preference is worth in the units of the payoff matrix
        that the game was made from (`from_payoffs`).
    """

    preferences: jax.Array
    payoff_scale: jax.Array | None = None

    @classmethod
    def from_payoffs(cls, payoffs: ArrayLike, bound: float | jax.Array | None = None) -> MatrixGame:
        """Make the game of a skew-symmetric payoff matrix: `P = 1/2 + A / (2 bound)`.

        Args:
          payoffs: `A`, `[*batch_shape, n, n]`, `A[..., i, j]` what `i` wins from `j`, `A + A^T = 0`.
          bound: the largest payoff possible, `[*batch_shape]` or a scalar; default the largest entry of each game.
            The regularisation `beta` of a solve is in units of `P`, so it depends on this.

        Returns:
          A game that remembers the map: `to_payoff_units` undoes it.

        Raises:
          ValueError: `payoffs` is not square, not finite, not skew-symmetric (to 1e-6 of the largest entry), or
            exceeds `bound`; the worst entry is named.

        >>> game = MatrixGame.from_payoffs([[0.0, 2.0], [-2.0, 0.0]], bound=4.0)
        >>> game.preferences.tolist()
        [[0.5, 0.75], [0.25, 0.5]]
        """
        payoffs = as_floating(as_real_array("payoffs", payoffs))
        check_square("payoffs", payoffs.shape)
        payoffs = jnp.asarray(explicit(payoffs))
        bound = _largest(payoffs) if bound is None else jnp.asarray(explicit(bound), payoffs.dtype)
        if np.broadcast_shapes(bound.shape, payoffs.shape[:-2]) != payoffs.shape[:-2]:
            raise ValueError(f"bound: has shape {list(bound.shape)}; allowed is {list(payoffs.shape[:-2])} or a scalar")
        if not isinstance(payoffs, Tracer) and not isinstance(bound, Tracer):
            _check_payoffs(np.asarray(payoffs), np.asarray(bound))
        return cls(*_scaled_payoffs(payoffs, bound))

    @property
    def num_actions(self) -> int:
        """The number `n` of actions of each game."""
        return self.preferences.shape[-1]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The batch axes; `()` for one game."""
        return self.preferences.shape[:-2]

    def payoffs(self, weights: jax.Array) -> jax.Array:
        """Answer one preference query `P v`; see `Game.payoffs`."""
        answer = product("...ij,j...->i...", self.preferences, weights)
        return simplex.materialize(answer, self.preferences)

    def dense(self) -> jax.Array:
        """The matrix `P`, `[*batch_shape, n, n]`."""
        return self.preferences

    def symmetrized(self) -> MatrixGame:
        """The game `1/2 + (P - P^T)/2`, in which `P + P^T = 1` but for the rounding of each entry (spec 2)."""
        half_margin = (self.preferences - jnp.swapaxes(self.preferences, -1, -2)) / 2
        return dataclasses.replace(self, preferences=simplex.materialize(0.5 + half_margin, self.preferences))

    def prepared(self) -> tuple[MatrixGame | SmallGames, jax.Array]:
        """The game `symmetrized()`, many small ones in the layout that is quickest to query; and `is_valid()`.

        The matrix is read across its rows, which is slow, only once.
        """
        exact = self.symmetrized()
        valid = self._is_close_to(exact.preferences)
        if self.num_actions <= MOST_SMALL and math.prod(self.batch_shape) > 1:
            batch_last = jnp.moveaxis(exact.preferences, (-2, -1), (0, 1))
            return SmallGames(simplex.materialize(batch_last, self.preferences)), valid
        return exact, valid

    def is_valid(self) -> jax.Array:
        """Tell which games are preference games, bool `[*batch_shape]`; `first_fault` says what is wrong."""
        return self._is_close_to(self.symmetrized().preferences)

    def fault(self) -> str | None:
        """What is wrong with the first bad entry, in words; None if nothing."""
        fault = first_fault(np.asarray(self.preferences))
        return fault and f"preferences{list(fault.index)} is {fault.found}; allowed is {fault.allowed}"

    def _is_close_to(self, symmetrized: jax.Array) -> jax.Array:
        P = self.preferences
        in_range = (P >= 0) & (P <= 1)  # false for NaN
        # The distance is half of what `P + P^T` lacks to 1.
        complementary = jnp.abs(P - symmetrized) <= SYMMETRY_TOLERANCE / 2
        return jnp.all(in_range & complementary, axis=(-2, -1))

    def to_payoff_units(self, preference: jax.Array, *, per_action: bool = False) -> jax.Array:
        """Read probabilities of being preferred as payoffs of `from_payoffs`.

        A difference of probabilities, such as an exploitability, is multiplied by `payoff_scale` instead.

        Args:
          preference: `[..., *batch_shape]`, or `[..., *batch_shape, n]` if `per_action`.
          per_action: whether the last axis is that of the actions.

        Raises:
          ValueError: the game was not made by `from_payoffs`.
        """
        if self.payoff_scale is None:
            raise ValueError("game: has no payoff units; allowed are games made by MatrixGame.from_payoffs")
        return (preference - 0.5) * (self.payoff_scale[..., None] if per_action else self.payoff_scale)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class SmallGames:
    """A batch of games with few actions, the batch axes last: one vector instruction works on many games.

    Attributes:
      preferences: `[n, n, *batch_shape]`, float, symmetrised; otherwise as in `MatrixGame`.
    """

    preferences: jax.Array

    @property
    def num_actions(self) -> int:
        """The number `n` of actions of each game."""
        return self.preferences.shape[0]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The batch axes."""
        return self.preferences.shape[2:]

    def payoffs(self, weights: jax.Array) -> jax.Array:
        """Answer one preference query `P v`; see `Game.payoffs`."""
        n, missing = self.num_actions, max(weights.ndim - 1 - len(self.batch_shape), 0)
        P = self.preferences.reshape(n, n, *(1,) * missing, *self.batch_shape)
        return simplex.materialize(times(P, weights), self.preferences)

    def dense(self) -> jax.Array:
        """The matrix `P`, `[*batch_shape, n, n]`."""
        return jnp.moveaxis(self.preferences, (0, 1), (-2, -1))


def product(subscripts: str, *arrays: jax.Array) -> jax.Array:
    """`einsum` in full precision, always: a certificate computed in bfloat16 or TF32 is false (spec 2)."""
    return jnp.einsum(subscripts, *arrays, precision=jax.lax.Precision.HIGHEST)


def times(matrices: jax.Array, vectors: jax.Array) -> jax.Array:
    """The products of small matrices `[n, n, *batch]` with vectors `[n, *batch]`, all at once.

    Not by products of matrices: a call for each of them would take longer than the product.
    """
    return functools.reduce(operator.add, [matrices[:, j] * vectors[j][None] for j in range(matrices.shape[1])])


A = TypeVar("A", jax.Array, np.ndarray)


def half_plus(margin: A) -> A:
    """`1/2 + margin`, the entries of an antisymmetric margin and of its mirror image summing to 1 exactly."""
    # The larger of the two probabilities is rounded, the smaller one is its exact complement.
    larger = 0.5 + abs(margin)
    xp: Any = jnp if isinstance(margin, jax.Array) else np
    return xp.where(margin >= 0, larger, 1 - larger)


@jax.jit
def _largest(payoffs: jax.Array) -> jax.Array:
    """The largest absolute payoff of each game, 1 where all are 0."""
    largest = jnp.max(jnp.abs(payoffs), axis=(-2, -1))
    return jnp.where(largest > 0, largest, 1)


@jax.jit
def _scaled_payoffs(payoffs: jax.Array, bound: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The preferences `1/2 + A / (2 bound)` and the scale `2 bound`."""
    scale = jnp.broadcast_to(2 * bound, payoffs.shape[:-2])
    return 0.5 + payoffs / scale[..., None, None], scale


def _check_payoffs(A: np.ndarray, bound: np.ndarray) -> None:
    check_all("payoffs", A, np.isfinite(A), "finite numbers")
    check_all("bound", bound, np.isfinite(bound) & (bound > 0), "finite numbers > 0")
    limit = np.broadcast_to(bound, A.shape[:-2])[..., None, None]
    fault = describe_not_skew("payoffs", A, SYMMETRY_TOLERANCE * limit)
    if fault:
        raise ValueError(f"payoffs: {fault}")
    check_all("payoffs", A, np.abs(A) <= limit, f"those of at most the bound {bound} in absolute value")
