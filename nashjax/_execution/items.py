"""The items of `solve_many`: games of different sizes with the targets of their solves, validated one by one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from nashjax._math.transfers import is_concrete
from nashjax._validation import as_policy, as_real_array, check_betas, check_square, invalid, wrong_type
from nashjax.games import Game, MatrixGame
from nashjax.games.conversion import DTYPES, as_game
from nashjax.games.matrix import as_exact
from nashjax.problem import Problem, broadcast_shapes
from nashjax.solution import Solution


class Entry(NamedTuple):
    """One item of `solve_many` with the targets of its solve.

    Attributes:
      place: index of the item.
      matrix: preferences `[*own_batch, n, n]` in host memory, float32 or float64; None for an item that is not padded.
      game: the game of an item that is not padded; None for a matrix.
      beta: regularization of the item, a number or an array `[*batch]`.
      reference: probabilities `[*batch, n]`, None for uniform.
      tol: exploitability to reach, a number or an array `[*batch]`.
      batch: shape to which all batch shapes of the item broadcast; `()` for one game.
    """

    place: int
    matrix: Any
    game: Game | None
    beta: Any
    reference: Any
    tol: Any
    batch: tuple[int, ...]

    def as_game(self) -> Game:
        """Return the game, also of a matrix."""
        return MatrixGame(self.matrix) if self.game is None else self.game


def read_entries(games: Iterable[Any], beta: Any, reference: Any, tol: Any, *, pad: bool) -> list[Entry]:
    """Return the items of `solve_many`, validated except for the values of their matrices.

    Args:
      games: matrices and games.
      beta: a number, or one value for each item.
      reference: None, or a list with a reference or None for each item.
      tol: a number, or one value for each item.
      pad: whether matrices may be padded in host memory, which is not possible inside a trace.

    Raises:
      TypeError: an argument has a wrong type; the message names the item.
      ValueError: an argument has a wrong value; the message names the item.
    """
    if isinstance(games, (str, bytes, Game)) or not isinstance(games, Iterable):
        raise wrong_type("games", "an iterable of games", games, "Put a single game in a list.")
    items = list(games)
    betas, tols = (_one_each(name, values, len(items)) for name, values in (("beta", beta), ("tol", tol)))
    references = [None] * len(items)
    if reference is not None:
        if not isinstance(reference, (list, tuple, np.ndarray, jax.Array)):
            raise wrong_type("reference", "None or a list with one for each game", reference)
        references = _one_each("reference", reference, len(items))
    names = tuple(name for name, x in (("beta", beta), ("tol", tol)) if _is_several(x))
    plain = _plain_dtypes() if pad else ()
    entries: list[Entry] = []
    for place, (item, one_beta, one_reference, one_tol) in enumerate(zip(items, betas, references, tols, strict=True)):
        if (  # the usual case, of which there may be ten thousand
            type(item) is np.ndarray
            and item.ndim == 2
            and item.dtype in plain
            and one_reference is None
            and type(one_beta) is type(one_tol) is float
            and item.shape[0] == item.shape[1] > 1
        ):
            _check_targets(place, one_beta, one_tol, item.dtype, names)
            entries.append(Entry(place, item, None, one_beta, None, one_tol, ()))
        else:
            entries.append(_read_entry(place, item, one_beta, one_reference, one_tol, names=names, pad=pad))
    if not names:
        for dtype in {entry.matrix.dtype for entry in entries if entry.game is None}:
            check_betas(beta, tol, dtype)
    return entries


def _plain_dtypes() -> tuple[np.dtype, ...]:
    """Return the dtypes of arrays that are solved as they are."""
    return tuple(dtype for dtype in DTYPES if jax.dtypes.canonicalize_dtype(dtype) == dtype)


def _is_several(values: Any) -> bool:
    return isinstance(values, (list, tuple)) or (isinstance(values, (np.ndarray, jax.Array)) and values.ndim > 0)


def _one_each(name: str, values: Any, count: int) -> list[Any]:
    """Return the value of each item: one number for all, or `count` values."""
    if not _is_several(values):
        return [_as_float(values)] * count
    if len(values) != count:
        either = "" if name == "reference" else "a number or "
        raise invalid(name, f"{either}a list with one value for each of the {count} games", f"{len(values)} values")
    if isinstance(values, (list, tuple, Tracer)):
        return [_as_float(value) for value in values]
    return [_as_float(value) for value in np.asarray(values)]


def _as_float(value: Any) -> Any:
    """Return a single concrete number as a Python number, which is quick to check; anything else as it is."""
    if type(value) is int or (
        isinstance(value, (np.ndarray, np.generic)) and value.ndim == 0 and value.dtype.kind in "iuf"
    ):
        return float(value)
    return value


def _read_entry(
    place: int, item: Any, beta: Any, reference: Any, tol: Any, *, names: tuple[str, ...], pad: bool
) -> Entry:
    matrix = _read_matrix(f"games[{place}]", item) if pad else None
    if matrix is None or not is_concrete((beta, reference, tol)):
        return _read_unpadded(place, item, beta, reference, tol, names)
    _check_targets(place, beta, tol, matrix.dtype, names)
    if reference is not None:
        n = matrix.shape[-1]
        reference = np.asarray(as_policy(f"reference[{place}]", reference, n, matrix.dtype, in_place=True))
    shapes = [matrix.shape[:-2], np.shape(beta), () if reference is None else reference.shape[:-1], np.shape(tol)]
    try:
        batch = broadcast_shapes(shapes)
    except ValueError:
        found = ", ".join(f"{part} {list(s)}" for part, s in zip(("game", "beta", "reference", "tol"), shapes) if s)  # noqa: B905
        raise invalid(f"batch shapes of games[{place}]", "shapes that broadcast with each other", found) from None
    if 0 in batch:
        return _read_unpadded(place, item, beta, reference, tol, names)
    return Entry(place, matrix, None, beta, reference, tol, batch)


def _check_targets(place: int, beta: Any, tol: Any, dtype: np.dtype, names: tuple[str, ...]) -> None:
    """Check the targets of one item, with its place in the names of those that have one value for each item."""
    if names:
        check_betas(beta, tol, dtype, *(f"{name}[{place}]" if name in names else name for name in ("beta", "tol")))


def _read_matrix(name: str, item: Any) -> np.ndarray | None:
    """Return the preferences `[*batch, n, n]` of an item in host memory, None for an item that cannot be padded."""
    if isinstance(item, MatrixGame):
        item = item.preferences
    elif isinstance(item, Game) or callable(vars(type(item)).get("payoffs")):
        return None
    elif isinstance(item, Solution):
        raise wrong_type(name, "an array of preferences or a nashjax.Game", item)
    array = as_real_array(name, item)
    if isinstance(array, Tracer):
        return None
    check_square(name, array.shape)
    return np.asarray(as_exact(np.asarray(array)))


def _read_unpadded(place: int, item: Any, beta: Any, reference: Any, tol: Any, names: tuple[str, ...]) -> Entry:
    """Validate an item that is not padded, with the name of the item in the message."""
    try:
        game = as_game(item)
        problem = Problem.build(game, beta, reference, tol=tol)
    except (TypeError, ValueError) as error:
        if type(error) not in (TypeError, ValueError):  # an error of jax, which has arguments of its own
            raise
        known = re.match(r"(game|preferences|beta|reference|tol)\b(.*)", str(error), re.DOTALL)
        if known is None or (known[1] in ("beta", "tol") and known[1] not in names):
            raise type(error)(f"games[{place}]: {error}") from error
        subject = "games" if known[1] in ("game", "preferences") else known[1]
        raise type(error)(f"{subject}[{place}]{known[2]}") from error
    return Entry(place, None, game, beta, reference, tol, problem.batch_shape)
