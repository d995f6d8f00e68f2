"""Conversion of the argument `game` of every public function."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nashjax._math.transfers import explicit, owned
from nashjax._validation import as_real_array, check_square, invalid, message, wrong_type
from nashjax.games.base import Game
from nashjax.games.embedding import EmbeddingGame
from nashjax.games.low_rank import LowRankGame
from nashjax.games.matrix import MatrixGame, SmallGames, as_exact
from nashjax.games.scaled import ScaledGame
from nashjax.games.zero_sum import PolymatrixGame, ZeroSumGame

DTYPES = (np.dtype("float32"), np.dtype("float64"))
"""The dtypes of a solve."""
BUILT_IN = (MatrixGame, SmallGames, EmbeddingGame, LowRankGame, ScaledGame, ZeroSumGame, PolymatrixGame)
"""Games whose batch axes and answers need no check."""


def as_game(game: Game | ArrayLike, *, in_place: bool = False) -> Game:
    """Return a game as it is, or the `MatrixGame` of an array; a numpy array stays one if `in_place`.

    Raises:
      TypeError: the argument is neither a game nor an array of real numbers.
      ValueError: the array is not `[..., n, n]` with `n >= 2`.
    """
    if isinstance(game, MatrixGame):
        game = game.preferences
    elif isinstance(game, Game):
        return game
    elif callable(vars(type(game)).get("payoffs")):
        advice = "Derive the class from nashjax.Game."
        raise wrong_type("game", "an array of preferences or a nashjax.Game", game, advice)
    preferences = as_real_array("game", game)
    check_square("game", preferences.shape)
    if not (in_place or isinstance(preferences, jax.Array)):
        with jax.ensure_compile_time_eval():  # stays concrete inside a trace, so that its values can be checked
            preferences = jnp.asarray(explicit(owned(preferences)))
    return MatrixGame(as_exact(preferences))


def check_one_player(game: object) -> None:
    """Raise ValueError for a game of several players where comparisons of one set of actions are needed."""
    if isinstance(game, Game) and len(game.sizes) > 1:
        found = f"an instance of {type(game).__name__} with {len(game.sizes)} players"
        raise invalid("game", "a preference game", found)


def check_answers(game: Game, dtype: jnp.dtype, batch: tuple[int, ...]) -> None:
    """Raise ValueError if a user's game does not answer weights `[n, *batch]` by an array of that shape."""
    if isinstance(game, BUILT_IN):
        return
    expected, name = (game.num_actions, *batch), type(game).__name__
    try:
        answer = jax.eval_shape(game.payoffs, jax.ShapeDtypeStruct(expected, dtype)).shape
    except (TypeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        requirement = f"able to answer weights of shape {list(expected)}"
        raise invalid(f"{name}.payoffs", requirement, f"the error {reason}") from error
    if answer != expected:
        requirement = (
            f"a query that answers weights of shape {list(expected)}, actions first, by an array of that shape"
        )
        raise invalid(f"{name}.payoffs", requirement, f"shape {list(answer)}")


def dtype_of(game: Game) -> jnp.dtype:
    """Return the dtype in which a game is solved: float32 or float64, whatever smaller types its leaves have."""
    if isinstance(game, MatrixGame) and game.preferences.dtype in DTYPES:
        return game.preferences.dtype  # the usual case, without a look at other leaves
    try:
        dtypes = [jnp.result_type(x) for x in jax.tree.leaves(game)]
        floating = [jnp.dtype(dtype) for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]  # weak ones count, too
    except TypeError:
        advice = "Register the class with jax.tree_util.register_dataclass."
        raise TypeError(message("game", "a pytree", f"an instance of {type(game).__name__}", advice)) from None
    if not floating:
        return jnp.result_type(float)
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(jnp.float32, *floating)
