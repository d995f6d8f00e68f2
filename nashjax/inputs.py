"""The arguments of a solve: validated, cast to one dtype, and transposed to actions first."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nashjax import simplex
from nashjax.arguments import (
    SUM_TOLERANCE,
    as_real_array,
    check_all,
    check_not_solution,
    check_policy,
    check_square,
    invalid,
    message,
    real_numbers_or_none,
    wrong_type,
)
from nashjax.games import EmbeddingGame, Game, LowRankGame, MatrixGame
from nashjax.games.matrix import as_exact as _as_exact
from nashjax.games.validity import check_game, prepare_game
from nashjax.problem import RegularizedGame
from nashjax.pytree import Classes
from nashjax.transfers import explicit, is_concrete, to_host

DTYPES = (np.dtype("float32"), np.dtype("float64"))
"""Those of a solve."""


class Inputs(NamedTuple):
    """The arguments that describe games, batch axes first, cast to the dtype of the game; a pytree.

    Attributes:
      game: of any `batch_shape`.
      beta: `[*batch]`.
      reference: `[*batch, n]`, None for uniform.
      initial: `[*batch, n]`, None for the reference.
      tol: `[*batch]`.
      classes: of the game, and of what else is compiled for.

    The batch shapes differ but broadcast with each other; nothing is copied to make them equal.
    """

    game: Game
    beta: jax.Array
    reference: jax.Array | None
    initial: jax.Array | None
    tol: jax.Array
    classes: Classes

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape that all batch shapes broadcast to."""
        return _broadcast(batch_shapes(self).values())

    def aligned(self) -> Inputs:
        """Return the same games with `beta` and `tol` of the rank of the batch, unless they are single numbers."""
        rank = len(self.batch_shape)
        beta, tol = (
            x.reshape((1,) * (rank - x.ndim) + x.shape) if 0 < x.ndim < rank else x for x in (self.beta, self.tol)
        )
        return self._replace(beta=beta, tol=tol)

    def run_by(self, algorithm: object) -> Inputs:
        """The same, for programs that no other class of algorithm shares."""
        return self._replace(classes=self.classes.beside(algorithm))

    def prepare(self) -> tuple[RegularizedGame, jax.Array, jax.Array]:
        """Turn the games actions first and judge them; traceable.

        Returns:
          The problem; the log of the initial policy, `[n, *batch]`; whether each game is one at all, `[*batch]`.
        """
        game, batch = self.game, self.batch_shape
        beta = self.aligned().beta
        game, is_game = prepare_game(game, self.reference)
        good = [jnp.isfinite(beta) & (beta >= 0), is_game]
        uniform = jnp.full(game.num_actions, 1 / game.num_actions, self.beta.dtype)
        reference = uniform if self.reference is None else self.reference
        initial = reference if self.initial is None else self.initial
        good += [_is_policy(reference), _is_policy(initial)]
        valid = functools.reduce(operator.and_, [jnp.broadcast_to(each, batch) for each in good])
        excluded = reference == 0
        # What starts at 0 would stay there: a probability that has underflowed must not exclude its action.
        initial = jnp.maximum(initial, jnp.finfo(initial.dtype).tiny)
        log_reference = _log_policy(reference, excluded, batch)
        log_initial = jnp.broadcast_to(_log_policy(initial, excluded, batch), (game.num_actions, *batch))
        return RegularizedGame(game, beta, log_reference), log_initial, valid

    def take(self, index: jax.Array) -> Inputs:
        """The games at these positions of the flattened batch, `[block]`.

        What all games share stays one; what only some of them share is copied for each.
        """
        return self._select(lambda leaf: leaf[index], index)

    def slice(self, start: jax.Array, size: int) -> Inputs:
        """The games from a position of the flattened batch on, `[size]`; as `take`, without gathering."""
        return self._select(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), start + jnp.arange(size))

    def part(self, start: int, size: int) -> Inputs:
        """As `slice`, of numpy arrays: what each game has of its own is a view of theirs."""
        return self._select(lambda leaf: leaf[start : start + size], np.arange(start, start + size))

    def _select(self, select: Callable[[Any], Any], index: Any) -> Inputs:
        """Select the games at `index` from every leaf, with `select` where each game has an entry of its own."""
        shapes, batch = batch_shapes(self), self.batch_shape or (1,)
        xp: Any = np if isinstance(index, np.ndarray) else jnp

        def from_leaf(leaf: Any, own: tuple[int, ...]) -> Any:
            lead, rest = leaf.shape[: len(own)], leaf.shape[len(own) :]
            if math.prod(lead) == 1:
                return leaf.reshape(rest if math.prod(own) == 1 else (1, *rest))
            if lead == batch:
                return select(leaf.reshape(-1, *rest))
            position = xp.unravel_index(index, batch)[len(batch) - len(own) :]
            return leaf[tuple(xp.where(size == 1, 0, at) for size, at in zip(lead, position, strict=True))]

        selected = {
            name: jax.tree.map(lambda leaf, own=shapes[name]: from_leaf(leaf, own), getattr(self, name))
            for name in self._fields
        }
        # One beta for each game, so that a block is a batch even where its games share everything.
        return Inputs(**selected)._replace(beta=select(xp.broadcast_to(self.beta, batch).reshape(-1)))


