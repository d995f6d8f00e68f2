"""The problem that a solve gets: the validated arguments as users pass them, batch axes first.

`Problem.regularized` converts them to a `RegularizedGame`, which is what algorithms see: the same games with actions
first. Zero-sum games are shifted and scaled to payoffs within 1/2; `Problem.solution` converts results back.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from nashjax._math import layout, simplex
from nashjax._math.pytree import Classes
from nashjax._math.transfers import explicit, is_concrete, to_host
from nashjax._validation import SUM_TOLERANCE, as_numbers, cast, check_all, check_betas, invalid
from nashjax.games import Game
from nashjax.games.conversion import as_game, check_answers, dtype_of
from nashjax.games.players import BetaLike, PolicyLike, as_policies, split_betas
from nashjax.games.regularized import RegularizedGame
from nashjax.games.scaled import ScaledGame, in_units, player_earnings
from nashjax.games.validity import allowed_actions, check_game
from nashjax.games.zero_sum import PlayersGame
from nashjax.solution import Progress, Solution


class Problem(NamedTuple):
    """Validated batch of regularized games with the targets of a solve, batch axes first; a pytree.

    The batch shapes of the fields broadcast with each other; nothing is copied to make them equal.

    Attributes:
      game: of any `batch_shape`.
      beta: `[*batch]`; the largest of the players if they differ.
      reference: `[*batch, n]`, None for uniform.
      initial: `[*batch, n]`, None for the reference.
      tol: exploitability to reach, `[*batch]`.
      classes: classes of the game and of everything else that a program is compiled for.
      player_betas: `[*batch, players]`; None if all players have the same.
    """

    game: Game
    beta: jax.Array
    reference: jax.Array | None
    initial: jax.Array | None
    tol: jax.Array
    classes: Classes
    player_betas: jax.Array | None = None

    @classmethod
    def build(
        cls,
        game: Game | ArrayLike,
        beta: BetaLike,
        reference: PolicyLike | None = None,
        initial: PolicyLike | None = None,
        tol: ArrayLike = 0.0,
        *,
        validate: bool = True,
        in_place: bool = False,
    ) -> Problem:
        """Validate the arguments of a solve and cast them to the dtype of the game.

        Shapes are always checked. Values are checked if they are concrete and `validate` is true.

        If `in_place` is true, numpy arrays are passed to compiled code without a copy. Do not modify them until it
        finishes. The values of the game are not checked either: call `check_games` if a status is INVALID.

        Raises:
          TypeError: an argument has a wrong type.
          ValueError: an argument has a wrong value; the message names the index of the first bad entry.
        """
        game = as_game(game, in_place=in_place)
        dtype = dtype_of(game)
        sizes, checks = game.sizes, {"validate": validate, "in_place": in_place}
        betas, player_betas = split_betas(beta, tol, sizes, dtype, **checks)
        policy = functools.partial(as_policies, sizes=sizes, dtype=dtype, **checks)
        problem = cls(
            game=game,
            beta=betas,
            reference=None if reference is None else policy("reference", reference),
            initial=None if initial is None else policy("initial", initial),
            tol=cast(tol, dtype, in_place=in_place),
            classes=Classes.of(game),
            player_betas=player_betas,
        )
        problem._checked_batch_shape()
        if isinstance(game, PlayersGame):
            problem = problem._in_units(validate=validate)
        check_answers(problem.game, dtype, problem.batch_shape)
        if validate and not in_place:
            problem.check_games()
        return problem

    @classmethod
    def build_path(
        cls,
        game: Game | ArrayLike,
        betas: ArrayLike,
        reference: PolicyLike | None,
        initial: PolicyLike | None,
        tol: ArrayLike,
        *,
        validate: bool = True,
        in_place: bool = False,
    ) -> Problem:
        """As `build`, with `beta` `[num_betas, *batch]`: one more axis in front of all others.

        Raises:
          ValueError: as `build`, or the betas increase along the first axis.
        """
        if not isinstance(betas, jax.Array):
            betas = as_numbers("betas", betas)
        if betas.ndim == 0 or betas.shape[0] == 0:
            raise invalid("betas", "an array [num_betas, ...] with at least one beta", f"shape {list(betas.shape)}")
        if validate and is_concrete(betas):
            values = to_host(betas)
            check_betas(values, tol, dtype_of(as_game(game, in_place=True)), beta_name="betas")
            never_increasing = np.concatenate([np.full_like(values[:1], True, bool), values[1:] <= values[:-1]])
            check_all(
                "betas", values, never_increasing, "at most the beta before it", "Sort betas in descending order."
            )
        # One beta stands for all of them: whole, they would broadcast with the batch.
        first = np.zeros(betas.shape[1:])
        problem = cls.build(game, first, reference, initial, tol, validate=validate, in_place=in_place)
        between = (1,) * (len(problem.batch_shape) - (betas.ndim - 1))
        whole = cast(betas, problem.beta.dtype, in_place=in_place)
        whole = whole.reshape(len(betas), *between, *betas.shape[1:])
        return problem._replace(beta=problem._scaled_betas("betas", whole, problem.unit, validate=validate))

    def _in_units(self, *, validate: bool) -> Problem:
        """Return the problem of a zero-sum game in the units of a solve."""
        game = in_units(self.game, allowed_actions(self.reference))  # pyright: ignore[reportArgumentType]
        beta = self._scaled_betas("beta", self.beta, game.unit, validate=validate)
        players = self.player_betas
        if players is not None:
            players = self._scaled_betas("beta", players, game.unit[..., None], validate=validate)
        tol = _combine(operator.mul, self.tol, game.largest + (game.largest == 0))
        return self._replace(game=game, classes=Classes.of(game), beta=beta, player_betas=players, tol=tol)

    @staticmethod
    def _scaled_betas(name: str, betas: Any, unit: Any, *, validate: bool) -> Any:
        """Return betas in the units of a solve; raise ValueError if the dtype cannot hold one of them."""
        if unit is None:
            return betas
        scaled = _combine(operator.truediv, betas, unit)
        if validate and is_concrete((scaled, betas)):
            found, given = np.broadcast_arrays(to_host(scaled), to_host(betas))
            good = (given == 0) | (np.isfinite(found) & (found >= np.finfo(found.dtype).tiny))
            requirement = f"0 or, divided by the largest payoff, a number that {found.dtype} can hold"
            check_all(name, given, good, requirement, "Scale the payoffs.")
        return scaled

    @property
    def unit(self) -> jax.Array | None:
        """Payoff that one unit of the solve stands for, `[*game.batch_shape]`; None for preference games."""
        return self.game.unit if isinstance(self.game, ScaledGame) else None

    def uniform(self) -> jax.Array:
        """Return the uniform policy of each player, `[n]`."""
        return np.repeat(1 / np.array(self.game.sizes), self.game.sizes).astype(self.beta.dtype)  # pyright: ignore[reportReturnType]

    def in_payoff_units(self, exploitability: jax.Array) -> jax.Array:
        """Convert an exploitability `[*batch]` to the units of the game that the caller passed."""
        return exploitability if self.unit is None else _combine(operator.mul, exploitability, self.unit)

    def solution(self, progress: Progress) -> Solution:
        """Return the solution that a progress stands for, in the units of the game that the caller passed."""
        found = progress.solution()
        if not isinstance(self.game, ScaledGame):
            return found
        exploitability = self.in_payoff_units(found.exploitability)
        earnings = player_earnings(self.game, found.policy)
        return dataclasses.replace(
            found, exploitability=exploitability, earnings=earnings, player_sizes=self.game.sizes
        )

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape to which all batch shapes broadcast."""
        return broadcast_shapes(self.batch_shapes().values())

    def batch_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the batch shape of each field."""
        return {
            "game": tuple(self.game.batch_shape),
            "beta": self.beta.shape,
            "reference": () if self.reference is None else self.reference.shape[:-1],
            "initial": () if self.initial is None else self.initial.shape[:-1],
            "tol": self.tol.shape,
            "classes": (),
            "player_betas": () if self.player_betas is None else self.player_betas.shape[:-1],
        }

    def is_concrete(self) -> bool:
        """Return whether no array is traced."""
        arrays = (self.beta, self.tol, self.reference, self.initial, self.player_betas)
        return not any(isinstance(array, Tracer) for array in arrays) and is_concrete(self.game)

    def check_games(self) -> None:
        """Raise ValueError that names the first bad entry unless all games are preference games; not in a trace."""
        check_game(self.game, self.reference)

    def _checked_batch_shape(self) -> tuple[int, ...]:
        shapes = self.batch_shapes()
        try:
            return broadcast_shapes(shapes.values())
        except ValueError:
            found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items() if shape)
            raise invalid("batch shapes", "shapes that broadcast with each other", found) from None

    def aligned(self) -> Problem:
        """Return the same problem with `beta` and `tol` of the rank of the batch, unless they are single numbers."""
        rank = len(self.batch_shape)
        beta, tol = (
            x.reshape((1,) * (rank - x.ndim) + x.shape) if 0 < x.ndim < rank else x for x in (self.beta, self.tol)
        )
        players = self.player_betas
        if players is not None and players.ndim - 1 < rank:
            players = players.reshape((1,) * (rank + 1 - players.ndim) + players.shape)
        return self._replace(beta=beta, tol=tol, player_betas=players)

    def run_by(self, *algorithms: object) -> Problem:
        """Return the same problem, for programs that are shared with no other classes of algorithms."""
        return self._replace(classes=self.classes.beside(*algorithms))

    def regularized(self) -> tuple[RegularizedGame, jax.Array, jax.Array]:
        """Convert to the layout of the core; traceable.

        Returns:
          The games, actions first; the log of the initial policy, `[n, *batch]`; whether each entry is valid,
          `[*batch]`.
        """
        batch, aligned = self.batch_shape, self.aligned()
        beta, sizes, players = aligned.beta, self.game.sizes, aligned.player_betas
        game, is_game = self.game.prepared(allowed_actions(self.reference))
        reference = jnp.asarray(self.uniform()) if self.reference is None else self.reference
        initial = reference if self.initial is None else self.initial
        good = [jnp.isfinite(beta) & (beta >= 0), is_game, _is_policy(reference, sizes), _is_policy(initial, sizes)]
        if players is not None:
            good.append(jnp.all(jnp.isfinite(players) & (players >= 0), axis=-1))
            players = layout.actions_first(players)
        valid = functools.reduce(operator.and_, [jnp.broadcast_to(each, batch) for each in good])
        excluded = reference == 0
        # What starts at 0 would stay there: a probability that has underflowed must not exclude its action.
        initial = jnp.maximum(initial, jnp.finfo(initial.dtype).tiny)
        log_reference = _log_policy(reference, excluded, batch, sizes)
        log_initial = jnp.broadcast_to(_log_policy(initial, excluded, batch, sizes), (game.num_actions, *batch))
        return RegularizedGame(game, beta, log_reference, players), log_initial, valid

    def take(self, index: Any) -> Problem:
        """Return the games at these positions of the flattened batch, `[block]`.

        What all games share stays one array; what some of them share is copied for each. A numpy index selects from
        numpy arrays.
        """
        return self._select(lambda leaf: leaf[index], index)

    def slice(self, start: jax.Array, size: int) -> Problem:
        """Return the games from a position of the flattened batch on, `[size]`; as `take`, without gathering."""
        return self._select(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), start + jnp.arange(size))

    def view(self, start: int, size: int) -> Problem:
        """As `slice`, of numpy arrays: the arrays of the part are views."""
        return self._select(lambda leaf: leaf[start : start + size], np.arange(start, start + size))

    def _select(self, select: Callable[[Any], Any], index: Any) -> Problem:
        """Select the games at `index` from every leaf, with `select` where each game has an entry of its own."""
        shapes, batch = self.batch_shapes(), self.batch_shape or (1,)
        xp: Any = np if isinstance(index, np.ndarray) else jnp

        def from_leaf(leaf: Any, own: tuple[int, ...]) -> Any:
            lead, rest = leaf.shape[: len(own)], leaf.shape[len(own) :]
            if math.prod(lead) == 1:
                return leaf.reshape(rest if math.prod(own) == 1 else (1, *rest))
            if lead == batch:
                return select(leaf.reshape(-1, *rest))
            position = xp.unravel_index(index, batch)[len(batch) - len(own) :]
            return leaf[tuple(xp.where(size == 1, 0, at) for size, at in zip(lead, position, strict=True))]

        def from_field(field: Any, own: tuple[int, ...]) -> Any:
            return jax.tree.map(lambda leaf: from_leaf(leaf, own), field)

        selected = {name: from_field(field, shapes[name]) for name, field in self._asdict().items()}
        # One beta for each game, so that a block is a batch even where its games share everything.
        return Problem(**selected)._replace(beta=select(xp.broadcast_to(self.beta, batch).reshape(-1)))


def broadcast_shapes(shapes: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the shape to which shapes broadcast; ValueError if they do not."""
    different = {shape for shape in shapes if shape}  # nearly always one at most, and then numpy takes longer
    return np.broadcast_shapes(*different) if len(different) > 1 else next(iter(different), ())


