"""Who answers comparisons: games whose matrix is known, for studies, and Python functions, for everything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nashjax._math.transfers import explicit
from nashjax._validation import (
    check_integer,
    check_shape,
    invalid,
    message,
    real_numbers_or_none,
    shown,
    wrong_type,
)
from nashjax.games import Game, MatrixGame
from nashjax.games.conversion import check_one_player
from nashjax.problem import Problem


class OracleError(ValueError):
    """An oracle's answer cannot be used; the message says what was asked and what came back."""


@runtime_checkable
class PreferenceOracle(Protocol):
    """Whatever can say which of two actions is preferred (spec 4).

    An oracle of many independent games is a pytree (register it with jax) whose array leaves lead with `batch_shape`;
    it is asked one game at a time, inside of `vmap`. Any other object is asked for all games alike and has to stay as
    it is: what it does is compiled once. Optional, for a pytree: `game`, the `MatrixGame` behind the answers with
    batch shape `[*batch_shape]`, or `[*batch_shape, num_contexts]` for a contextual oracle; with it exploitabilities
    can be reported, without it only win rates. Optional, too: `contextual`, whether policies come back with an axis of
    contexts; by default where there are several.
    """

    @property
    def num_actions(self) -> int:
        """The number `n` of actions."""
        ...

    @property
    def num_contexts(self) -> int:
        """How many contexts there are, each with a game of its own; 1 where there are none."""
        ...

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The axes of independent games; `()` for one."""
        ...

    def compare(self, key: jax.Array, context: jax.Array, action: jax.Array, opponent: jax.Array) -> jax.Array:
        """Ask whether an action is preferred over another, once for each entry.

        What it says of an action and itself is not used: that counts as 1/2. An order that matters, `(a, b)` answered
        otherwise than `1 - (b, a)`, makes no preference game; ask both orders and take the mean.

        Args:
          key: a jax random key.
          context: int32, any one shape, in `[0, num_contexts)`.
          action: int32, the same shape, in `[0, num_actions)`.
          opponent: int32, the same shape, the action that it is compared with.

        Returns:
          float of that shape, in [0, 1]: 1 where `action` was preferred, 0 where `opponent` was; a fraction is a
          probability or a tie.
        """
        ...


class _MatrixOracle:
    """An oracle that looks its answers up in a matrix."""

    def __init__(self, game: Game | ArrayLike, *, contextual: bool = False):
        check_one_player(game)
        checked: Any = Problem.build(game, 1.0).game
        if not isinstance(checked, MatrixGame):
            if not checked.has_matrix:
                raise wrong_type("game", "a game with a matrix, which has dense()", game)
            checked = MatrixGame(checked.dense())
        if contextual and not checked.batch_shape:
            requirement = "a game whose last batch axis is that of contexts, since contextual is True"
            raise invalid("game", requirement, "no batch axis")
        self.game = _symmetrized(explicit(checked))
        self.contextual = contextual

    def tree_flatten(self) -> tuple[tuple[MatrixGame], bool]:
        """Take apart, for jax."""
        return (self.game,), self.contextual

    @classmethod
    def tree_unflatten(cls, contextual: bool, children: tuple[MatrixGame]) -> Any:
        """Put together, for jax, without looking at what may be no array."""
        oracle = object.__new__(cls)
        (oracle.game,), oracle.contextual = children, contextual
        return oracle

    @property
    def num_actions(self) -> int:
        """The number `n` of actions."""
        return self.game.num_actions

    @property
    def num_contexts(self) -> int:
        """The size of the last batch axis of a contextual game, else 1."""
        return self.game.batch_shape[-1] if self.contextual else 1

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The batch axes of the game, less that of the contexts."""
        return self.game.batch_shape[:-1] if self.contextual else self.game.batch_shape

    def probability(self, context: jax.Array, action: jax.Array, opponent: jax.Array) -> jax.Array:
        """The entries of the matrix, of one game for indices of any shape, of many for `[*batch_shape, ...]`."""
        asked = jnp.broadcast_arrays(*map(jnp.asarray, (context, action, opponent)))
        places = asked if self.contextual else asked[1:]
        # An index for each axis: one into all entries would leave int32 with 46,341 actions.
        own = jnp.indices(self.batch_shape, sparse=True)
        along = [axis.reshape(*axis.shape, *[1] * (asked[0].ndim - len(own))) for axis in own]
        return self.game.preferences[(*along, *places)]


_symmetrized = jax.jit(MatrixGame.symmetrized)


@jax.tree_util.register_pytree_node_class
class ProbabilityOracle(_MatrixOracle):
    """Answers with the probability itself, as a judge that gives scores would.

    Args:
      game: a `Game` with a matrix or an array `[..., n, n]`, checked as in `nashjax.solve`.
      contextual: whether the last batch axis of the game is that of contexts, not of independent games.
    """

    def compare(self, key: jax.Array, context: jax.Array, action: jax.Array, opponent: jax.Array) -> jax.Array:
        """The probability that each action is preferred; see `PreferenceOracle.compare`."""
        del key
        return self.probability(context, action, opponent)


