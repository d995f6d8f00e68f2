"""Games given by their preference matrix."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from nashjax._math import layout, simplex
from nashjax._math.linear import product, times
from nashjax._math.pytree import register_dataclass
from nashjax._math.transfers import explicit
from nashjax._validation import (
    as_floating,
    as_real_array,
    check_all,
    check_not_solution,
    check_square,
    invalid,
    message,
)
from nashjax.games.base import Game
from nashjax.games.faults import SYMMETRY_TOLERANCE, describe_not_skew, first_fault

MOST_SMALL = 32
"""Up to this many actions a batch of games is queried all at once; above, by a product for each game."""


@register_dataclass
@dataclasses.dataclass(frozen=True)
class MatrixGame(Game):
    """Preference games given by their matrices.

    Attributes:
      preferences: `[*batch_shape, n, n]`, float; `preferences[..., i, j]` is the probability that action `i` is
        preferred over action `j`; `P + P^T = 1` to 1e-6. `nashjax.solve` uses `1/2 + (P - P^T)/2`.
      payoff_scale: `[*batch_shape]` or None: what one unit of preference is worth in the units of the payoff matrix
        that the game was made from (`from_payoffs`).

    Raises:
      TypeError: the preferences are not an array of real numbers.
      ValueError: they are not `[*batch_shape, n, n]` with `n >= 2`. Values are checked when the game is solved.
    """

    has_matrix: ClassVar[bool] = True

    preferences: jax.Array
    payoff_scale: jax.Array | None = None

    def __post_init__(self):
        given = self.preferences
        # Anything else stands for an array: jax puts axes, shapes and layouts in its place.
        if isinstance(given, (list, str)) or type(given) is tuple:
            object.__setattr__(self, "preferences", jnp.asarray(as_floating(as_real_array("preferences", given))))
        elif isinstance(given, (jax.Array, np.ndarray)):
            as_real_array("preferences", given)
        else:
            check_not_solution("preferences", given)
            return
        check_square("preferences", self.preferences.shape)

    @classmethod
    def from_payoffs(cls, payoffs: ArrayLike, bound: float | jax.Array | None = None) -> MatrixGame:
        """Make the game of a skew-symmetric payoff matrix: `P = 1/2 + A / (2 bound)`.

        Args:
          payoffs: `A`, `[*batch_shape, n, n]`, `A[..., i, j]` what `i` wins from `j`, `A + A^T = 0`.
          bound: the largest payoff possible, `[*batch_shape]` or a scalar; default the largest entry of each game.
            The regularization `beta` of a solve is in units of `P`, so it depends on this.

        Returns:
          A game that remembers the map: `to_payoff_units` undoes it.

        Raises:
          ValueError: `payoffs` is not square, not finite, not skew-symmetric (to 1e-6 of the largest entry), or
            exceeds `bound`; the worst entry is named.

        >>> game = MatrixGame.from_payoffs([[0.0, 2.0], [-2.0, 0.0]], bound=4.0)
        >>> game.preferences.tolist()
        [[0.5, 0.75], [0.25, 0.5]]
        """
        given = as_floating(as_real_array("payoffs", payoffs))
        check_square("payoffs", given.shape)
        A = jnp.asarray(explicit(_with_zero_for_nan_on_diagonal(given)))
        limit = _largest(A) if bound is None else jnp.asarray(explicit(as_real_array("bound", bound)), A.dtype)
        if np.broadcast_shapes(limit.shape, A.shape[:-2]) != A.shape[:-2]:
            raise invalid("bound", f"a number or an array of shape {list(A.shape[:-2])}", f"shape {list(limit.shape)}")
        if not isinstance(A, Tracer) and not isinstance(limit, Tracer):
            _check_payoffs(np.asarray(A), np.asarray(limit))
        return cls(*_scaled_payoffs(A, limit))

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
        """Return the game `1/2 + (P - P^T)/2`, in which `P + P^T = 1` but for the rounding of each entry."""
        half_margin = (self.preferences - self.preferences.mT) / 2
        exact = 0.5 + jnp.where(self._diagonal(), 0, half_margin)
        return dataclasses.replace(self, preferences=simplex.materialize(exact, self.preferences))

    def prepared(self, allowed: jax.Array | None = None) -> tuple[MatrixGame | SmallGames, jax.Array]:
        """Return the game `symmetrized()`, and which games are preference games among the allowed actions.

        Many small games come in the layout that is quickest to query. The matrix is read across its rows, which is
        slow, only once.

        Args:
          allowed: bool `[*batch, n]`, default all. The rows and columns of the other actions are replaced by 1/2.

        Returns:
          The game, and bool `[*batch]`, the batch shapes of the game and of `allowed` broadcast.
        """
        exact = self.symmetrized()
        good = self._is_close_to(exact.preferences)
        if allowed is None:
            valid = jnp.all(good, axis=(-2, -1))
        else:
            valid = has_no_fault_among(allowed, ~good)
            exact = dataclasses.replace(exact, preferences=jnp.where(good, exact.preferences, 0.5))
        if self.num_actions <= MOST_SMALL and math.prod(self.batch_shape) > 1:
            batch_last = layout.actions_first(exact.preferences, 2)
            return SmallGames(simplex.materialize(batch_last, self.preferences)), valid
        return exact, valid

    def is_valid(self) -> jax.Array:
        """Return which games are preference games, bool `[*batch_shape]`; `fault` says what is wrong."""
        return jnp.all(self._is_close_to(self.symmetrized().preferences), axis=(-2, -1))

    def fault(self, allowed: np.ndarray | None = None, index: tuple[int, ...] = ()) -> str | None:
        """Return the message for the first bad entry of one game, None if there is none.

        Args:
          allowed: bool `[n]`, default all: the other actions are not looked at.
          index: the place of the game in a batch.
        """
        fault = first_fault(np.asarray(self.preferences), allowed)
        return fault and fault.describe("preferences", index)

    def _is_close_to(self, symmetrized: jax.Array) -> jax.Array:
        """Return which entries are those of a preference game, bool `[*batch_shape, n, n]`."""
        P = self.preferences
        in_range = (P >= 0) & (P <= 1)  # false for NaN
        # The distance is half of what `P + P^T` lacks to 1.
        complementary = jnp.abs(P - symmetrized) <= SYMMETRY_TOLERANCE / 2
        return (in_range & complementary) | self._diagonal()

    def _diagonal(self) -> np.ndarray:
        return np.eye(self.num_actions, dtype=bool).reshape(*(1,) * len(self.batch_shape), -1, self.num_actions)

    def to_payoff_units(
        self,
        *positional: Any,
        preference: ArrayLike | None = None,
        difference: ArrayLike | None = None,
        per_action: bool = False,
    ) -> jax.Array:
        """Convert probabilities, or differences of them, to the payoffs of `from_payoffs`.

        A probability of being preferred becomes the payoff that it stands for: 1/2 becomes 0. A difference of
        probabilities, such as an exploitability, becomes a difference of payoffs: 0 becomes 0. Name the one that you
        have; a positional argument raises, because the two cannot be told apart.

        Args:
          *positional: not allowed.
          preference: probabilities of being preferred, `[..., *batch_shape]`, or `[..., *batch_shape, n]` if
            `per_action`.
          difference: differences of such probabilities, of the same shape.
          per_action: whether the last axis is that of the actions.

        Raises:
          TypeError: not exactly one of `preference` and `difference` is given, by name.
          ValueError: the game was not made by `from_payoffs`.

        >>> game = MatrixGame.from_payoffs([[0.0, 2.0], [-2.0, 0.0]])
        >>> float(game.to_payoff_units(preference=1.0)), float(game.to_payoff_units(difference=0.25))
        (2.0, 1.0)
        """
        if positional or (preference is None) == (difference is None):
            got = "a positional argument" if positional else "none" if preference is None else "both"
            advice = "Use difference= for an exploitability, preference= for a probability of being preferred."
            raise TypeError(message("to_payoff_units", "given either preference= or difference=", got, advice))
        if self.payoff_scale is None:
            advice = "Make the game with MatrixGame.from_payoffs."
            raise invalid("game", "one with payoff units", "a game made of preferences", advice)
        name, given = ("preference", preference) if difference is None else ("difference", difference)
        margin = jnp.asarray(as_floating(as_real_array(name, given))) - (0.5 if difference is None else 0)
        return margin * (self.payoff_scale[..., None] if per_action else self.payoff_scale)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class SmallGames(Game):
    """A batch of games with few actions, the batch axes last: one vector instruction works on many games.

    Attributes:
      preferences: `[n, n, *batch_shape]`, float, symmetrized; otherwise as in `MatrixGame`. With several players, the
        skew-symmetric matrix of what they get from each other.
      player_sizes: number of actions of each player; `()` for a preference game.
    """

    has_matrix: ClassVar[bool] = True

    preferences: jax.Array
    player_sizes: tuple[int, ...] = dataclasses.field(default=(), metadata={"static": True})

    @property
    def sizes(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Number of actions of each player."""
        return self.player_sizes or (self.num_actions,)

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
        return layout.actions_last(self.preferences, 2)


