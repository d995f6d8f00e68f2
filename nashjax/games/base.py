"""The base class of everything that can be solved."""

from __future__ import annotations

import abc
import functools
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    import numpy as np


class Game(abc.ABC):
    """Symmetric two-player preference game: an object that answers preference queries.

    Solvers see a game through `payoffs` alone, unless the class declares `has_matrix`. Derive your own games from this
    class and register them as pytrees, for example with `jax.tree_util.register_dataclass`. The first axes of every
    array leaf must be the batch axes, of size 1 where games share the leaf. The shape of the answers is checked. That
    `P + P^T = 1` and that the answers are linear in the weights cannot be checked without the matrix; a certificate of
    a game that violates either is meaningless.

    Attributes:
      has_matrix: declares that `dense` returns the matrix. The default algorithm needs the matrix at or near
        `beta = 0`. Without it, Newton's method and derivatives solve their linear systems by further queries, and
        jax must be able to transpose `payoffs` in `weights`.

    Example:
      >>> import dataclasses, functools
      >>> import jax.numpy as jnp
      >>> import nashjax as nj
      >>> @functools.partial(jax.tree_util.register_dataclass, data_fields=["rating"], meta_fields=[])
      ... @dataclasses.dataclass(frozen=True)
      ... class Race(nj.Game):  # P[i, j] = 1/2 + (rating[i] - rating[j]) / 2
      ...     rating: jax.Array  # [n]
      ...
      ...     @property
      ...     def num_actions(self):
      ...         return self.rating.shape[0]
      ...
      ...     batch_shape = ()
      ...
      ...     def payoffs(self, weights):  # [n] or [n, batch]
      ...         rating = self.rating.reshape(-1, *[1] * (weights.ndim - 1))
      ...         total = weights.sum(axis=0)
      ...         return total / 2 + (rating * total - (rating * weights).sum(axis=0)) / 2
      >>> [round(float(p), 2) for p in nj.solve(Race(jnp.array([0.5, 0.4, 0.3])), beta=0.1).policy]
      [0.51, 0.31, 0.19]
    """

    has_matrix: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def num_actions(self) -> int:
        """Number `n` of actions of each game."""

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of actions of each player; one player with all actions in a preference game.

        A game of your own with several players answers with payoffs in [-1/2, 1/2] that add up to 0.
        """
        return (self.num_actions,)

    @property
    def value(self) -> float:
        """Payoff of a policy against itself: 1/2 in a preference game, 0 with several players."""
        return 0.5 if len(self.sizes) == 1 else 0.0

    @property
    @abc.abstractmethod
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch axes; `()` for one game."""

    @abc.abstractmethod
    def payoffs(self, weights: jax.Array) -> jax.Array:
        """Answer one preference query `P v`, which is linear in any real `v`, not only in policies.

        Args:
          weights: `v`, `[n]` for one game or `[n, *batch]` for many, actions first; `batch` broadcasts with
            `batch_shape`.

        Returns:
          `(P v)[i] = sum_j P[i, j] v[j]`, `[n, *batch]`. For a policy `v` this is the probability that each action is
          preferred over a draw from `v`.
        """

    def dense(self) -> jax.Array:
        """Return the matrix `P`, `[*batch_shape, n, n]`; only of classes that declare `has_matrix`."""
        raise NotImplementedError(f"{type(self).__name__} has no matrix.")

    def is_valid(self) -> jax.Array:
        """Return whether each entry is a preference game, bool `[*batch_shape]`; by default all are."""
        return jnp.ones(self.batch_shape, bool)

    def prepared(self, allowed: jax.Array | None = None) -> tuple[Game, jax.Array]:
        """Return the game in a form in which `P + P^T = 1` holds to rounding, and whether each entry is valid.

        Called once before a solve, possibly inside a trace.

        Args:
          allowed: bool `[*batch, n]`, default all actions. No value that belongs to another action may reach the
            answers, not even NaN.

        Returns:
          The game, and bool flags whose shape broadcasts with the batch.
        """
        del allowed
        return self, self.is_valid()

    def fault(self, allowed: np.ndarray | None = None, index: tuple[int, ...] = ()) -> str | None:
        """Return the error message for one invalid game, or None.

        Args:
          allowed: bool `[n]`, default all actions; other actions are not checked.
          index: place of the game in its batch, for the message.
        """
        del allowed, index
        return None

    def __init_subclass__(cls, **options: Any) -> None:
        """Check that `has_matrix` and `dense` agree: a matrix that is not declared would not be used."""
        super().__init_subclass__(**options)
        offers = cls.dense is not Game.dense
        if offers != cls.has_matrix:
            got = "a class with dense()" if offers else "a class without dense()"
            raise TypeError(f"{cls.__name__}.has_matrix must be {offers}, got {cls.has_matrix} in {got}.")

    @classmethod
    def checks_values(cls) -> bool:
        """Return whether the class can tell that one of its instances is not a preference game."""
        return cls.prepared is not Game.prepared or cls.is_valid is not Game.is_valid

    @classmethod
    def explains_faults(cls) -> bool:
        """Return whether the class can tell what is wrong with an invalid instance."""
        return cls.fault is not Game.fault
