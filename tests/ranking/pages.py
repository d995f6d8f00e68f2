"""Contents of pages, with names that try to be more than names."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from nashjax.ranking import Battles, rank
from nashjax.ranking.write import to_content

HOSTILE = [
    "</script><script>alert(1)</script>",
    '<img src=x onerror="alert(2)">',
    '=HYPERLINK("http://x")',
    "[[script]] & \"quotes\" 'too' ${alert(3)}",
    "right\u202eto left\nnext\x00line \u2028",
    "n" * 100_000,
    "\udcff lone",
]
PLAIN = ["ant", "bee", "Cat", "猫 dog"]
COLUMNS = ["rank", "item", "mass", "payoff", "first_share", "win_rate", "comparisons", "bradley_terry"]


@functools.cache
def hostile_contents() -> dict[str, Any]:
    """A ranking of items of such names, with intervals and masses along beta (`full`), and without (`bare`)."""
    rng = np.random.default_rng(0)
    n = len(HOSTILE + PLAIN)
    met = np.triu(rng.random((n, n)) < 0.7)
    battles = Battles.from_counts(HOSTILE + PLAIN, rng.integers(1, 12, size=(n, n)) * (met | met.T))
    full = to_content(rank(battles, 0.05, bootstrap=30, path=(0.05, 0.3, 0)), with_preferences=True)
    bare = to_content(rank(battles, 0.05, bootstrap=0), with_preferences=True)
    return {"full": full, "bare": bare}


@functools.cache
def drawn_content(n: int) -> dict[str, Any]:
    """Items `s-0`, ... with numbers at random, ties among them, some unknown, and their structure left out."""
    rng = np.random.default_rng(n)
    upper = np.triu(rng.random((n, n)).round(4), 1)
    preferences = (upper + np.tril(1 - upper.T)).tolist()
    comparisons = rng.poisson(1, size=(n, n))
    comparisons = np.triu(comparisons, 1) + np.triu(comparisons, 1).T
    for i, j in np.argwhere(comparisons == 0):
        preferences[i][j] = 0.5 if i == j else None
    items = []
    for place, name in enumerate(rng.permutation(n)):
        numbers = {key: float(x) for key, x in zip(COLUMNS[2:], rng.integers(0, 9, size=6) / 9, strict=True)}
        unknown = {key: None for key in COLUMNS[2:] if rng.random() < 0.1}
        row = {"item": f"s-{name}", "rank": place // 2 + 1, "bradley_terry_rank": 1, **numbers, **unknown}
        items.append(row | {f"{key}_{end}": None for key in ("rank", "mass", "payoff") for end in ("low", "high")})
    names = [row["item"] for row in items]
    structure = {
        "items": n, "pairs": n * (n - 1) // 2, "pairs_compared": int((comparisons > 0).sum() / 2), "coverage": 0.5,
        "components": [names[2:], names[:2]], "condorcet_winner": None, "weak_condorcet_winners": [],
        "smith_set": names, "schwartz_set": names[:20], "largest_cycle": names[:3], "cyclic_triples": 7,
        "triples": 1234, "unique_at_beta_0": False,
        "strongest_cycles": [{"items": names[:3], "preferences": [0.7, 0.66, 0.8], "comparisons": [1.0, 2.0, 3.5]}],
        "compare_next": [{"item_a": names[0], "item_b": names[1], "comparisons": 3.0, "reduction": 0.0123}],
    }  # fmt: skip
    return {
        "beta": 0.01, "bootstrap": 0, "comparisons": 8931.5, "ties": 12.0, "items": items, "warnings": ["Take care."],
        "resampling": {"kind": "bayesian", "cluster": "worker", "units": 9, "level": 0.95, "seed": 0},
        "disagreements": [], "structure": structure, "path": None,
        "preferences": preferences, "pair_comparisons": comparisons.astype(float).tolist(),
    }  # fmt: skip