def allowed_somewhere(allowed: jax.Array, batch_shape: tuple[int, ...]) -> jax.Array:
    """Return which actions of each game some reference allows, bool `[*batch_shape, n]`.

    Args:
      allowed: bool `[*batch, n]`, whose batch shape broadcasts with that of the games.
      batch_shape: batch shape of the games, which may share references or have several each.
    """
    rank = max(allowed.ndim - 1, len(batch_shape))
    allowed = allowed.reshape(*(1,) * (rank + 1 - allowed.ndim), *allowed.shape)
    own = (1,) * (rank - len(batch_shape)) + batch_shape
    several = tuple(axis for axis, size in enumerate(own) if size == 1)
    found = jnp.any(allowed, axis=several, keepdims=True)
    return found.reshape(found.shape[rank - len(batch_shape) :])


def holds_where_allowed(good: jax.Array, allowed: jax.Array) -> jax.Array:
    """Return which games have only good actions among the allowed ones.

    Args:
      good: bool `[*batch_shape, n]`.
      allowed: bool `[*batch, n]`.

    Returns:
      bool, the two batch shapes broadcast.
    """
    rank = max(good.ndim, allowed.ndim)
    good, allowed = (x.reshape(*(1,) * (rank - x.ndim), *x.shape) for x in (good, allowed))
    return jnp.all(good | ~allowed, axis=-1)


