"""The rows of `peers.json` as markdown tables, one for each group."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

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


def table(rows: list[dict[str, Any]]) -> str:
    """Tables with one line for each peer, size, beta and number of games; kinds of games are brought together."""
    parts = []
    for group in dict.fromkeys(row["group"] for row in rows):
        chosen = sorted((row for row in rows if row["group"] == group), key=place)
        kinds = ", ".join(f"`{kind}`" for kind in dict.fromkeys(row["kind"] for row in chosen))
        lines = [line(list(same)) for _, same in itertools.groupby(chosen, key=place)]
        text = [
            f"### {group} ({kinds} games)",
            "",
            markdown(HEAD),
            markdown(["---"] * len(HEAD)),
            *map(markdown, lines),
        ]
        parts.append("\n".join(text))
    return "\n\n".join(parts)


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


def markdown(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"
