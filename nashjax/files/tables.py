"""Games in CSV files: a matrix, the counts of pairs, or one battle a row."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from nashjax.files.errors import BadInput, bad_input, listed, number, quoted, shortened, visible
from nashjax.files.memory import check_game_memory
from nashjax.files.source import Source

TIE_WORDS = ("tie", "draw", "both", "bothbad", "tie (bothbad)")
LARGEST_COUNT = 1e15
"""Counts up to here are exact in double precision."""
COUNT = f"a count >= 0 and <= {LARGEST_COUNT:g}"
NAME = "the name of an item"
CONTENT = "must contain a header and rows below it"
PROBABILITY = "a number in [0, 1]"
SQUARE = "a square matrix, with as many rows as columns"
WINNER_ADVICE = "Use --tie-word for other words, or --winner for another column."
_LONGEST_LINE = 2**24

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
      source: the file, for messages.
      header: the names in its first record, without space around them.
      header_line: where that is, for messages.
      records: iterates over the records after the header; empty lines are empty lists.
    """

    def __init__(self, source: Source, reader: Any):
        self.source = source
        self._reader = reader
        self._first: list[str] | None = None
        self.header = next(([name.strip() for name in record] for record in reader if record), [])
        self.header_line = f"{source}, line {reader.line_num}"
        self.records: Iterable[list[str]] = reader
        if not self.header:
            raise bad_input(source, "", CONTENT, "an empty file")

    def first_record(self) -> list[str]:
        """The first record after the header, which `records` still holds; raises BadInput if there is none."""
        if self._first is None:
            self._first = next((record for record in self._reader if record), None)
            if self._first is None:
                raise bad_input(self.source, "", CONTENT, f"the header {listed(self.header)} alone")
            self.records = itertools.chain([self._first], self._reader)
        return self._first

    @property
    def line_number(self) -> int:
        """The line on which the record read last ends."""
        return self._reader.line_num

    def line(self) -> str:
        """Where the record read last is, for messages."""
        return f"{self.source}, line {self.line_number}"

    def positions(self, columns: Iterable[str]) -> list[int]:
        """The positions of the named columns; raises BadInput where one is missing or there twice."""
        columns = list(columns)
        missing = [name for name in columns if name not in self.header]
        if missing:
            raise missing_columns(self.header_line, missing, self.header)
        for name in columns:
            if self.header.count(name) > 1 or columns.count(name) > 1:
                raise bad_input(self.header_line, "columns", "distinct", f"{quoted(name)} twice")
        return [self.header.index(name) for name in columns]

    def check_width(self, record: list[str]) -> None:
        """Raise BadInput unless the record has a field for each name in the header."""
        if len(record) != len(self.header):
            raise bad_input(self.line(), "", width_requirement(len(self.header)), f"{len(record)} fields")


def missing_columns(where: str, missing: list[str], header: list[str]) -> BadInput:
    """The error for a table that lacks columns."""
    return bad_input(where, "header", f"must have the columns {listed(missing)}", listed(header))


def width_requirement(width: int) -> str:
    """Return the requirement for a record in a table of so many columns."""
    return f"a record of {width} fields, as in the header"


@contextlib.contextmanager
def open_table(source: Source) -> Iterator[Table]:
    """Open a CSV file in UTF-8; what is wrong with its text or its quotes raises BadInput while it is read."""
    with source.open("CSV") as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        reader = csv.reader(_lines(source, text), strict=True)
        try:
            yield Table(source, reader)
        except UnicodeDecodeError as error:
            raise encoding_fault(source) from error
        except csv.Error as error:
            where = f"{source}, line {reader.line_num}"
            raise bad_input(where, "", "a CSV record with its quotes closed", visible(str(error))) from error
        finally:
            text.detach()


def _lines(source: Source, text: io.TextIOWrapper) -> Iterator[str]:
    """The lines of a text; raises BadInput for one that is too long to be a line of a table."""
    number = 1
    while line := text.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE and line[-1] not in "\r\n":
            raise bad_input(f"{source}, line {number}", "", f"at most {_LONGEST_LINE} characters long", "a longer line")
        yield line
        number += 1


def recognize(table: Table, columns: Columns) -> str:
    """Tell `battles`, `pairs` and `matrix` apart by the header; raises BadInput for any other."""
    header = set(table.header)
    if len(header) == 1 and any(separator in table.header[0] for separator in ";\t|"):
        got = f"the one column {quoted(table.header[0])}"
        raise bad_input(table.header_line, "columns", "separated by commas", got)
    if columns.winner is None and header.issuperset(columns.of_pairs()):
        return "pairs"
    if header.issuperset(columns.of_battles()):
        return "battles"
    first_name = table.first_record()[0].strip()
    if not any(columns) and first_name in table.header[1:]:
        return "matrix"
    battles, pairs = ",".join(columns.of_battles()), ",".join(columns.of_pairs())
    raise bad_input(
        table.header_line,
        "header",
        f"that of battles ({battles}), pairs ({pairs}[,ties]) or a matrix (names of items in the header and, in the "
        "same order, in the first column)",
        listed(table.header),
        "Use --item-a, --item-b and --winner for other names of columns.",
    )