@jax.tree_util.register_pytree_node_class
class BernoulliOracle(_MatrixOracle):
    """Answers 0 or 1, drawn with the probability of the game: one vote.

    Made, of a `game` and whether it is `contextual`, as a `ProbabilityOracle` is.
    """

    def compare(self, key: jax.Array, context: jax.Array, action: jax.Array, opponent: jax.Array) -> jax.Array:
        """A vote on each pair; see `PreferenceOracle.compare`."""
        probability = self.probability(context, action, opponent)
        uniform = jax.random.uniform(key, probability.shape, jnp.float32).astype(probability.dtype)
        return (uniform < probability).astype(probability.dtype)


class CallableOracle:
    """Asks a Python function, from inside compiled code (`jax.pure_callback`).

    A run that is resumed repeats one that was not interrupted only if the function gives the same answers again.

    Args:
      function: from numpy arrays `context`, `action`, `opponent`, int32 `[k]`, to `[k]` numbers in [0, 1]: what is
        preferred, as in `PreferenceOracle.compare`. It is never asked about an action and itself, and `k` differs from
        call to call. What it raises ends the run as an `OracleError`.
      num_actions: `n >= 2`.
      num_contexts: how many contexts there are, >= 1.
      batch_shape: axes of independent runs, which all ask the same function.

    Attributes:
      comparisons: how many comparisons the function has been asked for.
      failure: what ended the run, an `OracleError` or an interrupt; None if nothing did.
    """

    def __init__(
        self,
        function: Callable[[np.ndarray, np.ndarray, np.ndarray], ArrayLike],
        num_actions: int,
        *,
        num_contexts: int = 1,
        batch_shape: tuple[int, ...] = (),
    ):
        for name, value, least in (("num_actions", num_actions, 2), ("num_contexts", num_contexts, 1)):
            check_integer(name, value, least)
        if not callable(function):
            raise wrong_type("function", "a function of (context, action, opponent)", function)
        self.function = function
        self.num_actions = num_actions
        self.num_contexts = num_contexts
        self.batch_shape = check_shape("batch_shape", batch_shape)
        self.comparisons = 0
        self.failure: BaseException | None = None

    def compare(self, key: jax.Array, context: jax.Array, action: jax.Array, opponent: jax.Array) -> jax.Array:
        """Ask the function; see `PreferenceOracle.compare`."""
        del key
        answer = jax.ShapeDtypeStruct(jnp.shape(action), jnp.result_type(float))
        return jax.pure_callback(self._ask, answer, context, action, opponent, vmap_method="broadcast_all")

    def _ask(self, context: ArrayLike, action: ArrayLike, opponent: ArrayLike) -> np.ndarray:
        arrays = [np.asarray(x) for x in (context, action, opponent)]
        different = arrays[1] != arrays[2]
        outcome = np.full(arrays[1].shape, 0.5, jnp.result_type(float))
        try:
            if different.any():
                outcome[different] = self._checked([x[different] for x in arrays])
        except BaseException as error:  # compiled code makes an error of its own of it, also of an interrupt
            self.failure = self.failure or error
            raise
        return outcome

    def _checked(self, asked: list[np.ndarray]) -> np.ndarray:
        first = describe_question(*(x[0] for x in asked))
        subject = f"the oracle's answer to {asked[0].size} comparisons, the first {first},"
        required = f"numbers [{asked[0].size}]"
        try:
            answer = self.function(*asked)
        except Exception as error:  # whatever a user's function does wrong
            raise OracleError(message(subject, required, f"{type(error).__name__}: {error}")) from error
        self.comparisons += asked[0].size
        outcome = real_numbers_or_none(answer)
        if outcome is None:
            raise OracleError(message(subject, required, shown(answer)))
        if outcome.shape != asked[0].shape:
            raise OracleError(message(subject, required, f"shape {list(outcome.shape)}"))
        bad = ~((outcome >= 0) & (outcome <= 1))
        if bad.any():
            i = int(np.argmax(bad))
            context, action, opponent = (x[i] for x in asked)
            raise OracleError(unusable(context, action, opponent, outcome[i]))
        return outcome


def describe_question(context: Any, action: Any, opponent: Any) -> str:
    """One comparison in words."""
    return f"whether action {int(action)} is preferred over {int(opponent)} in context {int(context)}"


def unusable(context: Any, action: Any, opponent: Any, outcome: Any) -> str:
    """What is wrong with an answer that is not in [0, 1]."""
    subject = f"the oracle's answer to {describe_question(context, action, opponent)}"
    return message(subject, "a number from 0 to 1", str(float(outcome)))
