"""Reading games from files: which form a file has, and from its content to preferences."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nashjax.arguments import check_texts
from nashjax.files.arrays import read_game_array
from nashjax.files.counts import preferences_of_counts
from nashjax.files.errors import BadInput, bad_input, quoted, visible
from nashjax.files.memory import check_game_memory
from nashjax.files.source import Source
from nashjax.files.tables import (
    Columns,
    Counts,
    check_names,
    open_table,
    read_battles,
    read_matrix,
    read_pairs,
    recognize,
)
from nashjax.games.faults import Fault, first_fault
from nashjax.games.matrix import half_plus

FORMATS = ("array", "matrix", "pairs", "battles")
SUFFIXES = (".npy", ".npz", ".csv")


@dataclasses.dataclass(frozen=True)
class GameFile:
    """The games of a file.

    Attributes:
      items: the names of the `n` items.
      preferences: float64 `[..., n, n]`, `P + P^T = 1` to the last digit.
      comparisons: how often each pair was compared, float64 `[n, n]`, symmetric; None where the file has no counts.
      ties: how many of all comparisons were ties; None where the file has no counts.
    """

    items: tuple[str, ...]
    preferences: np.ndarray
    comparisons: np.ndarray | None = None
    ties: float | None = None


def read_games(
    source: str | Path | Source,
    *,
    format: str | None = None,
    columns: Columns | None = None,
    tie_words: Iterable[str] = (),
    prior: float = 0.0,
) -> GameFile:
    """Read preference games, and check everything about them.

    The forms: `array`, a `.npy` or `.npz` file of shape `[..., n, n]`; `matrix`, a CSV table with the item names in
    the header and in the first column; `pairs`, CSV rows `item_a,item_b,wins_a,wins_b,ties` (`ties` may be missing);
    `battles`, CSV rows `model_a,model_b,winner`. Counts become `(wins + ties/2 + prior/2) / (comparisons + prior)`,
    1/2 where two items were never compared. Items that were counted are sorted by name.

    Args:
      source: the path of a file or a pipe, `-` for standard input, or a `Source`.
      format: one of `FORMATS`; default recognized from the suffix, or from the content of a pipe, and from the header.
      columns: names of columns that differ from those above.
      tie_words: words for a tie besides `tables.TIE_WORDS`.
      prior: imagined comparisons of each pair, half of them won by each side: shrinks rarely compared pairs to 1/2.

    Raises:
      BadInput: a `ValueError` whose one line names the place, what was found there, and what is allowed.
      TypeError: `tie_words` is one text.
    """
    source, columns = Source.of(source), columns or Columns()
    check_texts("tie_words", tie_words)
    if format not in (None, *FORMATS):
        raise bad_input("format", "", f"one of {', '.join(FORMATS)}", quoted(format))
    if not (math.isfinite(prior) and prior >= 0):
        raise bad_input("prior", "", "a finite number >= 0", str(prior))
    suffix = source.suffix if format is None else ""
    if format is None and suffix not in SUFFIXES and not source.path.is_dir():
        what = "content" if source.is_stream else "suffix"
        advice = f"Use --format {'|'.join(FORMATS)} for other names of files."
        raise bad_input(source, what, f"one of {', '.join(SUFFIXES)}", quoted(suffix), advice)
    if format == "array" or suffix in (".npy", ".npz"):
        _check_no_prior(source, prior)
        return _game_of_array(source)
    with open_table(source) as table:
        table.first_record()
        match format or recognize(table, columns):
            case "matrix":
                _check_no_prior(source, prior)
                names, matrix, lines = read_matrix(table)
                fault = first_fault(matrix)
                if fault is not None:
                    row, column = fault.index
                    raise _bad_entry(f"{source}, line {lines[row]} ({names[row]}), column {names[column]}", fault)
                return _game(source, names, _complementary(matrix))
            case "pairs":
                counts = read_pairs(table, columns)
            case _:
                counts = read_battles(table, columns, tie_words)
    return _game_of_counts(source, counts, prior)


def _game_of_array(source: Source) -> GameFile:
    names, preferences = read_game_array(source)
    fault = first_fault(preferences)
    if fault is not None:
        index = list(fault.index)
        items = "" if names is None else f" ({names[index[-2]]}, {names[index[-1]]})"
        raise _bad_entry(f"{source}, entry {index}{items}", fault)
    if names is None:
        names = [str(i) for i in range(preferences.shape[-1])]
    check_names(names, lambda position: f"{source}, items[{position}]")
    return _game(source, names, _complementary(preferences))


def _game_of_counts(source: Source, counts: Counts, prior: float) -> GameFile:
    items = sorted({name for pair in counts for name in pair})
    check_game_memory(source, len(items))
    number = {name: i for i, name in enumerate(items)}
    at = tuple(np.array([[number[a], number[b]] for a, b in counts]).T)
    wins_a, wins_b, ties = np.array(list(counts.values())).T
    # The same pair may stand in the file in both orders.
    lead, comparisons = np.zeros((2, len(items), len(items)))
    np.add.at(lead, at, wins_a - wins_b)
    np.add.at(comparisons, at, wins_a + wins_b + ties)
    lead -= lead.T.copy()
    comparisons += comparisons.T.copy()
    return _game(source, items, preferences_of_counts(lead, comparisons, prior), comparisons, float(ties.sum()))


def _game(
    source: Source,
    names: list[str],
    preferences: np.ndarray,
    comparisons: np.ndarray | None = None,
    ties: float | None = None,
) -> GameFile:
    for name in names:
        try:
            name.encode("utf-8")
        except UnicodeEncodeError as error:  # half of a pair of surrogates, as numpy's text arrays may hold
            raise bad_input(source, "name", "text in Unicode", quoted(name)) from error
    return GameFile(tuple(names), preferences, comparisons, ties)


def _complementary(preferences: np.ndarray) -> np.ndarray:
    """`1/2 + (P - P^T)/2`."""
    return half_plus((preferences - np.swapaxes(preferences, -1, -2)) / 2)


def _check_no_prior(source: Source, prior: float) -> None:
    if prior:
        raise bad_input("prior", "", f"0, since {source} has no counts to add it to", f"{prior:g}")


def _bad_entry(where: str, fault: Fault) -> BadInput:
    return bad_input(where, "", fault.allowed, visible(fault.found))