def as_inputs(
    game: Game | ArrayLike,
    beta: ArrayLike,
    reference: ArrayLike | None = None,
    initial: ArrayLike | None = None,
    tol: ArrayLike = 0.0,
    *,
    validate: bool = True,
    in_place: bool = False,
) -> Inputs:
    """Check the arguments of a solve and cast them to the dtype of the game.

    Shapes are always checked, values where they are concrete (not inside a trace) and `validate` is true.

    With `in_place` numpy arrays stay what they are, for compiled functions that read them where they lie: the caller
    has to wait for these to end. Nor are the values of the game looked at: where the statuses tell that a game is
    INVALID, the caller has to call `check_game`.

    Raises:
      TypeError: an argument is of a wrong type.
      ValueError: an argument has a wrong value; the message names it and the index of the first bad entry.
    """
    game = _as_game(game, in_place=in_place)
    dtype = _dtype(game)
    if validate:
        _check_numbers(beta, tol, dtype)
    cast = _cast_in_place if in_place else _cast
    inputs = Inputs(
        game=game,
        beta=cast(beta, dtype),
        reference=None if reference is None else as_policy_of(game, "reference", reference, validate=validate),
        initial=None if initial is None else as_policy_of(game, "initial", initial, validate=validate),
        tol=cast(tol, dtype),
        classes=Classes.of(game),
    )
    shapes = batch_shapes(inputs)
    try:
        _broadcast(shapes.values())
    except ValueError:
        found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items() if shape)
        raise invalid("batch shapes", "shapes that broadcast with each other", found) from None
    _check_answers(game, dtype, inputs.batch_shape)
    if validate and not in_place:
        check_game(inputs.game, inputs.reference)
    return inputs


def as_path_inputs(
    game: Game | ArrayLike,
    betas: ArrayLike,
    reference: ArrayLike | None,
    initial: ArrayLike | None,
    tol: ArrayLike,
    *,
    validate: bool = True,
) -> Inputs:
    """The arguments of a path: as `as_inputs`, with `beta` `[num_betas, *batch]`, a new axis in front of all others.

    Raises:
      ValueError: as `as_inputs`; or the betas increase along the first axis.
    """
    if not isinstance(betas, jax.Array):
        betas = as_numbers("betas", betas)
    if betas.ndim == 0 or betas.shape[0] == 0:
        raise invalid("betas", "an array [num_betas, ...] with at least one beta", f"shape {list(betas.shape)}")
    if validate and is_concrete(betas):
        values = to_host(betas)
        _check_numbers(values, tol, _dtype(_as_game(game)), beta_name="betas")
        never_increasing = np.concatenate([np.full_like(values[:1], True, bool), values[1:] <= values[:-1]])
        check_all("betas", values, never_increasing, "at most the beta before it", "Sort betas in descending order.")
    first = jax.lax.index_in_dim(jnp.asarray(explicit(betas)), 0, keepdims=False)
    inputs = as_inputs(game, first, reference, initial, tol, validate=validate)
    between = (1,) * (len(inputs.batch_shape) - (betas.ndim - 1))
    return inputs._replace(beta=_cast(betas, inputs.beta.dtype).reshape(len(betas), *between, *betas.shape[1:]))


