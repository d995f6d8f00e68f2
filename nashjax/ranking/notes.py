"""What to know before trusting a ranking, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from nashjax.files.counts import data_warnings, percent
from nashjax.files.errors import shortened

if TYPE_CHECKING:
    from nashjax.ranking.rank import Ranking

NOTABLE_MASS = 0.01
UNSEEN = 0.5
FEW_CLUSTERS = 20


def warnings_about(ranking: Ranking) -> Iterator[str]:
    """All that there is to say."""
    yield from _about_rows(ranking)
    yield from data_warnings(ranking.items, ranking.pair_comparisons, ranking.ties)
    yield from _about_winners(ranking)
    yield from _about_the_unseen(ranking)
    if ranking.bootstrap:
        yield from _about_intervals(ranking)
    if not ranking.converged:
        yield f"The equilibrium was not solved to its tolerance; its exploitability is {ranking.exploitability:.2g}."


def disagreements(ranking: Ranking, num: int = 5) -> list[tuple[int, float]]:
    """The items whose rank differs most from that by Bradley-Terry, as position and the latter; none where none do."""
    apart = np.abs(ranking.rank.value - ranking.bradley_terry_rank)
    order = np.argsort(-apart, kind="stable")[:num]
    return [(int(i), float(ranking.bradley_terry_rank[i])) for i in order if apart[i] > 0]


def _about_rows(ranking: Ranking) -> Iterator[str]:
    bad = ranking.bad_rows
    if bad.count:
        more = f" and {bad.count - len(bad.examples)} more" if bad.count > len(bad.examples) else ""
        rows = "1 row was" if bad.count == 1 else f"{bad.count} rows were"
        yield f"{rows} left out: {'; '.join(bad.examples)}{more}."
    parts = ranking.structure.components
    if len(parts) > 1:
        sizes = ", ".join(str(len(part)) for part in parts[:5]) + (", ..." if len(parts) > 5 else "")
        yield (
            f"The items fall into {len(parts)} parts that were never compared with each other (of {sizes} items): "
            "nothing is known of how items of different parts compare."
        )


def _about_winners(ranking: Ranking) -> Iterator[str]:
    structure, names = ranking.structure, [shortened(name) for name in ranking.items]
    if structure.condorcet_winner is not None:
        yield (
            f"{names[structure.condorcet_winner]} is a Condorcet winner: it wins more often than it loses against "
            "every other item, so that at beta = 0 it has all the mass."
        )
    elif structure.weak_condorcet_winners:
        weak = structure.weak_condorcet_winners
        some = ", ".join(names[i] for i in weak[:3]) + (f" and {len(weak) - 3} more" if len(weak) > 3 else "")
        yield f"Beaten by no other item, though not better than all (weak Condorcet winners): {some}."
    if not ranking.unique_at_beta_0:
        yield (
            "The equilibrium at beta = 0 is not unique (ties, or pairs that were never compared and count as 1/2): "
            "which items have mass there is partly arbitrary"
            + ("." if ranking.beta == 0 else ", and the smaller beta is, the more so here.")
        )


def _about_the_unseen(ranking: Ranking) -> Iterator[str]:
    """Items whose mass rests on the 1/2 of pairs that were never compared."""
    mass = ranking.mass.value
    unseen = (ranking.pair_comparisons == 0) & ~np.eye(len(mass), dtype=bool)
    others = 1 - mass
    share = np.divide(unseen @ mass, others, out=np.zeros_like(mass), where=others > 1e-9)
    profits = np.flatnonzero((mass >= NOTABLE_MASS) & (share >= UNSEEN))
    if profits.size:
        shares = [percent(float(s)) for s in share[profits]]
        found = [
            f"{shortened(ranking.items[i])} (mass {mass[i]:.2g}, {unmet} of the others' mass unseen)"
            for i, unmet in zip(profits[:5], shares, strict=False)
        ]
        more = f" and {len(profits) - 5} more" if len(profits) > 5 else ""
        yield (
            "These may profit from never having been compared, as such a pair counts as 1/2: "
            f"{', '.join(found)}{more}. A prior does not change that; more comparisons do."
        )


def _about_intervals(ranking: Ranking) -> Iterator[str]:
    n, first, leader = len(ranking.items), ranking.first_share, shortened(ranking.items[0])
    candidates = int((ranking.rank.low == 1).sum())
    everything = int(((ranking.rank.low == 1) & (ranking.rank.high == n)).sum())
    level = percent(ranking.resampling["level"])
    yield (
        f"{leader} comes first in {percent(first[0])} of the resamples; {candidates} of {n} items have rank 1 in "
        f"their {level} interval."
    )
    if everything:
        yield f"The rank intervals of {everything} of {n} items cover every rank: the data say nothing about these."
    units, cluster = ranking.resampling["units"], ranking.resampling["cluster"]
    if cluster is not None and units < FEW_CLUSTERS:
        yield f"Only {units} clusters ({shortened(cluster)}): intervals from so few are usually too short."
    if ranking.structure.coverage < 1:
        yield (
            "The intervals take the 1/2 of pairs that were never compared for certain: in synthetic arenas with half "
            "of the pairs missing, 95 % intervals held the truth about half of the time."
        )
    if cluster is None:
        yield (
            "The intervals take all comparisons for independent; where judges or prompts differ in taste, draw these "
            "together, as a cluster."
        )
    if ranking.unconverged:
        yield f"{ranking.unconverged} of {ranking.bootstrap} resamples were not solved to their tolerance."
