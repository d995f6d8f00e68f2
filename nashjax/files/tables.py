"""Games in CSV files: a matrix, the counts of pairs, or one battle a row."""

from __future__ import annotations

import contextlib
import csv
import itertools
import operator
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nashjax.files.errors import BadInput, bad_input, listed, number, quoted, unreadable, visible
from nashjax.files.memory import check_game_memory

TIE_WORDS = ("tie", "draw", "both", "bothbad", "tie (bothbad)")
LARGEST_COUNT = 1e15
"""Counts up to here are exact in double precision."""

Counts = dict[tuple[str, str], list[float]]
"""Of each ordered pair of items that was compared: the wins of the first, of the second, and the ties."""


class Columns(NamedTuple):
    """Names of columns, where they are not the usual ones.

    Attributes:
      item_a: usually `model_a` in a file of battles, `item_a` in one of pairs.
      item_b: likewise.
      winner: usually `winner`; only files of battles have it.
    """

    item_a: str | None = None
    item_b: str | None = None
    winner: str | None = None

    def of_battles(self) -> tuple[str, str, str]:
        """The columns of a file of battles."""
        return self.item_a or "model_a", self.item_b or "model_b", self.winner or "winner"

    def of_pairs(self) -> tuple[str, str, str, str]:
        """The columns of a file of pairs; `ties` may follow."""
        return self.item_a or "item_a", self.item_b or "item_b", "wins_a", "wins_b"


class Table:
    """An open CSV file: its header, and the records after it.

    Attributes:
      path: where it is, for messages.
      header: the names in its first record, without space around them.
      header_line: where that is, for messages.
      records: iterates over the records after the header; empty lines are empty lists.
    """

    def __init__(self, path: Path, reader: Any):
        self.path = path
        self._reader = reader
        self._first: list[str] | None = None
        self.header = next(([name.strip() for name in record] for record in reader if record), [])
        self.header_line = f"{path}, line {reader.line_num}"
        self.records: Iterable[list[str]] = reader
        if not self.header:
            raise bad_input(path, "an empty file", "is a header with rows below it")

    def first_record(self) -> list[str]:
        """The first record after the header, which `records` still holds; raises BadInput if there is none."""
        if self._first is None:
            self._first = next((record for record in self._reader if record), None)
            if self._first is None:
                raise bad_input(self.path, f"a header ({listed(self.header)}) and no rows", "is at least one row")
            self.records = itertools.chain([self._first], self._reader)
        return self._first

    @property
    def line_number(self) -> int:
        """The line on which the record read last ends."""
        return self._reader.line_num

    def line(self, column: str | None = None) -> str:
        """Where the record read last is, for messages."""
        place = f"{self.path}, line {self.line_number}"
        return place if column is None else f"{place}, column {column}"

    def positions(self, columns: Iterable[str]) -> list[int]:
        """The positions of the named columns; raises BadInput where one is missing or there twice."""
        columns = list(columns)
        missing = [name for name in columns if name not in self.header]
        if missing:
            raise bad_input(
                self.header_line, f"columns {listed(self.header)}", f"is a header with {listed(missing)} too"
            )
        for name in columns:
            if self.header.count(name) > 1 or columns.count(name) > 1:
                raise bad_input(self.header_line, f"column {quoted(name)} twice", "are distinct columns")
        return [self.header.index(name) for name in columns]

    def check_width(self, record: list[str]) -> None:
        """Raise BadInput unless the record has a field for each name in the header."""
        if len(record) != len(self.header):
            raise bad_input(self.line(), f"{len(record)} fields", f"are {len(self.header)}, as in the header")


@contextlib.contextmanager
def open_table(path: Path) -> Iterator[Table]:
    """Open a CSV file in UTF-8; what is wrong with its text or its quotes raises BadInput while it is read."""
    reader = None
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            yield Table(path, reader)
    except UnicodeDecodeError:
        raise encoding_fault(path) from None
    except csv.Error as error:
        line = reader.line_num if reader else 1
        raise bad_input(f"{path}, line {line}", visible(str(error)), "are CSV records, quotes closed") from None
    except OSError as error:
        raise unreadable(path, error) from None


def recognise(table: Table, columns: Columns) -> str:
    """Tell `battles`, `pairs` and `matrix` apart by the header; raises BadInput for any other."""
    header = set(table.header)
    if len(header) == 1 and any(separator in table.header[0] for separator in ";\t|"):
        raise bad_input(table.header_line, f"the one column {quoted(table.header[0])}", "are commas between columns")
    if columns.winner is None and header.issuperset(columns.of_pairs()):
        return "pairs"
    if header.issuperset(columns.of_battles()):
        return "battles"
    first_name = table.first_record()[0].strip()
    if not any(columns) and first_name in table.header[1:]:
        return "matrix"
    raise bad_input(
        table.header_line,
        f"columns {listed(table.header)}",
        f"are battles ({','.join(columns.of_battles())}), pairs ({','.join(columns.of_pairs())}[,ties]) "
        "or a matrix (item names in the header and in the first column)",
    )