def has_no_fault_among(allowed: jax.Array, faults: jax.Array, rows: jax.Array | None = None) -> jax.Array:
    """Return which games have no fault between two allowed actions, without a copy of a matrix for each reference.

    Args:
      allowed: bool `[*batch, n]`.
      faults: bool `[*batch_shape, n, n]`, or some of the rows of it.
      rows: the entries of `allowed` that belong to those rows, default all.

    Returns:
      bool, the two batch shapes broadcast.
    """
    rows = allowed if rows is None else rows
    rank = max(allowed.ndim - 1, faults.ndim - 2)
    allowed, rows, faults = (
        x.reshape(*(1,) * (rank + own - x.ndim), *x.shape).astype(jnp.float32)
        for x, own in ((allowed, 1), (rows, 1), (faults, 2))
    )
    by_row = product("...ij,...j->...i", faults, allowed)  # counts, exact in float32
    return jnp.sum(by_row * rows, axis=-1) == 0


A = TypeVar("A", jax.Array, np.ndarray)


def half_plus(margin: A) -> A:
    """`1/2 + margin`, the entries of an antisymmetric margin and of its mirror image summing to 1 exactly."""
    # The larger of the two probabilities is rounded, the smaller one is its exact complement.
    larger = 0.5 + abs(margin)
    xp: Any = jnp if isinstance(margin, jax.Array) else np
    return xp.where(margin >= 0, larger, 1 - larger)


def as_exact(preferences: jax.Array | np.ndarray) -> jax.Array:
    """Return preferences in float32 or float64; of half precision, those that sum to 1 within its rounding do so.

    A numpy array stays a numpy array.
    """
    given = as_floating(preferences)
    if not jnp.issubdtype(preferences.dtype, jnp.floating) or preferences.dtype.itemsize >= 4:
        return given
    xp: Any = np if isinstance(given, np.ndarray) else jnp
    with np.errstate(invalid="ignore"):
        margin = (given - given.mT) / 2
        excess = xp.abs(given + given.mT - 1)
    return xp.where(excess <= float(jnp.finfo(preferences.dtype).eps), half_plus(margin), given)


def _with_zero_for_nan_on_diagonal(payoffs: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """Return the payoffs with a 0 for each payoff against oneself that was left out."""
    # A numpy array stays one: `jax.debug_nans` refuses to make a jax array of NaN.
    return _replace_nan(payoffs, np) if isinstance(payoffs, np.ndarray) else _replace_nan_in_jax(payoffs)


def _replace_nan(payoffs: Any, xp: Any) -> Any:
    n = payoffs.shape[-1]
    diagonal = np.eye(n, dtype=bool).reshape(*(1,) * (payoffs.ndim - 2), n, n)
    return xp.where(diagonal & xp.isnan(payoffs), payoffs.dtype.type(0), payoffs)


_replace_nan_in_jax = jax.jit(functools.partial(_replace_nan, xp=jnp))


@jax.jit
def _largest(payoffs: jax.Array) -> jax.Array:
    """The largest absolute payoff of each game, 1 where all are 0."""
    largest = jnp.max(jnp.abs(payoffs), axis=(-2, -1))
    return jnp.where(largest > 0, largest, 1)


@jax.jit
def _scaled_payoffs(payoffs: jax.Array, bound: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The preferences `1/2 + A / (2 bound)` and the scale `2 bound`."""
    scale = jnp.broadcast_to(2 * bound, payoffs.shape[:-2])
    # Compiled, a quotient can exceed 1/2 by its rounding.
    margin = jnp.clip(payoffs / scale[..., None, None], -0.5, 0.5)
    return half_plus(margin), scale


def _check_payoffs(A: np.ndarray, bound: np.ndarray) -> None:
    check_all("payoffs", A, np.isfinite(A), "a finite number")
    check_all("bound", bound, np.isfinite(bound) & (bound > 0), "a finite number > 0")
    limit = np.broadcast_to(bound, A.shape[:-2])[..., None, None]
    fault = describe_not_skew("payoffs", A, SYMMETRY_TOLERANCE * limit)
    if fault:
        raise ValueError(f"{fault}{_payoff_advice(A)}")
    check_all("payoffs", A, np.abs(A) <= limit, f"at most the bound {bound} in absolute value")


def _payoff_advice(A: np.ndarray) -> str:
    return " For a matrix of preference probabilities, use MatrixGame." if first_fault(A) is None else ""
