"""The bootstrap: the preferences that other draws of the same comparisons would have given."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from scipy import sparse

from nashjax.files.counts import preferences_of_counts
from nashjax.files.errors import bad_input, quoted
from nashjax.ranking.battles import Battles, check_ties

_AT_A_TIME = 2**22
"""Most numbers that are drawn at a time."""


@dataclasses.dataclass(frozen=True)
class Resampler:
    """Draws the comparisons again, with replacement, and counts them.

    Comparisons that are alike in pair, outcome and weight are one *kind*, and only how often a kind is drawn is drawn:
    the cost does not depend on the number of comparisons, but for clusters on the number of these.

    Attributes:
      num_items: `n`.
      pairs: those that were compared, `[2, pairs]`, the smaller position first.
      lead, comparisons: what a comparison of each kind adds to each pair, sparse `[kinds, pairs]`.
      units: how many comparisons of each kind a unit holds, sparse `[units, kinds]`; a unit is what is drawn: a
        comparison, then `units` is None, or a cluster.
      times: how many comparisons of each kind there are, `[kinds]`.
      bayesian: whether units get Dirichlet weights in place of the numbers of times they are drawn.
    """

    num_items: int
    pairs: np.ndarray
    lead: sparse.csr_array
    comparisons: sparse.csr_array
    units: sparse.csr_array | None
    times: np.ndarray
    bayesian: bool

    @classmethod
    def of(
        cls, battles: Battles, *, ties: str = "half", cluster: str | None = None, bayesian: bool = False
    ) -> Resampler:
        """Sort comparisons into kinds.

        Args:
          battles: the comparisons.
          ties: `half` or `drop`, as in `Battles.counts`.
          cluster: a label, such as judge or prompt: all comparisons with the same name are drawn together.
          bayesian: see the class.

        Raises:
          BadInput: there is no such label, all rows have the same name in it, or there is less than one comparison.
        """
        check_ties(ties)
        n = battles.num_items
        low, high = np.minimum(battles.first, battles.second), np.maximum(battles.first, battles.second)
        sign = np.array([1, -1, 0])[battles.outcome] * np.where(battles.first < battles.second, 1, -1)
        weights, weight_code = np.unique(battles.weight, return_inverse=True)
        pair_of_row = low.astype(np.int64) * n + high
        key = (pair_of_row * 3 + sign + 1) * len(weights) + weight_code
        kinds, kind_of_row = np.unique(key, return_inverse=True)
        kind_pair, kind_sign = np.divmod(kinds // len(weights), 3)
        kind_weight = weights[kinds % len(weights)]
        pairs, column = np.unique(kind_pair, return_inverse=True)

        def table(values: np.ndarray) -> sparse.csr_array:
            shape = (len(kinds), len(pairs))
            return sparse.csr_array((values, (np.arange(len(kinds)), column)), shape=shape)

        counted = kind_weight if ties == "half" else kind_weight * (kind_sign != 1)
        times = np.bincount(kind_of_row, battles.times)
        if cluster is None and times.sum() < 0.5:
            raise bad_input("battles", "number of comparisons", "at least 1, to draw again", f"{times.sum():g}")
        units = None
        if cluster is not None:
            label = battles.label(cluster)
            names, unit_of_row = np.unique(label.codes, return_inverse=True)
            if len(names) < 2:
                raise bad_input(f"cluster {quoted(cluster)}", "number of names", "at least 2", "1")
            units = sparse.csr_array((battles.times, (unit_of_row, kind_of_row)), shape=(len(names), len(kinds)))
        return cls(
            num_items=n,
            pairs=np.stack(np.divmod(pairs, n)),
            lead=table(kind_weight * (kind_sign - 1)),
            comparisons=table(counted),
            units=units,
            times=times,
            bayesian=bayesian,
        )

    @property
    def num_units(self) -> int:
        """How many units there are to draw from, and are drawn each time."""
        return round(float(self.times.sum())) if self.units is None else _rows(self.units)

    def draw(self, rng: np.random.Generator, num: int, prior: float = 0.0) -> Iterator[np.ndarray]:
        """Preferences `[some, n, n]` of `num` draws in all."""
        per_draw = len(self.times) + (0 if self.units is None else _rows(self.units)) + self.num_items**2
        chunk = max(_AT_A_TIME // per_draw, 1)
        for start in range(0, num, chunk):
            yield self._preferences(self._draw_kinds(rng, min(chunk, num - start)), prior)

    def _draw_kinds(self, rng: np.random.Generator, num: int) -> np.ndarray:
        """How often each kind is drawn, `[num, kinds]`."""
        if self.units is None:
            if self.bayesian:  # the sum of the exponential weights of the comparisons of a kind
                drawn = rng.standard_gamma(self.times, size=(num, len(self.times)))
                return drawn * (self.times.sum() / drawn.sum(axis=1, keepdims=True))
            return rng.multinomial(self.num_units, self.times / self.times.sum(), size=num).astype(np.float64)
        size = self.num_units
        if self.bayesian:
            weights = rng.standard_exponential((num, size))
            weights *= size / weights.sum(axis=1, keepdims=True)
        else:
            weights = rng.multinomial(size, np.full(size, 1 / size), size=num).astype(np.float64)
        return weights @ self.units

    def _preferences(self, kinds: np.ndarray, prior: float) -> np.ndarray:
        low, high = self.pairs
        lead, comparisons = (np.zeros((len(kinds), self.num_items, self.num_items)) for _ in range(2))
        lead[:, low, high] = kinds @ self.lead
        comparisons[:, low, high] = kinds @ self.comparisons
        return preferences_of_counts(lead - lead.mT, comparisons + comparisons.mT, prior)


def _rows(table: sparse.csr_array) -> int:
    return int(table.shape[0])  # pyright: ignore[reportOptionalSubscript]