def read_matrix(table: Table) -> tuple[list[str], np.ndarray, list[int]]:
    """Read a matrix with item names in the header and, in the same order, in the first column.

    Returns:
      The names, the matrix `[n, n]` (values not checked), and the line of each row.
    """
    names = table.header[1:]
    check_names(names, lambda position: f"{table.header_line}, column {position + 2}")
    check_game_memory(table.path, len(names))
    matrix, lines = np.empty((len(names), len(names))), []
    for record in table.records:
        if not record:
            continue
        row = len(lines)
        if row == len(names):
            raise bad_input(table.line(), f"more than {row} rows", f"are {row}, one for each column: a square matrix")
        table.check_width(record)
        if record[0].strip() != names[row]:
            raise bad_input(table.line(), f"row {quoted(record[0])}", f"is {quoted(names[row])}, as in the header")
        try:
            matrix[row] = [number(field) for field in record[1:]]
        except ValueError:
            raise _no_number(table, names, record[1:]) from None
        lines.append(table.line_number)
    if len(lines) < len(names):
        raise bad_input(
            table.path, f"{len(names)} columns and {len(lines)} rows", "are as many rows as columns: a square matrix"
        )
    return names, matrix, lines


def read_pairs(table: Table, columns: Columns) -> Counts:
    """Read rows of `item_a,item_b,wins_a,wins_b,ties`; repeated pairs add up."""
    count_columns = ["wins_a", "wins_b", *(["ties"] if "ties" in table.header else [])]
    at_a, at_b, *at_counts = table.positions([*columns.of_pairs()[:2], *count_columns])
    counts: Counts = {}
    for record in table.records:
        if not record:
            continue
        table.check_width(record)
        pair = _pair(table, record[at_a], record[at_b])
        total = counts.setdefault(pair, [0.0, 0.0, 0.0])
        for i, at in enumerate(at_counts):
            total[i] += _count(table, at, record[at])
    return counts


def read_battles(table: Table, columns: Columns, tie_words: Iterable[str]) -> Counts:
    """Read rows of `model_a,model_b,winner`, the winner being one of these two column names or a tie word."""
    names = columns.of_battles()
    positions = table.positions(names)
    outcomes = outcome_words(names, tie_words)
    pick, width = operator.itemgetter(*positions), len(table.header)
    # Files of millions of battles have few distinct rows: each is understood once, and then only counted.
    seen: dict[tuple[str, str, str], int] = {}
    for record in table.records:
        if len(record) != width:
            if record:
                table.check_width(record)
            continue
        battle = pick(record)
        if battle in seen:
            seen[battle] += 1
            continue
        _pair(table, battle[0], battle[1])
        if battle[2].strip().casefold() not in outcomes:
            raise bad_input(table.line(names[2]), quoted(battle[2]), f"are {listed(list(outcomes), 20)}")
        seen[battle] = 1
    counts: Counts = {}
    for (a, b, winner), times in seen.items():
        total = counts.setdefault((a.strip(), b.strip()), [0.0, 0.0, 0.0])
        total[outcomes[winner.strip().casefold()]] += times
    return counts


def check_names(names: list[str], where: Any) -> None:
    """Raise BadInput at `where(position)` unless the names are at least two, distinct, and not empty."""
    if len(names) < 2:
        raise bad_input(where(0), f"{len(names)} item(s)", "are at least 2")
    first: dict[str, int] = {}
    for position, name in enumerate(names):
        if not name or "\0" in name:
            found = "a NUL byte in a name" if name else "an empty name"
            raise bad_input(where(position), found, "are names of items")
        if name in first:
            raise bad_input(where(position), f"{quoted(name)} a second time", "are distinct names")
        first[name] = position


def outcome_words(names: tuple[str, str, str], tie_words: Iterable[str]) -> dict[str, int]:
    """The position in `Counts` that a winner word, in lower case, adds to: 0 and 1 the items, 2 ties."""
    # The names of the columns come last: they win where somebody named a column `model_b` that holds item a.
    sides = {"model_a": 0, "model_b": 1, names[0].casefold(): 0, names[1].casefold(): 1}
    ties = [word.strip().casefold() for word in (*TIE_WORDS, *tie_words)]
    return {**dict.fromkeys(ties, 2), **sides}


def _pair(table: Table, a: str, b: str) -> tuple[str, str]:
    a, b = a.strip(), b.strip()
    if not a or not b:
        raise bad_input(table.line(), "an empty name", "are names of items")
    if "\0" in a + b:
        raise bad_input(table.line(), "a NUL byte in a name", "are names of items")
    if a == b:
        raise bad_input(table.line(), f"{quoted(a)} against itself", "are two different items")
    return a, b


def _count(table: Table, at: int, field: str) -> float:
    try:
        count = number(field)
    except ValueError:
        count = -1.0
    if not 0 <= count <= LARGEST_COUNT:  # false for NaN
        found = field.strip() if _is_number(field) else quoted(field)
        raise bad_input(table.line(table.header[at]), found, f"are counts >= 0 and <= {LARGEST_COUNT:g}")
    return count


def _is_number(field: str) -> bool:
    try:
        number(field)
    except ValueError:
        return False
    return True


def _no_number(table: Table, names: list[str], fields: list[str]) -> BadInput:
    name, field = next((n, f) for n, f in zip(names, fields, strict=True) if not _is_number(f))
    return bad_input(table.line(name), quoted(field), "are numbers in [0, 1]")


def encoding_fault(path: Path) -> BadInput:
    """The error for a file that is not text in UTF-8, with the place of its first bad byte."""
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                found = f"byte 0x{line[error.start]:02x} at position {error.start + 1} of the line"
                return bad_input(f"{path}, line {number}", found, "is text in UTF-8")
    return bad_input(path, "text that ends within a character", "is text in UTF-8")
