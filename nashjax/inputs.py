"""What callers hand in: checked, cast to one dtype, and turned actions first."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from nashjax import simplex
from nashjax.games import Game, MatrixGame
from nashjax.games.matrix import as_floating, check_square, first_fault
from nashjax.problem import RegularizedGame

SUM_TOLERANCE = 1e-6
"""How far the probabilities of a reference or initial policy may be from summing to 1."""


class Inputs(NamedTuple):
    """The arguments that describe games, batch axes first, cast to the dtype of the game; a pytree.

    Attributes:
      game: of any `batch_shape`.
      beta: `[*batch]`.
      reference: `[*batch, n]`, None for uniform.
      initial: `[*batch, n]`, None for the reference.
      tol: `[*batch]`.

    The batch shapes differ but broadcast with each other; nothing is copied to make them equal.
    """

    game: Game
    beta: jax.Array
    reference: jax.Array | None
    initial: jax.Array | None
    tol: jax.Array

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape that all batch shapes broadcast to."""
        return np.broadcast_shapes(*_batch_shapes(self).values())

    def prepare(self) -> tuple[RegularizedGame, jax.Array, jax.Array]:
        """Turn the games actions first and judge them; traceable.

        Returns:
          The problem; the log of the initial policy, `[n, *batch]`; whether each game is one at all, `[*batch]`.
        """
        game, batch = self.game, self.batch_shape
        valid = jnp.isfinite(self.beta) & (self.beta >= 0)
        if hasattr(game, "is_valid"):
            valid &= game.is_valid()  # pyright: ignore[reportAttributeAccessIssue]
        if hasattr(game, "symmetrized"):
            game = game.symmetrized()  # pyright: ignore[reportAttributeAccessIssue]
        uniform = jnp.full(game.num_actions, 1 / game.num_actions, self.beta.dtype)
        reference = uniform if self.reference is None else self.reference
        initial = reference if self.initial is None else self.initial
        valid &= _is_policy(reference) & _is_policy(initial)
        # A zero in either policy excludes the action from the game.
        excluded = (reference == 0) | (initial == 0)
        log_reference = _log_policy(reference, excluded, batch)
        log_initial = jnp.broadcast_to(_log_policy(initial, excluded, batch), (game.num_actions, *batch))
        valid &= ~jnp.all(excluded, axis=-1)
        return RegularizedGame(game, self.beta, log_reference), log_initial, jnp.broadcast_to(valid, batch)

    def take(self, index: jax.Array) -> Inputs:
        """The games at these positions of the flattened batch, `[block]`; what all games share stays as it is."""
        shapes, batch = _batch_shapes(self), self.batch_shape

        def gather(argument: str, leaves: object) -> object:
            own = shapes[argument]
            if math.prod(own) == 1:
                return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[len(own) :]), leaves)
            position = jnp.unravel_index(index, batch)[len(batch) - len(own) :]

            def gather_leaf(leaf: jax.Array) -> jax.Array:
                return leaf[tuple(jnp.where(size == 1, 0, at) for size, at in zip(leaf.shape, position, strict=False))]

            return jax.tree.map(gather_leaf, leaves)

        return Inputs(*(gather(name, getattr(self, name)) for name in self._fields))  # pyright: ignore[reportArgumentType]


def as_inputs(
    game: Game | ArrayLike,
    beta: ArrayLike,
    reference: ArrayLike | None = None,
    initial: ArrayLike | None = None,
    tol: ArrayLike = 0.0,
    *,
    validate: bool = True,
) -> Inputs:
    """Check the arguments of a solve and cast them to the dtype of the game.

    Shapes are always checked, values where they are concrete (not inside a trace) and `validate` is true.

    Raises:
      ValueError: naming the argument, the index of the first bad entry, what is there and what is allowed.
    """
    game = _as_game(game)
    dtype = _dtype(game)
    if validate:
        _check_numbers(beta, tol, dtype)
    inputs = Inputs(
        game=game,
        beta=jnp.asarray(beta, dtype),
        reference=None if reference is None else as_policy("reference", reference, game, validate=validate),
        initial=None if initial is None else as_policy("initial", initial, game, validate=validate),
        tol=jnp.asarray(tol, dtype),
    )
    shapes = _batch_shapes(inputs)
    try:
        np.broadcast_shapes(*shapes.values())
    except ValueError:
        found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items() if shape)
        raise ValueError(f"batch shapes do not broadcast: {found}; allowed are shapes that numpy broadcasts") from None
    if validate:
        if inputs.reference is not None and inputs.initial is not None:
            _check_overlap(inputs.reference, inputs.initial)
        _check_game(game)
    return inputs


def as_policy(name: str, policy: ArrayLike, game: Game, *, validate: bool = True) -> jax.Array:
    """Check probabilities `[*batch, n]` and cast them to the dtype of the game.

    Raises:
      ValueError: naming the argument `name`, the first bad index, what is there and what is allowed.
    """
    shape = np.shape(policy)
    if not shape or shape[-1] != game.num_actions:
        raise ValueError(
            f"{name}: has shape {list(shape)}; allowed is [..., {game.num_actions}], a probability for each action"
        )
    if validate and _is_concrete(policy):
        _check_policy(name, _as_numbers(policy, name))
    return jnp.asarray(policy if hasattr(policy, "dtype") else np.asarray(policy), _dtype(game))