def as_policy_of(game: Game, name: str, policy: ArrayLike, *, validate: bool = True) -> jax.Array:
    """As `as_policy`, for the actions of a game and in its dtype."""
    return as_policy(name, policy, game.num_actions, _dtype(game), validate=validate)


def as_policy(name: str, policy: ArrayLike, num_actions: int, dtype: jnp.dtype, *, validate: bool = True) -> jax.Array:
    """Check probabilities `[*batch, n]` and cast them to a dtype.

    Raises:
      ValueError: naming the argument `name`, the first bad index, what is there and what is allowed.
    """
    policy = as_real_array(name, policy)
    shape = policy.shape
    if not shape or shape[-1] != num_actions:
        raise invalid(name, f"an array [..., {num_actions}] with a probability for each action", f"shape {list(shape)}")
    if validate and is_concrete(policy):
        values = as_numbers(name, policy)
        check_policy(name, values)
        if name == "reference":  # in which a zero has a meaning
            tiny = float(jnp.finfo(dtype).tiny)
            check_all(name, values, (values == 0) | (values >= tiny), f"0 or, in {dtype}, at least {tiny:.3g}")
    return _cast(policy, dtype)


def _as_game(game: Game | ArrayLike, *, in_place: bool = False) -> Game:
    if isinstance(game, MatrixGame):
        game = game.preferences
    elif not isinstance(game, (jax.Array, np.ndarray)) and hasattr(game, "payoffs"):
        _check_attributes(game)
        return game  # pyright: ignore[reportReturnType]
    preferences = as_real_array("game", game)
    check_square("game", preferences.shape)
    if not (in_place or isinstance(preferences, jax.Array)):
        with jax.ensure_compile_time_eval():  # stays concrete inside a trace, so that its values can be checked
            preferences = jnp.asarray(explicit(preferences))
    return MatrixGame(_as_exact(preferences))


def _check_attributes(game: Any) -> None:
    """Raise TypeError if a game of a user's class lacks what `Game` requires."""
    missing = [name for name in ("num_actions", "batch_shape") if not hasattr(game, name)]
    if missing:
        lacks = f"an instance of {type(game).__name__}, which has no {' and no '.join(missing)}"
        raise TypeError(message("game", "an array of preferences or a nashjax.Game", lacks))


