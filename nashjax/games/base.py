"""What a game must offer to be solved."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import jax


@runtime_checkable
class Game(Protocol):
    """A symmetric two-player preference game: whatever can answer a preference query (spec 1).

    A game is a pytree (register it with jax) whose array leaves lead with the batch axes, of size 1 where
    games share the leaf. Everything that solves a game sees it through `payoffs` alone.

    Optional: `prepared()`, a form of the game in which `P + P^T = 1` holds but for rounding, and a flag
    `[*batch_shape]` that tells which games are preference games at all, taken once before a solve; `is_valid()`, that
    flag alone, for errors that name the game, and `fault()`, a sentence that names the entry; `dense()`, the matrix
    `[*batch_shape, n, n]`, which solves at or near `beta = 0` need. Without it Newton's method and derivatives ask
    further queries instead, and `payoffs` has to be one that jax can transpose in `weights`.
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
