"""A ranking as JSON, CSV or a page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nashjax.files.write import harmless, write_whole
from nashjax.ranking.notes import disagreements
from nashjax.ranking.rank import Ranking

SUFFIXES = (".json", ".csv", ".html")

Rankings = Ranking | Mapping[str, Ranking]
"""One ranking, or one for each value of a column."""


def write_ranking(path: Path, rankings: Rankings, *, by: str | None = None, title: str = "Ranking") -> None:
    """Write to a `.json`, `.csv` or `.html` file, which appears whole or not at all.

    Args:
      path: the file.
      rankings: what to write.
      by: the column that tells them apart, where there are several.
      title: of the page.

    Raises:
      BadInput: the file cannot be written.
    """
    write_whole(path, _WRITERS[path.suffix.lower()](rankings, by, title).encode())


def to_content(ranking: Ranking, *, with_preferences: bool = False) -> dict[str, Any]:
    """A ranking as dictionaries, lists, texts and numbers; None for what is not known.

    Args:
      ranking: what was found.
      with_preferences: whether to add `preferences` and `pair_comparisons`, `[n][n]` in the order of `items`; a pair
        that was never compared has the preference None.
    """
    names, structure = ranking.items, ranking.structure

    def named(positions: tuple[int, ...]) -> list[str]:
        return [names[i] for i in positions]

    winner = structure.condorcet_winner
    content: dict[str, Any] = {
        "beta": ranking.beta,
        "bootstrap": ranking.bootstrap,
        "resampling": ranking.resampling,
        "exploitability": ranking.exploitability,
        "converged": ranking.converged,
        "comparisons": float(ranking.comparisons.sum() / 2),
        "ties": ranking.ties,
        "bad_rows": ranking.bad_rows.count,
        "items": ranking.rows(),
        "disagreements": [
            {"item": names[i], "rank": round(ranking.rank.value[i]), "bradley_terry_rank": round(other)}
            for i, other in disagreements(ranking)
        ],
        "warnings": list(ranking.warnings),
        "structure": {
            "items": len(names),
            "pairs": structure.pairs,
            "pairs_compared": structure.pairs_compared,
            "coverage": structure.coverage,
            "components": [named(part) for part in structure.components],
            "condorcet_winner": None if winner is None else names[winner],
            "weak_condorcet_winners": named(structure.weak_condorcet_winners),
            "smith_set": named(structure.smith_set),
            "schwartz_set": named(structure.schwartz_set),
            "largest_cycle": named(structure.largest_cycle),
            "cyclic_triples": structure.cyclic_triples,
            "triples": structure.triples,
            "strongest_cycles": [
                {
                    "items": named(cycle.items),
                    "preferences": list(cycle.preferences),
                    "comparisons": list(cycle.comparisons),
                }
                for cycle in structure.strongest_cycles
            ],
            "unique_at_beta_0": ranking.unique_at_beta_0,
            "compare_next": [
                {
                    "item_a": names[pair.items[0]],
                    "item_b": names[pair.items[1]],
                    "comparisons": pair.comparisons,
                    "reduction": pair.reduction,
                }
                for pair in ranking.suggestions
            ],
        },
        "path": {"beta": ranking.path_betas.tolist(), "mass": ranking.path_mass.tolist()}
        if len(ranking.path_betas)
        else None,
    }
    if with_preferences:
        seen = (ranking.pair_comparisons > 0) | np.eye(len(names), dtype=bool)
        rounded = np.where(seen, ranking.preferences.round(4), np.nan)
        content["preferences"] = [[None if math.isnan(p) else p for p in row] for row in rounded.tolist()]
        content["pair_comparisons"] = ranking.pair_comparisons.round(3).tolist()
    return content


def _contents(rankings: Rankings, by: str | None, *, with_preferences: bool = False) -> dict[str, Any]:
    if isinstance(rankings, Ranking):
        return to_content(rankings, with_preferences=with_preferences)
    groups = {name: to_content(one, with_preferences=with_preferences) for name, one in rankings.items()}
    return {"by": by, "groups": groups}


def _as_json(rankings: Rankings, by: str | None, title: str) -> str:
    del title
    return json.dumps(_contents(rankings, by), indent=1, allow_nan=False) + "\n"


def _as_csv(rankings: Rankings, by: str | None, title: str) -> str:
    del title
    several = {"": rankings} if isinstance(rankings, Ranking) else rankings
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    columns = list(next(iter(several.values())).rows()[0])
    writer.writerow([*([] if by is None else [by]), *columns])
    for group, ranking in several.items():
        for row in ranking.rows():
            values = [harmless(row["item"]), *("" if row[name] is None else row[name] for name in columns[1:])]
            writer.writerow([*([] if by is None else [harmless(group)]), *values])
    return stream.getvalue()


def _as_page(rankings: Rankings, by: str | None, title: str) -> str:
    from nashjax.ranking.page import render_page

    return render_page(_contents(rankings, by, with_preferences=True), title)


_WRITERS: dict[str, Callable[[Rankings, str | None, str], str]] = {
    ".json": _as_json,
    ".csv": _as_csv,
    ".html": _as_page,
}
