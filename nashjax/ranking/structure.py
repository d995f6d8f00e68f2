"""What the majorities of a game look like: winners, cycles, and how well its items are connected."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from nashjax.ranking.battles import Counts

SHOWN_CYCLES = 5
_LARGEST_SEARCHED = 600
"""Items among which cycles are looked for one by one; their number is always counted."""


class Cycle(NamedTuple):
    """Three items of which each is preferred over the next, and the last over the first.

    Attributes:
      items: their positions.
      preferences: of each over the next.
      comparisons: of each with the next.
    """

    items: tuple[int, int, int]
    preferences: tuple[float, float, float]
    comparisons: tuple[float, float, float]


class Structure(NamedTuple):
    """Majorities and connections; items are positions.

    `i` *beats* `j` when it wins more often than it loses; pairs that were never compared count as ties.

    Attributes:
      condorcet_winner: beats every other item; None where none does.
      weak_condorcet_winners: beaten by none.
      smith_set: the smallest set each of which beats every item outside.
      schwartz_set: the union of the smallest sets none of which is beaten from outside.
      largest_cycle: the largest set in which every item leads to every other along a chain of "beats"; empty where
        there is no cycle.
      cyclic_triples: how many triples beat each other in a circle.
      triples: how many there are.
      strongest_cycles: those whose weakest majority is the surest, by standard errors from 1/2.
      components: sets of items connected by comparisons, the largest first.
      pairs: how many there are.
      pairs_compared: how many of them were compared.
    """

    condorcet_winner: int | None
    weak_condorcet_winners: tuple[int, ...]
    smith_set: tuple[int, ...]
    schwartz_set: tuple[int, ...]
    largest_cycle: tuple[int, ...]
    cyclic_triples: int
    triples: int
    strongest_cycles: tuple[Cycle, ...]
    components: tuple[tuple[int, ...], ...]
    pairs: int
    pairs_compared: int

    @property
    def coverage(self) -> float:
        """The share of pairs that were compared."""
        return self.pairs_compared / self.pairs


def find_structure(counts: Counts) -> Structure:
    """The structure of the comparisons in `counts`; `n^3` steps."""
    n = len(counts.lead)
    beats = counts.lead > 0
    compared = counts.comparisons > 0
    # Where every two items are related, the components of "not beaten by" stand in a line; the first is the Smith set.
    not_beaten = ~beats.T & ~np.eye(n, dtype=bool)
    components = _components(compared, "weak")
    cycles = _components(beats, "strong")
    undominated = [c for c in cycles if not beats[np.setdiff1d(np.arange(n), c)][:, c].any()]
    smith = next(
        c for c in _components(not_beaten, "strong") if not not_beaten[np.setdiff1d(np.arange(n), c)][:, c].any()
    )
    path_of_two = beats.astype(np.float64) @ beats
    winners = np.flatnonzero(beats.sum(axis=1) == n - 1)
    return Structure(
        condorcet_winner=int(winners[0]) if winners.size else None,
        weak_condorcet_winners=_positions(np.flatnonzero(~beats.any(axis=0))),
        smith_set=_positions(smith),
        schwartz_set=_positions(np.sort(np.concatenate(undominated))),
        largest_cycle=_positions(cycles[0]) if len(cycles[0]) > 2 else (),
        cyclic_triples=round(float((path_of_two * beats.T).sum()) / 3),
        triples=n * (n - 1) * (n - 2) // 6,
        strongest_cycles=_strongest_cycles(counts),
        components=tuple(_positions(c) for c in components),
        pairs=n * (n - 1) // 2,
        pairs_compared=int(np.triu(compared, 1).sum()),
    )


def _components(relation: np.ndarray, connection: str) -> list[np.ndarray]:
    """The components of a relation, the largest first, then by their first item."""
    number, labels = csgraph.connected_components(sparse.csr_array(relation), connection=connection)
    found = [np.flatnonzero(labels == k) for k in range(number)]
    return sorted(found, key=lambda c: (-len(c), c[0]))


def _strongest_cycles(counts: Counts) -> tuple[Cycle, ...]:
    """The circles of three whose weakest majority is the surest."""
    n = len(counts.lead)
    if n > _LARGEST_SEARCHED:
        return ()
    preferences = counts.preferences()
    # Standard errors from 1/2; a majority of one comparison is one.
    sure = np.where(counts.lead > 0, counts.lead / np.sqrt(np.maximum(counts.comparisons, 1e-300)), 0)
    best: list[tuple[float, int, int, int]] = []
    for a in range(n - 2):  # the smallest of the three
        weakest = np.minimum(np.minimum(sure[a, a + 1 :, None], sure[a + 1 :, a + 1 :]), sure[a + 1 :, a])
        bar = best[-1][0] if len(best) == SHOWN_CYCLES else 0.0
        if weakest.max() <= bar:
            continue
        flat = weakest.ravel()
        for place in np.argsort(-flat, kind="stable")[:SHOWN_CYCLES]:
            if flat[place] > 0:
                b, c = divmod(int(place), n - a - 1)
                best.append((float(flat[place]), a, a + 1 + b, a + 1 + c))
        best = sorted(best, key=lambda found: (-found[0], found[1:]))[:SHOWN_CYCLES]

    def cycle(items: tuple[int, ...]) -> Cycle:
        steps = list(zip(items, (*items[1:], items[0]), strict=True))
        return Cycle(
            items,  # pyright: ignore[reportArgumentType]
            tuple(float(preferences[step]) for step in steps),  # pyright: ignore[reportArgumentType]
            tuple(float(counts.comparisons[step]) for step in steps),  # pyright: ignore[reportArgumentType]
        )

    return tuple(cycle(found[1:]) for found in best)


def _positions(items: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in items)
