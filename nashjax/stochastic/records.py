"""What a run reports on its way."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nashjax.stochastic.oracles import OracleError, unusable
from nashjax.stochastic.sampled_game import Asked

WIDTH = 1.96
"""Half the width of a 95 % interval, in standard errors."""


def interval(mean: Any, variance: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the 95 % interval of a mean of `count` numbers in [0, 1].

    As if one more of them had been 0 and one 1, so that no interval is empty.
    """
    half = WIDTH * np.sqrt((np.asarray(variance) + 0.5 / count) / count)
    return np.maximum(mean - half, 0), np.minimum(mean + half, 1)


class Record(NamedTuple):
    """Where a run stands; arrays over the independent games, `[*batch]`. In a history, `[records, *batch]`.

    Attributes:
      comparisons: spent on each game so far, an int (in a history, `[records]`).
      exploitability: of the learnt policy, the mean over contexts; an array, or None where the oracle knows no matrix.
      win_rate: how often what the method asked about, the samples of the policy that learns (and with `exploration` of
        the reference), was preferred over the opponent's since the last record.
      win_rate_low: lower end of its 95 % interval.
      win_rate_high: upper end.
      reference_win_rate: how often the learnt policy was preferred over the reference; None without
        `evaluation_comparisons`.
      reference_win_rate_low: lower end of its 95 % interval.
      reference_win_rate_high: upper end.
      kl: `KL(policy || reference)` in nats, the mean over contexts; exact.
    """

    comparisons: Any
    exploitability: Any
    win_rate: np.ndarray
    win_rate_low: np.ndarray
    win_rate_high: np.ndarray
    reference_win_rate: Any
    reference_win_rate_low: Any
    reference_win_rate_high: Any
    kl: np.ndarray


def stack(records: list[Record]) -> Record:
    """One record whose fields lead with an axis `[records]`."""
    columns: Any = zip(*records, strict=True)
    stacked: list[Any] = [None if x[0] is None else np.stack([np.asarray(y) for y in x]) for x in columns]
    return Record(*stacked)


def unstack(history: Record, number: int) -> list[Record]:
    """The first `number` records of a stack."""
    columns: list[Any] = list(history[1:])
    rows: list[list[Any]] = [[None if x is None else x[i] for x in columns] for i in range(number)]
    return [Record(int(spent), *row) for spent, row in zip(history.comparisons[:number], rows, strict=True)]


class Tally(NamedTuple):
    """Answers counted in passing, of one game.

    Attributes:
      mean: their mean over the batches counted, which are of one size.
      mean_square: the mean of their squares.
      batches: how many.
      faults: how many were not in [0, 1].
      fault: the first of these: context, action, opponent, outcome.
    """

    mean: jax.Array
    mean_square: jax.Array
    batches: jax.Array
    faults: jax.Array
    fault: jax.Array

    @classmethod
    def empty(cls, batch: tuple[int, ...], dtype: Any) -> Tally:
        """Nothing counted."""
        zeros = jnp.zeros(batch, dtype)
        return cls(
            zeros, zeros, jnp.zeros(batch, jnp.int32), jnp.zeros(batch, jnp.int32), jnp.zeros((*batch, 4), dtype)
        )

    def add(self, asked: Asked) -> Tally:
        """Count answers."""
        outcome = asked.outcome
        bad = ~((outcome >= 0) & (outcome <= 1))
        where = jnp.argmax(bad.reshape(-1))
        fault = jnp.stack([x.reshape(-1)[where].astype(self.fault.dtype) for x in asked])
        batches = self.batches + 1
        count = batches.astype(outcome.dtype)
        return Tally(
            mean=self.mean + (jnp.mean(outcome) - self.mean) / count,
            mean_square=self.mean_square + (jnp.mean(outcome**2) - self.mean_square) / count,
            batches=batches,
            faults=self.faults + jnp.sum(bad, dtype=jnp.int32),
            fault=jnp.where(self.faults > 0, self.fault, fault),
        )

    def check(self) -> None:
        """Raise OracleError if an answer, of any of these games, was not in [0, 1]."""
        faults = np.asarray(self.faults).reshape(-1)
        if faults.any():
            game = int(np.argmax(faults > 0))
            raise OracleError(unusable(*np.asarray(self.fault).reshape(-1, 4)[game]))

    def interval(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The mean of `count` answers and the ends of its 95 % interval, within [0, 1]."""
        mean = np.asarray(self.mean, np.float64)
        variance = np.maximum(np.asarray(self.mean_square, np.float64) - mean**2, 0)
        return mean, *interval(mean, variance, count)
