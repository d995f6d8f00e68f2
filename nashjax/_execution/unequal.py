"""Execution of games of different sizes: padded to a few sizes, each of which is solved as one batch.

A padded game has further actions that the reference excludes, so its solution is that of the game itself. The sizes are
chosen from those that occur: few, because each one is a program to compile for each stage of the algorithm, and such
that little of the work is spent on padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from nashjax._execution.items import Entry
from nashjax._execution.threads import on_all_cores
from nashjax._math.transfers import is_concrete
from nashjax.games.conversion import DTYPES
from nashjax.games.embedding import EmbeddingGame
from nashjax.games.faults import SYMMETRY_TOLERANCE, first_fault
from nashjax.games.low_rank import LowRankGame
from nashjax.solution import FIELDS, Solution

MOST_PROGRAMS = 8
"""Most sizes times methods. Each size needs a program for each stage that its games reach."""
PROGRAM = 2.0**20
"""Work, in units of `_work`, that one more size has to save. At `beta = 0.1` this is the work of 230 games of 60
actions: a program takes a second to compile, but later calls use it again."""
CHECKED_TOGETHER = 64
"""Games whose values are checked at once: as many as fit the cache of a core."""


class _Group(NamedTuple):
    """Padded games, `G` of them: a batch for `solve`.

    Attributes:
      entries: the items.
      starts: where the games of each item begin, and `G`.
      preferences: `[G, n, n]`.
      beta: `[G]`.
      reference: `[G, n]`, None if nothing is padded and all references are uniform.
      tol: `[G]`.
    """

    entries: Sequence[Entry]
    starts: np.ndarray
    preferences: np.ndarray
    beta: np.ndarray
    reference: np.ndarray | None
    tol: np.ndarray


def solve_entries(
    entries: Sequence[Entry],
    solve: Callable[..., Solution],
    count_methods: Callable[[int, np.dtype, np.ndarray], int],
) -> list[Solution]:
    """Solve items in few batches and return their solutions in order.

    Args:
      entries: the items.
      solve: function of a game and its beta, with `reference` and `tol` by name, that solves a batch.
      count_methods: function of the number of actions, the dtype and the betas, to the number of different methods
        that a batch can need.

    Raises:
      ValueError: a matrix has a wrong value; the message names the item and the entry. Nothing is solved then.
    """
    groups = list(_make_groups([entry for entry in entries if entry.game is None], count_methods))
    _check_values(groups)
    found: list[Any] = [None] * len(entries)
    for group in groups:
        solution = solve(group.preferences, group.beta, reference=group.reference, tol=group.tol)
        _put_solutions(found, group, solution.to_numpy())
    for alike in _stackable([entry for entry in entries if entry.game is not None]):
        if len(alike) > 1:
            for entry, own in zip(alike, _solve_stacked(alike, solve), strict=True):
                found[entry.place] = own
        else:
            entry = alike[0]
            own = solve(entry.game, entry.beta, reference=entry.reference, tol=entry.tol)
            found[entry.place] = own.to_numpy() if is_concrete(own) else own
    return found


def choose_sizes(sizes: np.ndarray, most: int) -> np.ndarray:
    """Return the sizes to which games are padded, ascending, with which the whole work is the least.

    Args:
      sizes: number of actions of each game, int `[games]`, at least one.
      most: largest number of sizes.

    Returns:
      Some of the sizes, the largest included. One more size has to save the work `PROGRAM`.
    """
    present, counts = np.unique(sizes, return_counts=True)
    upto = np.concatenate([[0], np.cumsum(counts)])
    # Entry [i, j]: the games from the i-th size to the j-th, all padded to the j-th.
    together = (upto[None, 1:] - upto[:-1, None]) * _work(present)[None, :]
    together = np.where(np.arange(len(present))[:, None] <= np.arange(len(present))[None, :], together, np.inf)
    least, choices = together[0], [np.zeros(len(present), int)]
    totals = [least[-1]]
    for k in range(1, min(most, len(present))):
        # The sizes before the i-th are padded to the k sizes that are best for them.
        whole = np.concatenate([[np.inf], least[:-1]])[:, None] + together
        choices.append(np.argmin(whole, axis=0))
        least = np.min(whole, axis=0)
        totals.append(least[-1] + k * PROGRAM)
    chosen, end = [], len(present) - 1
    for k in range(int(np.argmin(totals)), -1, -1):
        chosen.append(present[end])
        end = choices[k][end] - 1
    return np.array(chosen[::-1])


def _work(size: np.ndarray) -> np.ndarray:
    """Work of a query of one game, in entries of a matrix; the second term stands for what is linear in the size."""
    return size * (size + 16.0)


def _make_groups(entries: list[Entry], count_methods: Callable[[int, np.dtype, np.ndarray], int]) -> Iterator[_Group]:
    for dtype in DTYPES:
        own = [entry for entry in entries if entry.matrix.dtype == dtype]
        if not own:
            continue
        sizes = np.array([entry.matrix.shape[-1] for entry in own])
        counts = np.array([math.prod(entry.batch) for entry in own])
        betas = np.unique(_column([entry.beta for entry in own], own)).astype(dtype)
        methods = count_methods(int(sizes.max()), dtype, betas)
        chosen = choose_sizes(np.repeat(sizes, counts), max(MOST_PROGRAMS // methods, 1))
        group_of = np.searchsorted(chosen, sizes)
        for number, size in enumerate(chosen):
            yield _pad([own[i] for i in np.flatnonzero(group_of == number)], int(size), dtype)


def _pad(entries: Sequence[Entry], size: int, dtype: np.dtype) -> _Group:
    """Return games as one batch, padded to a size."""
    counts = [math.prod(entry.batch) for entry in entries]
    starts = np.concatenate([[0], np.cumsum(counts)])
    own_sizes = np.repeat([entry.matrix.shape[-1] for entry in entries], counts)
    preferences = np.full((starts[-1], size, size), 0.5, dtype)
    reference = np.where(np.arange(size) < own_sizes[:, None], 1 / own_sizes[:, None], 0).astype(dtype)
    for entry, start, count in zip(entries, starts.tolist(), counts, strict=False):
        n = entry.matrix.shape[-1]
        if entry.batch == ():
            preferences[start, :n, :n] = entry.matrix
        else:
            preferences[start : start + count, :n, :n] = _rows(entry.matrix, entry.batch, 2)
        if entry.reference is not None:
            reference[start : start + count, :n] = _rows(entry.reference, entry.batch, 1)
    uniform = (own_sizes == size).all() and all(entry.reference is None for entry in entries)
    beta, tol = _column([entry.beta for entry in entries], entries), _column([entry.tol for entry in entries], entries)
    return _Group(entries, starts, preferences, beta, None if uniform else reference, tol)


def _column(values: list[Any], entries: Sequence[Entry]) -> np.ndarray:
    """Return the numbers of all games of some items, `[games]`."""
    if all(entry.batch == () for entry in entries):
        return np.array(values, float)
    return np.concatenate([_rows(value, entry.batch, 0) for value, entry in zip(values, entries, strict=True)])


def _rows(array: Any, batch: tuple[int, ...], rank: int) -> np.ndarray:
    """Return what an item has for each of its games, `[games, ...]`, from `[*own, *rest]` with `rank` axes in rest."""
    array = np.asarray(array)
    if not batch:
        return array[None]
    rest = array.shape[array.ndim - rank :]
    return np.broadcast_to(array, batch + rest).reshape(-1, *rest)


def _check_values(groups: Sequence[_Group]) -> None:
    """Raise ValueError that names the first bad entry unless all matrices are those of preference games."""
    suspects: list[Entry] = []
    for group in groups:
        parts = range(0, len(group.preferences), CHECKED_TOGETHER)
        for start, good in zip(parts, on_all_cores(_Check(group.preferences), parts), strict=True):
            if not good:
                first = int(np.searchsorted(group.starts, start, side="right")) - 1
                last = int(np.searchsorted(group.starts, start + CHECKED_TOGETHER, side="left"))
                suspects += group.entries[first:last]
    for entry in sorted(suspects, key=lambda entry: entry.place):
        matrix, allowed = entry.matrix, None
        if entry.reference is not None:  # excluded actions may hold anything
            matrix, allowed = np.broadcast_to(matrix, entry.batch + matrix.shape[-2:]), entry.reference > 0
        fault = first_fault(matrix, allowed)
        if fault:
            raise ValueError(fault.describe(f"games[{entry.place}]"))


class _Check:
    """Function of the first of some games that returns whether all of them are preference games."""

    def __init__(self, preferences: np.ndarray) -> None:
        self._preferences = preferences
        n = preferences.shape[-1]
        self._diagonal = np.arange(n) * (n + 1)

    def __call__(self, start: int) -> bool:
        P = self._preferences[start : start + CHECKED_TOGETHER]
        P.reshape(len(P), -1)[:, self._diagonal] = 0.5  # which holds no information and may hold anything
        with np.errstate(invalid="ignore"):
            excess = P + P.mT
            excess -= 1
            np.abs(excess, out=excess)
            # False for NaN.
            return bool(excess.max() <= SYMMETRY_TOLERANCE and P.min() >= 0 and P.max() <= 1)


def _put_solutions(found: list[Any], group: _Group, solution: Solution) -> None:
    """Put the solutions of a group in the places of its items, without the padding."""
    arrays = [getattr(solution, name) for name in FIELDS]
    single = zip(*arrays, strict=True)
    for entry, start, end in zip(group.entries, group.starts.tolist(), group.starts[1:].tolist(), strict=False):
        n = entry.matrix.shape[-1]
        if entry.batch:
            log_policy, *others = (x[start:end].reshape(*entry.batch, *x.shape[1:]) for x in arrays)
            for _ in range(end - start):
                next(single)
        else:
            log_policy, *others = next(single)
        found[entry.place] = Solution(log_policy[..., :n], *others)


def _stackable(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Return lists of items that can be stacked: games without a matrix of one class, one dtype and one shape."""
    alike: dict[Any, list[Entry]] = {}
    for entry in entries:
        key: Any = entry.place
        concrete = is_concrete((entry.game, entry.beta, entry.reference, entry.tol))
        if type(entry.game) in (LowRankGame, EmbeddingGame) and concrete and entry.batch == ():
            key = (type(entry.game), *((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(entry.game)))
        alike.setdefault(key, []).append(entry)
    yield from alike.values()


def _solve_stacked(entries: Sequence[Entry], solve: Callable[..., Solution]) -> Iterator[Solution]:
    game: Any = jax.tree.map(lambda *leaves: np.stack(leaves), *(entry.game for entry in entries))
    uniform = np.full(game.num_actions, 1 / game.num_actions)
    references = [uniform if entry.reference is None else np.asarray(entry.reference) for entry in entries]
    reference = None if all(entry.reference is None for entry in entries) else np.stack(references)
    beta, tol = ([float(x) for x in values] for values in zip(*((e.beta, e.tol) for e in entries), strict=True))
    return iter(solve(game, np.array(beta), reference=reference, tol=np.array(tol)))
