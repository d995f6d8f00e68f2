"""Head-to-head records: who met whom, who won, and what else is known of each comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nashjax._validation import as_numbers, check_all, check_choice, check_texts, invalid, shown
from nashjax.files.counts import preferences_of_counts
from nashjax.files.errors import bad_input, listed, quoted

if TYPE_CHECKING:
    from nashjax.ranking.reading import Records

FIRST, SECOND, TIE = 0, 1, 2
"""The outcomes of a comparison."""


class Label(NamedTuple):
    """A column of names beside the comparisons, such as judge, prompt or category.

    Attributes:
      codes: positions in `names`, int `[rows]`.
      names: distinct texts.
    """

    codes: np.ndarray
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class BadRows:
    """Rows that could not be used.

    Attributes:
      count: how many.
      examples: where the first few are, what was found there and what is allowed, a line each.
    """

    count: int = 0
    examples: tuple[str, ...] = ()


class Counts(NamedTuple):
    """Of each ordered pair, `[n, n]` each.

    Attributes:
      lead: weight of wins less weight of losses; antisymmetric.
      comparisons: weight of all comparisons that count; symmetric.
      ties: weight of ties among them, symmetric.
    """

    lead: np.ndarray
    comparisons: np.ndarray
    ties: np.ndarray

    def preferences(self, prior: float = 0.0) -> np.ndarray:
        """How often each was preferred over each, `[n, n]`, 1/2 where nothing is known."""
        return preferences_of_counts(self.lead, self.comparisons, prior)

    def reorder(self, order: np.ndarray) -> Counts:
        """The same with the items at these positions, in this order."""
        return Counts(*(table[np.ix_(order, order)] for table in self))


@dataclasses.dataclass(frozen=True, eq=False)
class Battles:
    """Comparisons of items, one or several alike in a row.

    Attributes:
      items: the `n` names, sorted unless given.
      first, second: positions of the two items, int `[rows]`.
      outcome: `FIRST`, `SECOND` or `TIE` (0, 1, 2), int8 `[rows]`.
      times: how many comparisons the row stands for, > 0, float64 `[rows]`.
      weight: what each of them counts, > 0, float64 `[rows]`.
      labels: columns by name.
      bad_rows: what was left out when they were read.
    """

    items: tuple[str, ...]
    first: np.ndarray
    second: np.ndarray
    outcome: np.ndarray
    times: np.ndarray
    weight: np.ndarray
    labels: Mapping[str, Label] = dataclasses.field(default_factory=dict)
    bad_rows: BadRows = dataclasses.field(default_factory=BadRows)

    @classmethod
    def read(
        cls,
        source: str | Path | Any,
        *,
        format: str | None = None,
        item_a: str | None = None,
        item_b: str | None = None,
        winner: str | None = None,
        weight: str | None = None,
        tie_words: Sequence[str] = (),
        labels: Sequence[str] = (),
        where: Mapping[str, str] | None = None,
        strict: bool = False,
    ) -> Battles:
        """Read comparisons from a CSV or Parquet file, or from a pandas DataFrame.

        Two forms: *battles*, a comparison in a row with the columns `model_a`, `model_b`, `winner` (`model_a`,
        `model_b` or a tie word), and *pairs*, with `item_a`, `item_b`, `wins_a`, `wins_b` and, if wanted, `ties`.
        Space around names does not count, nor does the case of outcomes.

        Args:
          source: the path of a file or a pipe, `-` for standard input, or a DataFrame.
          format: `battles` or `pairs`; default by the names of the columns.
          item_a: column of the first item, instead of those above.
          item_b: column of the second item.
          winner: column of the outcome.
          weight: column of what a comparison counts, numbers >= 0; default 1.
          tie_words: words for a tie besides tie, draw, both, bothbad and "tie (bothbad)".
          labels: further columns to keep, for clusters and groups.
          where: keeps only the rows in which a column has this text.
          strict: whether a row that cannot be used is an error; else it is counted in `bad_rows` and left out.

        Raises:
          BadInput: a `ValueError` of one line: the file cannot be read, a column is missing, no row can be used, or,
            with `strict`, the first row that cannot be.
          TypeError: `tie_words` or `labels` is one text, or the source is neither a path nor a DataFrame.
        """
        from nashjax.ranking import reading

        check_texts("tie_words", tie_words)
        check_texts("labels", labels)
        request = reading.Request(
            format, item_a, item_b, winner, weight, tuple(tie_words), tuple(labels), dict(where or {}), strict
        )
        opened: Records = reading.open_source(source, request)
        return reading.understand(opened, request)

    @classmethod
    def from_counts(cls, items: Sequence[str], wins: np.ndarray, ties: np.ndarray | None = None) -> Battles:
        """Make them of counts.

        Args:
          items: `n` distinct names.
          wins: how often each was preferred over each, `[n, n]`, >= 0; the diagonal does not count.
          ties: how often two of them tied, `[n, n]`, symmetric; default never.

        Raises:
          ValueError: shapes or values are not valid.
        """
        n = len(items)
        if n < 2 or len(set(items)) < n:
            raise invalid("items", "at least 2 distinct names", shown(list(items)))
        tables = {"wins": wins, "ties": np.zeros((n, n)) if ties is None else ties}
        for name, table in tables.items():
            tables[name] = table = as_numbers(name, table)
            if table.shape != (n, n):
                raise invalid(name, f"must have shape [{n}, {n}]", f"shape {list(table.shape)}")
            check_all(name, table, np.isfinite(table) & (table >= 0), "a finite number >= 0")
        check_all("ties", tables["ties"], tables["ties"] == tables["ties"].T, "equal to its mirrored entry")
        off_diagonal = ~np.eye(n, dtype=bool)
        won, tied = np.nonzero((tables["wins"] > 0) & off_diagonal), np.nonzero(np.triu(tables["ties"], 1) > 0)
        first, second = (np.concatenate([a, b]).astype(np.int32) for a, b in zip(won, tied, strict=True))
        if not first.size:
            raise invalid("wins", "more than 0 off the diagonal somewhere, or ties", "no comparison")
        return cls(
            tuple(items),
            first,
            second,
            np.repeat([FIRST, TIE], [len(won[0]), len(tied[0])]).astype(np.int8),
            np.concatenate([tables["wins"][won], tables["ties"][tied]]),
            np.ones(len(first)),
        )

    @property
    def num_items(self) -> int:
        """The number of items."""
        return len(self.items)

    @property
    def num_comparisons(self) -> float:
        """The number of comparisons, ties included."""
        return float(self.times.sum())

    def label(self, name: str) -> Label:
        """A column by its name; raises BadInput for one that was not kept."""
        if name not in self.labels:
            kept = listed(list(self.labels)) if self.labels else "none"
            raise bad_input("column", "", f"one of the labels that were read ({kept})", quoted(name))
        return self.labels[name]

    def counts(self, ties: str = "half") -> Counts:
        """Wins, comparisons and ties of each pair.

        Args:
          ties: `half`, a tie is half a win for both, or `drop`, it is no comparison.
        """
        check_ties(ties)
        n = self.num_items
        lead, comparisons, tied = (np.zeros((n, n)) for _ in range(3))
        total = self.times * self.weight
        at = (self.first, self.second)
        np.add.at(lead, at, total * np.array([1.0, -1.0, 0.0])[self.outcome])
        np.add.at(tied, at, total * (self.outcome == TIE))
        np.add.at(comparisons, at, total * (1.0 if ties == "half" else self.outcome != TIE))
        return Counts(lead - lead.T, comparisons + comparisons.T, tied + tied.T if ties == "half" else 0 * tied)

    def groups(self, name: str) -> dict[str, Battles]:
        """The comparisons of each value of a column, by its name, sorted; each with the items that occur in it.

        Rows that could not be used are of no group: each says all of them.
        """
        label = self.label(name)
        found = {}
        for code in sorted(np.unique(label.codes), key=lambda code: label.names[code]):
            found[label.names[code]] = self._select(label.codes == code)
        return found

    def _select(self, chosen: np.ndarray) -> Battles:
        first, second = self.first[chosen], self.second[chosen]
        present, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
        return Battles(
            tuple(self.items[i] for i in present),
            codes[: len(first)].astype(np.int32),
            codes[len(first) :].astype(np.int32),
            self.outcome[chosen],
            self.times[chosen],
            self.weight[chosen],
            {name: Label(label.codes[chosen], label.names) for name, label in self.labels.items()},
            self.bad_rows,
        )


def check_ties(ties: str) -> None:
    """Raise ValueError unless this is a way to count ties."""
    check_choice("ties", ties, ("half", "drop"))
