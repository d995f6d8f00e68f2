"""What a game must offer to be solved."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import jax


@runtime_checkable
class Game(Protocol):
    """A symmetric two-player preference game: whatever can answer a preference query (spec 1).

    A game is a pytree, such as a dataclass registered with `jax.tree_util.register_dataclass`, whose array leaves lead
    with the batch axes, of size 1 where games share the leaf. Everything that solves a game sees it through `payoffs`
    alone. That the answers have the right shape is checked; that `P + P^T = 1` and that they are linear cannot be,
    without the matrix, and where either does not hold a certificate means nothing.

    Optional methods:
    - `prepared(allowed)`: return a form of the game in which `P + P^T = 1` holds but for rounding, and a flag
      `[*batch_shape]` that says which games are preference games. It is called once before a solve. `allowed` is bool
      `[*batch, n]`, or None for all: nothing of the other actions may reach the answers, not even a NaN.
    - `is_valid()`: return that flag alone, for games that need no other form.
    - `fault(allowed, index)`: return a message that names the bad entry of one game, which stood at `index` of a batch.
    - `dense()`: return the matrix `[*batch_shape, n, n]`, which solves at or near `beta = 0` need. Without it Newton's
      method and derivatives ask further queries instead, and `payoffs` has to be one that jax can transpose in
      `weights`.

    >>> import dataclasses, functools
    >>> import jax.numpy as jnp
    >>> import nashjax as nj
    >>> @functools.partial(jax.tree_util.register_dataclass, data_fields=["rating"], meta_fields=[])
    ... @dataclasses.dataclass(frozen=True)
    ... class Race:  # P[i, j] = 1/2 + (rating[i] - rating[j]) / 2
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

    @property
    def num_actions(self) -> int:
        """The number `n` of actions of each game."""
        ...

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The batch axes; `()` for one game."""
        ...

    def payoffs(self, weights: jax.Array) -> jax.Array:
        """Answer one preference query, `P v` (spec 1): linear in any real `v`, not just in policies.

        Args:
          weights: `[n]` for one game or `[n, *batch]` for many, actions first; `batch` broadcasts with `batch_shape`.

        Returns:
          `(P v)[i] = sum_j P[i, j] v[j]`, `[n, *batch]`: for a policy `v`, the probability that each action is
          preferred over a draw from it.
        """
        ...
