"""The rows of `peers.json` as tables."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable
from typing import Any

GROUPS = ("root-finders", "logit", "plain", "bootstrap-exact", "bootstrap", "textbook")
"""Those with a table of their own; `grid` has another."""
HEAD = (
    "peer",
    "n",
    "beta",
    "games",
    "peer us",
    "peer E",
    "peer log error",
    "peer unsolved",
    "nashjax us",
    "nashjax E",
    "nashjax log error",
    "nashjax unsolved",
    "ratio",
)


def table(rows: list[dict[str, Any]], group: str) -> str:
    """One line for each peer, size, beta and number of games of a group; kinds of games are brought together."""
    here = sorted((row for row in rows if row["group"] == group), key=place)
    return lines(HEAD, [line(list(same)) for _, same in itertools.groupby(here, key=place)])


def lines(heads: Iterable[object], cells: Iterable[Iterable[object]]) -> str:
    """A table of these cells, in markdown."""
    heads = list(heads)
    table = [heads, ["---"] * len(heads), *cells]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in table)


def ratios_over_sizes(rows: list[dict[str, Any]]) -> str:
    """The group `grid`: for each peer and beta how many times its time for a game is this library's."""
    here = [row for row in rows if row["group"] == "grid"]
    cases = sorted({(row["n"], row["batch"]) for row in here})
    found: dict[tuple[str, float], dict[tuple[int, int], str]] = {}
    for row in here:
        found.setdefault((row["peer"], row["beta"]), {})[row["n"], row["batch"]] = ratio_or_outcome(row)
    heads = [f"n = {n}, {batch} game{'s' if batch > 1 else ''}" for n, batch in cases]
    table = ([peer, f"{beta:g}", *(cells.get(case, "") for case in cases)] for (peer, beta), cells in found.items())
    return lines(["peer", "beta", *heads], table)


def ratio_or_outcome(row: dict[str, Any]) -> str:
    if "ratio" not in row:
        return row["outcome"]
    unsolved = f" ({100 * row['unsolved']:.3g} %)" if row["unsolved"] else ""
    return f"{row['ratio']:.3g}{unsolved}{'' if row['as_accurate'] else ' *'}"


def chosen(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The rows that the table of a name, `peers-GROUP`, shows; all rows for other names."""
    group = name.removeprefix("peers-")
    return [row for row in rows if row["group"] == group] if group != name else rows


def place(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["n"], row["batch"], -row["beta"], row["peer"]


def line(rows: list[dict[str, Any]]) -> list[str]:
    """One line from the rows of all kinds: medians of times, the worst accuracy, the mean share unsolved."""
    first = rows[0]
    measured = [row for row in rows if "us" in row]
    compared = [row for row in measured if "ratio" in row]
    games = {
        f"{row['sample']}/{row['games']}" if row["sample"] < row["games"] else f"{row['games']}" for row in measured
    }
    cells = [first["peer"], f"{first['n']}", f"{first['beta']:g}", ", ".join(sorted(games)) or f"{first['batch']}"]
    cells += side(measured, "") if measured else ["-"] * 4
    cells += side(compared, "nashjax_") if compared else ["-"] * 4
    return [*cells, ratios(rows, compared)]


def side(rows: list[dict[str, Any]], prefix: str) -> list[str]:
    unsolved = statistics.mean(row[f"{prefix}unsolved"] for row in rows)
    return [
        f"{statistics.median(row[f'{prefix}us'] for row in rows):.4g}",
        worst(row[f"{prefix}exploitability"] for row in rows),
        worst(row[f"{prefix}log_error"] for row in rows),
        f"{100 * unsolved:.3g} %",
    ]


def worst(values: Any) -> str:
    known = [value for value in values if value is not None]
    return f"{max(known):.0e}" if known else "-"


def ratios(rows: list[dict[str, Any]], compared: list[dict[str, Any]]) -> str:
    """Geometric mean and range over the kinds, and what must be known to read it."""
    notes = sorted({row["outcome"] for row in rows} - {"done"})
    if not compared:
        return "; ".join(notes)
    values = [row["ratio"] for row in compared]
    text = f"{math.exp(statistics.mean(map(math.log, values))):.3g}"
    if len(values) > 1:
        text += f" ({min(values):.3g} to {max(values):.3g})"
    if any(row["nashjax_beta"] != row["beta"] for row in compared):
        notes.append(f"nashjax at beta {compared[0]['nashjax_beta']:g}")
    if not all(row["as_accurate"] for row in compared):
        notes.append("the peer is more accurate")
    return "; ".join([text, *notes])