def read_matrix(
    table: Table, wanted: Callable[[list[str]], np.ndarray | None] = lambda names: None
) -> tuple[list[str], np.ndarray, list[int]]:
    """Read a matrix with item names in the header and, in the same order, in the first column.

    Args:
      table: the open file.
      wanted: called with the names; returns which cells must hold a number, bool `[n, n]`, or None for all. Other cells
        without a number become NaN.

    Returns:
      The names, the matrix `[n, n]` (values not checked), and the line of each row.
    """
    names = table.header[1:]
    check_names(names, lambda position: f"{table.header_line}, column {position + 2}")
    check_game_memory(table.source, len(names))
    needed = wanted(names)
    matrix, lines = np.empty((len(names), len(names))), []
    for record in table.records:
        if not record:
            continue
        row = len(lines)
        if row == len(names):
            raise bad_input(table.source, "", SQUARE, f"{row} columns and more rows")
        table.check_width(record)
        if record[0].strip() != names[row]:
            raise bad_input(
                table.line(), "name", f"{quoted(names[row])}, in the order of the header", quoted(record[0])
            )
        fields = record[1:]
        if needed is not None:
            fields = [f if must or _is_number(f) else "nan" for f, must in zip(fields, needed[row], strict=True)]
        try:
            matrix[row] = [number(field) for field in fields]
        except ValueError as error:
            raise _no_number(table, names, fields) from error
        lines.append(table.line_number)
    if len(lines) < len(names):
        raise bad_input(table.source, "", SQUARE, f"{len(names)} columns and {len(lines)} rows")
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
            raise bad_input(
                table.line(), shortened(names[2]), winner_requirement(outcomes), quoted(battle[2]), WINNER_ADVICE
            )
        seen[battle] = 1
    counts: Counts = {}
    for (a, b, winner), times in seen.items():
        total = counts.setdefault((a.strip(), b.strip()), [0.0, 0.0, 0.0])
        total[outcomes[winner.strip().casefold()]] += times
    return counts


def check_names(names: list[str], where: Any) -> None:
    """Raise BadInput at `where(position)` unless the names are at least two, distinct, and not empty."""
    if len(names) < 2:
        raise bad_input(where(0), "number of items", "at least 2", str(len(names)))
    check_distinct(names, where)


def check_distinct(names: list[str], where: Callable[[int], str]) -> None:
    """Raise BadInput at `where(position)` unless the names are distinct and not empty."""
    first: dict[str, int] = {}
    for position, name in enumerate(names):
        if not name or "\0" in name:
            raise bad_input(where(position), "", NAME, _no_name(name))
        if name in first:
            raise bad_input(where(position), "", "a distinct name", f"{quoted(name)} a second time")
        first[name] = position


def outcome_words(names: tuple[str, str, str], tie_words: Iterable[str]) -> dict[str, int]:
    """The position in `Counts` that a winner word, in lower case, adds to: 0 and 1 the items, 2 ties."""
    # The names of the columns come last: they win where somebody named a column `model_b` that holds item a.
    sides = {"model_a": 0, "model_b": 1, names[0].casefold(): 0, names[1].casefold(): 1}
    ties = [word.strip().casefold() for word in (*TIE_WORDS, *tie_words)]
    return {**dict.fromkeys(ties, 2), **sides}


def winner_requirement(outcomes: Iterable[str]) -> str:
    """Return the requirement for the winner of a battle."""
    return f"one of {listed(list(outcomes), 20)}"


def _no_name(text: str) -> str:
    return "a text with a NUL byte" if text else "an empty text"


def _pair(table: Table, a: str, b: str) -> tuple[str, str]:
    a, b = a.strip(), b.strip()
    for name in (a, b):
        if not name or "\0" in name:
            raise bad_input(table.line(), "name", NAME, _no_name(name))
    if a == b:
        raise bad_input(table.line(), "items", "different", f"{quoted(a)} twice")
    return a, b


def _count(table: Table, at: int, field: str) -> float:
    try:
        count = number(field)
    except ValueError:
        count = -1.0
    if not 0 <= count <= LARGEST_COUNT:  # false for NaN
        got = field.strip() if _is_number(field) else quoted(field)
        raise bad_input(table.line(), shortened(table.header[at]), COUNT, got)
    return count


def _is_number(field: str) -> bool:
    try:
        number(field)
    except ValueError:
        return False
    return True


def _no_number(table: Table, names: list[str], fields: list[str]) -> BadInput:
    name, field = next((n, f) for n, f in zip(names, fields, strict=True) if not _is_number(f))
    return bad_input(table.line(), shortened(name), PROBABILITY, quoted(field))


def encoding_fault(source: Source) -> BadInput:
    """The error for a file that is not text in UTF-8, with the place of its first bad byte."""
    with source.open("CSV") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                got = f"byte 0x{line[error.start]:02x} at position {error.start + 1} of the line"
                return bad_input(f"{source}, line {number}", "", "text in UTF-8", got)
    return bad_input(source, "", "text in UTF-8", "a character that is cut off")
