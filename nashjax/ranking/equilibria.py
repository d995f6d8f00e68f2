"""The equilibria behind a ranking: of all comparisons, of their resamples, and along beta, in batches."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from nashjax import metrics
from nashjax._solve import solve
from nashjax.ranking.compare_next import SMALLEST_BETA
from nashjax.solution import Status

_ENTRIES_AT_A_TIME = 2**24
"""Of the matrices that are solved in one call."""
_TIE = 1e-9
"""Payoffs that differ by less share a rank."""


class Equilibria(NamedTuple):
    """What was found; the first row of each is of all comparisons, the others of the resamples.

    Attributes:
      mass: the mixtures, `[1 + resamples, n]`.
      payoff: of each item against the mixture of its row, `[1 + resamples, n]`.
      ranks: int, `[1 + resamples, n]`.
      path: mixtures of all comparisons along betas, `[betas, n]`.
      differentiable: that at the beta of `compare_next`, `[n]`.
      unique_at_beta_0: whether the plain equilibrium of all comparisons is the only one.
      exploitability: of the first mixture.
      converged: whether that was solved to its tolerance.
      unconverged: how many resamples were not.
    """

    mass: np.ndarray
    payoff: np.ndarray
    ranks: np.ndarray
    path: np.ndarray
    differentiable: np.ndarray
    unique_at_beta_0: bool
    exploitability: float
    converged: bool
    unconverged: int

    def reorder(self, order: np.ndarray) -> Equilibria:
        """The same with the items in this order."""
        named = ("mass", "payoff", "ranks", "path", "differentiable")
        return self._replace(**{name: getattr(self, name)[..., order] for name in named})


def solve_all(
    preferences: np.ndarray,
    beta: float,
    path: Sequence[float],
    draws: Iterable[np.ndarray],
    num_draws: int,
    on_progress: Callable[[int], Any] | None = None,
) -> Equilibria:
    """Solve the game of all comparisons, and those of the resamples.

    At `beta > 0` the masses of the first are off by 1e-6 at most, those of the resamples by 5e-4.

    Args:
      preferences: of all comparisons, `[n, n]`.
      beta: regularization, >= 0.
      path: further betas for all comparisons.
      draws: preferences of resamples, `[some, n, n]`.
      num_draws: how many these are.
      on_progress: called with the number of resamples that are done.
    """
    # The plain game is for uniqueness, the next for a derivative; they are part of the batch to compile one program.
    betas = np.array([beta, 0.0, max(beta, SMALLEST_BETA), *path])
    n, fixed = len(preferences), len(betas)
    mass, payoff = np.empty((2, fixed + num_draws, n))
    status, exploitability = np.empty(fixed + num_draws, int), np.empty(fixed + num_draws)
    size = max(min(2 ** int(np.log2(max(_ENTRIES_AT_A_TIME // n**2, 1))), fixed + num_draws), fixed)
    beta_of = np.concatenate([betas, np.full(num_draws, beta, np.float64)])
    tol_of = np.concatenate([_tolerance(betas, 1e-6), _tolerance(beta_of[fixed:], 5e-4)])
    games = _in_chunks(itertools.chain([np.broadcast_to(preferences, (fixed, n, n))], draws), size)
    with _double_precision():
        start = 0
        for games_at_once, number in games:
            at = slice(start, start + number)
            last = np.minimum(start + np.arange(len(games_at_once)), len(beta_of) - 1)
            solution = solve(games_at_once, beta_of[last], tol=tol_of[last])
            mass[at] = np.asarray(solution.policy)[:number]
            status[at] = np.asarray(solution.status)[:number]
            exploitability[at] = np.asarray(solution.exploitability)[:number]
            payoff[at] = np.einsum("bij,bj->bi", games_at_once[:number], mass[at])
            start += number
            if on_progress is not None:
                on_progress(max(start - fixed, 0))
        unique = bool(metrics.uniqueness(preferences, mass[1] / mass[1].sum()).unique)
    rows = np.r_[0, fixed : len(mass)]
    return Equilibria(
        mass=mass[rows],
        payoff=payoff[rows],
        # Where payoffs are equal, as on the support of a plain equilibrium, the mass decides.
        ranks=np.stack([ranks_of(score) for score in payoff[rows] + 1e-6 * mass[rows]]),
        path=mass[3:fixed],
        differentiable=mass[2],
        unique_at_beta_0=unique,
        exploitability=float(exploitability[0]),
        converged=bool(status[0] == Status.CONVERGED),
        unconverged=int((status[fixed:] != Status.CONVERGED).sum()),
    )


def ranks_of(score: np.ndarray) -> np.ndarray:
    """1 for the highest, and for all others one more than there are higher ones, `[n]`."""
    falling = np.sort(-score)
    return 1 + np.searchsorted(falling, -score - _TIE)


def _tolerance(beta: np.ndarray, distance: float) -> np.ndarray:
    """The exploitability that certifies a distance in L1, `sqrt(2 E / beta)`; at `beta = 0` one in payoffs."""
    return np.where(beta > 0, np.minimum(beta * distance**2 / 2, distance), distance / 1000)


def _in_chunks(parts: Iterable[np.ndarray], size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Games in arrays of one size, and how many of them count: the last is filled up with its first game.

    Parts are taken as they are needed, so that no more than a chunk and a part are ever there at a time.
    """
    waiting: list[np.ndarray] = []
    number = 0
    for games in parts:
        waiting.append(games)
        number += len(games)
        while number >= size:
            joined = np.concatenate(waiting)
            yield joined[:size], size
            waiting, number = [joined[size:]], number - size
    if number:
        joined = np.concatenate(waiting)
        yield np.concatenate([joined, np.broadcast_to(joined[:1], (size - number, *joined.shape[1:]))]), number


@contextlib.contextmanager
def _double_precision() -> Iterator[None]:
    """Compute in float64, whatever the caller has set for the rest of the program."""
    if jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        yield
        return
    with jax.enable_x64(True):
        yield