def _as_game(game: Game | ArrayLike) -> Game:
    if isinstance(game, MatrixGame):
        check_square(np.shape(game.preferences), "game")
        preferences = as_floating(game.preferences)
        return game if preferences is game.preferences else MatrixGame(preferences, game.payoff_scale)
    if isinstance(game, Game):
        return game
    check_square(np.shape(game), "game")
    return MatrixGame(as_floating(game if isinstance(game, jax.Array) else np.asarray(game)))


def _dtype(game: Game) -> jnp.dtype:
    floating = [x for x in jax.tree.leaves(game) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]
    return jnp.result_type(*floating) if floating else jnp.result_type(float)


def _batch_shapes(inputs: Inputs) -> dict[str, tuple[int, ...]]:
    def before_actions(policy: jax.Array | None) -> tuple[int, ...]:
        return () if policy is None else policy.shape[:-1]

    return {
        "game": tuple(inputs.game.batch_shape),
        "beta": inputs.beta.shape,
        "reference": before_actions(inputs.reference),
        "initial": before_actions(inputs.initial),
        "tol": inputs.tol.shape,
    }


def _log_policy(policy: jax.Array, excluded: jax.Array, batch: tuple[int, ...]) -> jax.Array:
    # The logarithm of an excluded action is never taken: its derivative would be infinite.
    log_policy = jnp.where(excluded, -jnp.inf, jnp.log(jnp.where(excluded, 1, policy)))
    # Axes of size 1 keep the batch axes apart from the action axis once that is in front.
    padded = log_policy.reshape((1,) * (len(batch) - log_policy.ndim + 1) + log_policy.shape)
    return simplex.normalize(jnp.moveaxis(padded, -1, 0))


def _is_policy(policy: jax.Array) -> jax.Array:
    slack = SUM_TOLERANCE + policy.shape[-1] * jnp.finfo(policy.dtype).eps
    sums_to_one = jnp.abs(jnp.sum(policy, axis=-1) - 1) <= slack
    return jnp.all(jnp.isfinite(policy) & (policy >= 0), axis=-1) & sums_to_one


def _is_concrete(x: object) -> bool:
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(x))


def _check_numbers(beta: ArrayLike, tol: ArrayLike, dtype: jnp.dtype) -> None:
    if _is_concrete(beta):
        values = _as_numbers(beta, "beta")
        _check_all("beta", values, np.isfinite(values) & (values >= 0), "finite numbers >= 0")
        tiny = float(jnp.finfo(dtype).tiny)
        _check_all("beta", values, (values == 0) | (values >= tiny), f"0 or, in {dtype}, at least {tiny:.3g}")
    if _is_concrete(tol):
        values = _as_numbers(tol, "tol")
        _check_all("tol", values, values >= 0, "numbers >= 0")


def _as_numbers(x: ArrayLike, name: str) -> np.ndarray:
    try:
        return np.asarray(x, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: is {x!r}; allowed are real numbers") from None


def _check_all(name: str, values: np.ndarray, good: np.ndarray, allowed: str) -> None:
    if not good.all():
        index = tuple(int(i) for i in np.argwhere(~good)[0])
        place = name + (str(list(index)) if index else "")
        raise ValueError(f"{place} is {values[index]}; allowed are {allowed}")


def _check_policy(name: str, policy: np.ndarray) -> None:
    _check_all(name, policy, np.isfinite(policy) & (policy >= 0), "probabilities >= 0")
    sums = policy.sum(axis=-1)
    wrong = np.abs(sums - 1) > SUM_TOLERANCE
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        place = name + (str(list(index)) if index else "")
        found = "is all zero" if sums[index] == 0 else f"sums to {sums[index]}"
        raise ValueError(f"{place} {found}; allowed are probabilities that sum to 1 within {SUM_TOLERANCE:g}")


def _check_overlap(reference: jax.Array, initial: jax.Array) -> None:
    if not _is_concrete((reference, initial)):
        return
    empty = ~np.any((np.asarray(reference) > 0) & (np.asarray(initial) > 0), axis=-1)
    if empty.any():
        index = [int(i) for i in np.argwhere(empty)[0]]
        place = "initial" + (str(index) if index else "")
        raise ValueError(f"{place} is 0 wherever the reference is not; allowed is at least one action left to play")


_all_valid = jax.jit(lambda game: jnp.all(game.is_valid()))


def _check_game(game: Game) -> None:
    if not hasattr(game, "is_valid") or not _is_concrete(game):
        return
    with jax.ensure_compile_time_eval():  # a concrete game can also stand inside a trace
        if bool(_all_valid(game)):
            return
        valid = np.asarray(game.is_valid())  # pyright: ignore[reportAttributeAccessIssue]
    fault = first_fault(np.asarray(game.preferences)) if isinstance(game, MatrixGame) else None
    if fault is not None:
        raise ValueError(f"game: preferences{list(fault.index)} is {fault.found}; allowed is {fault.allowed}")
    bad = [int(i) for i in np.argwhere(~valid)[0]]
    raise ValueError(f"game{bad} is not a preference game; allowed is P + P^T = 1, P in [0, 1]")