def _combine(function: Callable[[Any, Any], Any], x: Any, y: Any) -> Any:
    """Apply a function to arrays whose batch axes broadcast; numpy arrays stay numpy arrays."""
    rank = max(np.ndim(x), np.ndim(y))
    x, y = (z if np.ndim(z) in (0, rank) else z.reshape((1,) * (rank - np.ndim(z)) + z.shape) for z in (x, y))
    if isinstance(x, jax.Array) or isinstance(y, jax.Array):
        x, y = explicit((x, y))
        return function(jnp.asarray(x), jnp.asarray(y))
    return np.asarray(function(x, y), np.result_type(x))


def _log_policy(policy: jax.Array, excluded: jax.Array, batch: tuple[int, ...], sizes: tuple[int, ...]) -> jax.Array:
    # Axes of size 1 keep the batch axes apart from the action axis once that is in front.
    policy, excluded = (x.reshape((1,) * (len(batch) - x.ndim + 1) + x.shape) for x in (policy, excluded))
    # The logarithm of an excluded action is never taken: its derivative would be infinite.
    log_policy = jnp.where(excluded, -jnp.inf, jnp.log(jnp.where(excluded, 1, policy)))
    return simplex.normalize(layout.actions_first(log_policy), sizes)


def _is_policy(policy: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    slack = SUM_TOLERANCE + policy.shape[-1] * jnp.finfo(policy.dtype).eps
    mass = simplex.sums(layout.actions_first(policy), sizes)
    sums_to_one = jnp.all(jnp.abs(mass - 1) <= slack, axis=0)
    return jnp.all(jnp.isfinite(policy) & (policy >= 0), axis=-1) & sums_to_one