def _check_answers(game: Any, dtype: jnp.dtype, batch: tuple[int, ...]) -> None:
    """Raise ValueError if a game of a user's class does not answer weights `[n, *batch]` by an array of that shape."""
    if isinstance(game, (MatrixGame, EmbeddingGame, LowRankGame)):
        return
    asked, name = (game.num_actions, *batch), type(game).__name__
    try:
        answer = jax.eval_shape(game.payoffs, jax.ShapeDtypeStruct(asked, dtype)).shape
    except (TypeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        requirement = f"able to answer weights of shape {list(asked)}"
        raise invalid(f"{name}.payoffs", requirement, f"the error {reason}") from error
    if answer != asked:
        requirement = f"a query that answers weights of shape {list(asked)}, actions first, by an array of that shape"
        raise invalid(f"{name}.payoffs", requirement, f"shape {list(answer)}")


def _cast(x: ArrayLike, dtype: jnp.dtype) -> jax.Array:
    return jnp.asarray(explicit(x), dtype)


def _cast_in_place(x: ArrayLike, dtype: jnp.dtype) -> jax.Array:
    return jnp.asarray(x, dtype) if isinstance(x, jax.Array) else np.asarray(x, dtype)  # pyright: ignore


def _dtype(game: Game) -> jnp.dtype:
    """Float32 or float64, whatever smaller types the game is made of."""
    if isinstance(game, MatrixGame) and game.preferences.dtype in DTYPES:
        return game.preferences.dtype  # nearly always, and known at once
    try:
        dtypes = [jnp.result_type(x) for x in jax.tree.leaves(game)]
        floating = [jnp.dtype(dtype) for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]  # weak ones count, too
    except TypeError:
        advice = "Register the class with jax.tree_util.register_dataclass."
        raise wrong_type("game", "an array or a game that is a pytree", game, advice) from None
    if not floating:
        return jnp.result_type(float)
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(jnp.float32, *floating)


def batch_shapes(inputs: Inputs) -> dict[str, tuple[int, ...]]:
    """The batch shape of each argument."""

    def before_actions(policy: jax.Array | None) -> tuple[int, ...]:
        return () if policy is None else policy.shape[:-1]

    return {
        "game": tuple(inputs.game.batch_shape),
        "beta": inputs.beta.shape,
        "reference": before_actions(inputs.reference),
        "initial": before_actions(inputs.initial),
        "tol": inputs.tol.shape,
        "classes": (),
    }


def _broadcast(shapes: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    different = {shape for shape in shapes if shape}  # nearly always one at most, and then numpy takes longer
    return np.broadcast_shapes(*different) if len(different) > 1 else next(iter(different), ())


def _log_policy(policy: jax.Array, excluded: jax.Array, batch: tuple[int, ...]) -> jax.Array:
    # Axes of size 1 keep the batch axes apart from the action axis once that is in front.
    policy, excluded = (x.reshape((1,) * (len(batch) - x.ndim + 1) + x.shape) for x in (policy, excluded))
    # The logarithm of an excluded action is never taken: its derivative would be infinite.
    log_policy = jnp.where(excluded, -jnp.inf, jnp.log(jnp.where(excluded, 1, policy)))
    return simplex.normalize(jnp.moveaxis(log_policy, -1, 0))


def _is_policy(policy: jax.Array) -> jax.Array:
    slack = SUM_TOLERANCE + policy.shape[-1] * jnp.finfo(policy.dtype).eps
    sums_to_one = jnp.abs(jnp.sum(policy, axis=-1) - 1) <= slack
    return jnp.all(jnp.isfinite(policy) & (policy >= 0), axis=-1) & sums_to_one


def _check_numbers(beta: ArrayLike, tol: ArrayLike, dtype: jnp.dtype, beta_name: str = "beta") -> None:
    tiny, largest = _range(dtype)
    if not _is_number_from(beta, tiny, largest) and is_concrete(beta):
        values = as_numbers(beta_name, beta)
        check_all(beta_name, values, np.isfinite(values) & (values >= 0), "finite and >= 0")
        allowed = f"0 or, in {dtype}, {tiny:.3g} to {largest:.3g}"
        check_all(beta_name, values, (values == 0) | ((values >= tiny) & (values <= largest)), allowed)
    if not _is_number_from(tol, 0, largest) and is_concrete(tol):
        values = as_numbers("tol", tol)
        allowed = f"a number >= 0 and, in {dtype}, <= {largest:.3g}"
        check_all("tol", values, (values >= 0) & (values <= largest), allowed)


@functools.cache
def _range(dtype: jnp.dtype) -> tuple[float, float]:
    return float(jnp.finfo(dtype).tiny), float(jnp.finfo(dtype).max)


def _is_number_from(x: object, low: float, high: float) -> bool:
    """Whether this is a number of Python in a range: known at once, where arrays take longer to look at."""
    return isinstance(x, (int, float)) and low <= x <= high


def as_numbers(name: str, x: Any) -> np.ndarray:
    """Return the values of an argument in float64; raises TypeError if they are not real numbers."""
    check_not_solution(name, x)
    try:
        found = real_numbers_or_none(to_host(x))
    except ValueError:  # lists of different lengths
        found = None
    if found is None:
        raise wrong_type(name, "real numbers", x)
    return found
