"""Reading games from files: which form a file has, and from its content to preferences."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nashjax._validation import check_texts
from nashjax.files.arrays import read_game_array
from nashjax.files.counts import preferences_of_counts
from nashjax.files.errors import BadInput, bad_input, quoted, visible
from nashjax.files.memory import check_game_memory
from nashjax.files.reference import read_reference
from nashjax.files.source import Source
from nashjax.files.tables import (
    Columns,
    Counts,
    Table,
    check_names,
    open_table,
    read_battles,
    read_matrix,
    read_pairs,
    recognize,
)
from nashjax.games.faults import SYMMETRY_TOLERANCE, Fault, first_fault
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
      reference: the reference policy, float64 `[n]` or `[..., n]`, if it was read with the games.
    """

    items: tuple[str, ...]
    preferences: np.ndarray
    comparisons: np.ndarray | None = None
    ties: float | None = None
    reference: np.ndarray | None = None


def read_games(
    source: str | Path | Source,
    *,
    format: str | None = None,
    columns: Columns | None = None,
    tie_words: Iterable[str] = (),
    prior: float = 0.0,
    reference: Source | None = None,
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
      reference: source of a reference policy, as for `read_reference`. The rows and columns of items that it excludes
        are not checked; entries there that no game has become 1/2.

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
        return _game_of_array(source, reference)
    with open_table(source) as table:
        table.first_record()
        match format or recognize(table, columns):
            case "matrix":
                _check_no_prior(source, prior)
                return _game_of_matrix(source, table, reference)
            case "pairs":
                counts = read_pairs(table, columns)
            case _:
                counts = read_battles(table, columns, tie_words)
    game = _game_of_counts(source, counts, prior)
    policy = None if reference is None else read_reference(reference, game.items)
    return dataclasses.replace(game, reference=policy)


def _game_of_matrix(source: Source, table: Table, reference: Source | None) -> GameFile:
    policy = pairs = None

    def wanted(items: list[str]) -> np.ndarray | None:
        nonlocal policy, pairs
        if reference is not None:
            policy = read_reference(reference, tuple(items))
            pairs = _allowed_pairs(policy, ())
        return pairs

    names, matrix, lines = read_matrix(table, wanted)
    matrix, fault = _checked(matrix, pairs)
    if fault is not None:
        row, column = fault.index
        raise _bad_entry(f"{source}, line {lines[row]} ({names[row]}), column {names[column]}", fault)
    return dataclasses.replace(_game(source, names, _complementary(matrix)), reference=policy)


def _game_of_array(source: Source, reference: Source | None) -> GameFile:
    given, preferences = read_game_array(source)
    names, policy, pairs = given or [str(i) for i in range(preferences.shape[-1])], None, None
    if reference is not None:
        batch = preferences.shape[:-2]
        policy = read_reference(reference, tuple(names), batch)
        pairs = _allowed_pairs(policy, batch)
    preferences, fault = _checked(preferences, pairs)
    if fault is not None:
        index = list(fault.index)
        items = "" if given is None else f" ({names[index[-2]]}, {names[index[-1]]})"
        raise _bad_entry(f"{source}, entry {index}{items}", fault)
    check_names(names, lambda position: f"{source}, items[{position}]")
    return dataclasses.replace(_game(source, names, _complementary(preferences)), reference=policy)


def _allowed_pairs(reference: np.ndarray, batch: tuple[int, ...]) -> np.ndarray | None:
    """Return which pairs of items a reference of each game allows, bool `[*batch, n, n]`; None for all."""
    allowed = reference > 0
    if allowed.all():
        return None
    n = allowed.shape[-1]
    full = np.broadcast_to(allowed, (*np.broadcast_shapes(allowed.shape[:-1], batch), n))
    sizes = (1,) * (full.ndim - 1 - len(batch)) + batch
    # Axes along which the games are the same have several references for a game.
    order = sorted(range(len(sizes)), key=lambda axis: sizes[axis] == 1)
    several = full.transpose(*order, -1).reshape(*(size for size in sizes if size > 1), -1, n).astype(np.float32)
    return (several.swapaxes(-1, -2) @ several > 0).reshape(*batch, n, n)


def _checked(preferences: np.ndarray, pairs: np.ndarray | None) -> tuple[np.ndarray, Fault | None]:
    """Return preferences with 1/2 for entries of excluded pairs that no game has, and the first fault of the others."""
    if pairs is None:
        return preferences, first_fault(preferences)
    with np.errstate(all="ignore"):
        sums = preferences + preferences.swapaxes(-1, -2)
        valid = (preferences >= 0) & (preferences <= 1) & (np.abs(sums - 1) <= SYMMETRY_TOLERANCE)
    kept = np.where(pairs | (valid & valid.swapaxes(-1, -2)), preferences, 0.5)
    return kept, first_fault(kept, np.asarray(pairs.any(axis=-1)))


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
    """`1/2 + (P - P^T)/2`, and 1/2 on the diagonal, whatever is there."""
    with np.errstate(invalid="ignore"):
        margin = (preferences - np.swapaxes(preferences, -1, -2)) / 2
    return half_plus(np.where(np.eye(preferences.shape[-1], dtype=bool), 0, margin))


def _check_no_prior(source: Source, prior: float) -> None:
    if prior:
        raise bad_input("prior", "", f"0, since {source} has no counts to add it to", f"{prior:g}")


def _bad_entry(where: str, fault: Fault) -> BadInput:
    return bad_input(where, "", fault.allowed, visible(fault.found))
