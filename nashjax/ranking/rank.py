"""Rank items by the equilibrium of their game, and say how sure that is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nashjax._validation import check_integer, check_number, invalid, wrong_type
from nashjax.ranking.battles import BadRows, Battles
from nashjax.ranking.bradley_terry import bradley_terry
from nashjax.ranking.compare_next import SMALLEST_BETA, Suggestion, compare_next
from nashjax.ranking.equilibria import ranks_of, solve_all
from nashjax.ranking.notes import warnings_about
from nashjax.ranking.resampling import Resampler
from nashjax.ranking.structure import Structure, find_structure


class Estimate(NamedTuple):
    """A quantity of every item, in the order of their ranks, float64 `[n]` each.

    Attributes:
      value: on all comparisons.
      mean: over the resamples.
      low, high: the interval, by the percentiles of the resamples. Without resamples these three are NaN.
    """

    value: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, samples: np.ndarray, level: float) -> Estimate:
        """Of the value on all comparisons, the first row, and those of the resamples, `[1 + resamples, n]`."""
        value, drawn = samples[0].astype(np.float64), samples[1:]
        if not len(drawn):
            return cls(value, *np.full((3, len(value)), np.nan))
        # The end of an interval of ranks is a rank that occurred.
        method = "inverted_cdf" if samples.dtype.kind == "i" else "linear"
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0, method=method)
        return cls(value, drawn.mean(axis=0), low, high)


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """Items in the order of their ranks, the best first.

    Attributes:
      items: the `n` names.
      beta: regularization, in units of preference.
      mass: of each item in the equilibrium.
      payoff: how often each is preferred over the equilibrium, the Nash average; 1/2 is that of the equilibrium itself.
      rank: 1 is the best; items of equal payoff share one.
      first_share: in what share of the resamples each comes first, `[n]`; NaN without resamples.
      win_rate: share of its comparisons that each item wins, ties as half a win, `[n]`; NaN where it has none.
      comparisons: of each item, `[n]`.
      bradley_terry: scores in natural logarithms, mean 0, `[n]`.
      bradley_terry_rank: ranks by these, `[n]`.
      preferences: `[n, n]`, in the order of ranks.
      pair_comparisons: `[n, n]`, in the order of ranks.
      structure: majorities and cycles; positions are those in `items`.
      unique_at_beta_0: whether the plain equilibrium is the only one.
      suggestions: pairs to compare next.
      path_betas, path_mass: mass of each item along betas, `[betas]` and `[betas, n]`.
      exploitability: certificate of the point estimate, in units of preference.
      converged: whether the point estimate was solved to its tolerance.
      unconverged: resamples that were not.
      bootstrap: the number of resamples.
      resampling: how they were drawn: `kind`, `cluster`, `units` (comparisons or clusters), `level`, `seed`.
      ties: weight of ties.
      bad_rows: rows that could not be used.
      warnings: what to know before trusting this, in sentences.
    """

    items: tuple[str, ...]
    beta: float
    mass: Estimate
    payoff: Estimate
    rank: Estimate
    first_share: np.ndarray
    win_rate: np.ndarray
    comparisons: np.ndarray
    bradley_terry: np.ndarray
    bradley_terry_rank: np.ndarray
    preferences: np.ndarray
    pair_comparisons: np.ndarray
    structure: Structure
    unique_at_beta_0: bool
    suggestions: tuple[Suggestion, ...]
    path_betas: np.ndarray
    path_mass: np.ndarray
    exploitability: float
    converged: bool
    unconverged: int
    bootstrap: int
    resampling: dict[str, Any]
    ties: float
    bad_rows: BadRows
    warnings: tuple[str, ...]

    def to_frame(self) -> Any:
        """The table as a pandas DataFrame, a row for each item; raises ImportError where pandas is missing."""
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(f'to_frame needs {error.name}: python -m pip install "nashjax[rank]"') from error

        return pd.DataFrame(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """A dictionary for each item; numbers that are not known are None."""
        columns: dict[str, Any] = {
            "item": self.items,
            "mass": self.mass.value,
            "mass_mean": self.mass.mean,
            "mass_low": self.mass.low,
            "mass_high": self.mass.high,
            "payoff": self.payoff.value,
            "payoff_low": self.payoff.low,
            "payoff_high": self.payoff.high,
            "rank": self.rank.value,
            "rank_low": self.rank.low,
            "rank_high": self.rank.high,
            "first_share": self.first_share,
            "win_rate": self.win_rate,
            "comparisons": self.comparisons,
            "bradley_terry": self.bradley_terry,
            "bradley_terry_rank": self.bradley_terry_rank,
        }
        whole = ("rank", "rank_low", "rank_high", "bradley_terry_rank")

        def entry(name: str, value: Any) -> Any:
            if isinstance(value, str):
                return value
            if not math.isfinite(value):
                return None
            return round(value) if name in whole else float(value)

        return [{name: entry(name, column[i]) for name, column in columns.items()} for i in range(len(self.items))]


def rank(
    battles: Battles,
    beta: float = 0.01,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    cluster: str | None = None,
    bayesian: bool = False,
    level: float = 0.95,
    prior: float = 0.0,
    ties: str = "half",
    path: Sequence[float] = (),
    on_progress: Callable[[int], Any] | None = None,
) -> Ranking:
    """Rank items by the equilibrium of the game that their comparisons are, with bootstrap intervals.

    The equilibrium is the mixture of items that no other mixture is preferred over; an item's *mass* is its
    share in it, its *payoff* how often it is preferred over it (the Nash average). Both are fair under cycles. At
    `beta = 0` an item that loses to all changes nothing, and a copy of an item only shares its mass. All resamples are
    solved like the point estimate, in double precision, the latter to 1e-6.

    The intervals are percentiles. In synthetic arenas (`benchmarks/intervals.py`) 95 % intervals of payoffs held the
    truth in 93 to 98 % of cases where every pair had 30 votes or more, in 92 to 94 % with 4, but in half of the cases
    where half of the pairs were missing, and in 79 % where votes of judges with different tastes were not drawn by
    `cluster`.

    Args:
      battles: the comparisons.
      beta: regularization towards all items alike, >= 0, in units of preference; 0 for the plain equilibrium.
      bootstrap: how many resamples, >= 0.
      seed: of their draws.
      cluster: a label that was read, such as judge or prompt, whose comparisons are drawn together; default is that
        each comparison is drawn alone.
      bayesian: whether comparisons (or clusters) get random weights (Dirichlet) instead of being drawn.
      level: of the intervals, between 0 and 1.
      prior: imagined comparisons of each pair, half won by each: shrinks pairs that were rarely compared towards 1/2.
      ties: `half`, half a win for both, or `drop`, no comparison.
      path: further betas, >= 0, along which to report the masses.
      on_progress: called with the number of resamples that are done, from time to time.

    Returns:
      A `Ranking`.

    Raises:
      TypeError: an argument has a wrong type.
      ValueError: an argument has a wrong value. Each message names the argument, what it must be and what it is.
    """
    _check(beta, bootstrap, seed, level, prior, path)
    if not isinstance(battles, Battles):
        raise wrong_type("battles", "a Battles", battles, "Use Battles.read or Battles.from_counts.")
    counts = battles.counts(ties)
    if not counts.comparisons.any():
        raise invalid("ties", "'half' for comparisons that are all ties", "'drop'")
    resampler = Resampler.of(battles, ties=ties, cluster=cluster, bayesian=bayesian)
    score = bradley_terry(counts)
    draws = resampler.draw(np.random.default_rng(seed), bootstrap, prior)
    found = solve_all(counts.preferences(prior), beta, path, draws, bootstrap, on_progress)
    order = np.lexsort((-counts.comparisons.sum(axis=1), found.ranks[0]))
    counts, found, score = counts.reorder(order), found.reorder(order), score[order]
    preferences, comparisons = counts.preferences(prior), counts.comparisons.sum(axis=1)
    won = (counts.lead.sum(axis=1) + comparisons) / 2
    ranking = Ranking(
        items=tuple(battles.items[i] for i in order),
        beta=float(beta),
        mass=Estimate.of(found.mass, level),
        payoff=Estimate.of(found.payoff, level),
        rank=Estimate.of(found.ranks, level),
        first_share=(found.ranks[1:] == 1).mean(axis=0) if bootstrap else np.full(len(order), np.nan),
        win_rate=np.divide(won, comparisons, out=np.full(len(order), np.nan), where=comparisons > 0),
        comparisons=comparisons,
        bradley_terry=score,
        bradley_terry_rank=ranks_of(score),
        preferences=preferences,
        pair_comparisons=counts.comparisons,
        structure=find_structure(counts),
        unique_at_beta_0=found.unique_at_beta_0,
        suggestions=compare_next(preferences, counts.comparisons, found.differentiable, max(beta, SMALLEST_BETA)),
        path_betas=np.array(path, np.float64),
        path_mass=found.path,
        exploitability=found.exploitability,
        converged=found.converged,
        unconverged=found.unconverged,
        bootstrap=bootstrap,
        resampling={
            "kind": "bayesian" if bayesian else "drawn with replacement",
            "cluster": cluster,
            "units": resampler.num_units,
            "level": level,
            "seed": seed,
        },
        ties=float(counts.ties.sum() / 2),
        bad_rows=battles.bad_rows,
        warnings=(),
    )
    return dataclasses.replace(ranking, warnings=tuple(warnings_about(ranking)))


def _check(beta: float, bootstrap: int, seed: int, level: float, prior: float, path: Sequence[float]) -> None:
    check_integer("bootstrap", bootstrap, 0)
    check_integer("seed", seed, 0)
    for name, value in (("beta", beta), ("prior", prior), *((f"path[{i}]", value) for i, value in enumerate(path))):
        check_number(name, value)
    check_number("level", level, 0, 1, open_at=(0, 1))
