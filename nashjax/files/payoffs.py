"""Reading payoffs of zero-sum games: CSV tables with names, and numpy arrays."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np

from nashjax.files.arrays import Header, as_float64, check_numeric, read_array, stream_size
from nashjax.files.errors import bad_input, number, quoted, shortened
from nashjax.files.memory import check_game_memory
from nashjax.files.source import Source
from nashjax.files.tables import CONTENT, Table, check_distinct, open_table

SUFFIXES = (".csv", ".npy")
PAYOFF = "a finite number"


@dataclasses.dataclass(frozen=True)
class PayoffFile:
    """Zero-sum games of a file.

    Attributes:
      rows: names of the actions of the row player.
      columns: names of the actions of the column player.
      payoffs: what the row player gets, float64 `[..., n1, n2]`.
      lines: line of each row of a table, to name it in messages; empty for an array.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    payoffs: np.ndarray
    lines: tuple[int, ...] = ()

    def place(self, source: object, index: tuple[int, ...]) -> str:
        """Return where the payoff at an index stands, for messages."""
        if not self.lines:
            return f"{source}, entry {list(index)}"
        row, column = index
        return f"{source}, line {self.lines[row]} ({self.rows[row]}), column {self.columns[column]}"


def read_payoffs(source: str | Path | Source, *, format: str | None = None) -> PayoffFile:
    """Read the payoffs of a row player.

    Args:
      source: `.csv` with the names of the columns in the header and those of the rows in the first column, or `.npy`
        with an array `[..., n1, n2]`; a pipe, or `-` for standard input, with one of these if `format` is given.
      format: "matrix" for CSV, "array" for `.npy`; by default recognized from the suffix.

    Raises:
      BadInput: the source cannot be used; the message names the place, what was found and what is allowed.
    """
    source = Source.of(source)
    if format not in (None, "matrix", "array"):
        raise bad_input("--format", "", "matrix or array with --zero-sum", quoted(format))
    suffix = source.suffix if format is None else ""
    if format is None and suffix not in SUFFIXES and not source.path.is_dir():
        advice = "Use --format matrix or --format array for other names of files."
        raise bad_input(source, "suffix", f"one of {', '.join(SUFFIXES)} with --zero-sum", quoted(suffix), advice)
    if format == "array" or suffix == ".npy":
        found = _of_array(source)
    else:
        with open_table(source) as table:
            table.first_record()
            found = _of_table(source, table)
    bad = ~np.isfinite(found.payoffs)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise bad_input(found.place(source, at), "", PAYOFF, str(found.payoffs[at]))
    return found


def check_range(found: PayoffFile, source: object, dtype: np.dtype) -> None:
    """Raise BadInput if a payoff is too large for the dtype of the solve."""
    limits = np.finfo(dtype)
    bad = np.abs(found.payoffs) > limits.max
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        advice = "Use --x64." if dtype == np.float32 else ""
        requirement = f"at most {limits.max:.3g} in absolute value in {dtype}"
        raise bad_input(found.place(source, at), "", requirement, str(found.payoffs[at]), advice)


def _of_array(source: Source) -> PayoffFile:
    where = str(source)

    def check(header: Header) -> None:
        check_numeric(header.dtype, where)
        shape = header.shape
        if len(shape) < 2 or math.prod(shape) == 0:
            raise bad_input(where, "", "an array [..., n1, n2] with n1, n2 >= 1", f"shape {list(shape)}")
        check_game_memory(source, shape[-1] + shape[-2], math.prod(shape[:-2]))

    with source.open(".npy") as stream:
        payoffs = as_float64(read_array(stream, stream_size(stream), where, check))
    rows, columns = (tuple(map(str, range(size))) for size in payoffs.shape[-2:])
    return PayoffFile(rows, columns, payoffs)


def _of_table(source: Source, table: Table) -> PayoffFile:
    columns = table.header[1:]
    if not columns:
        raise bad_input(table.header_line, "", "a header with the names of the columns after the first", "none")
    check_distinct(columns, lambda position: f"{table.header_line}, column {position + 2}")
    rows, lines, payoffs = [], [], []
    for record in table.records:
        if not record:
            continue
        table.check_width(record)
        rows.append(record[0].strip())
        lines.append(table.line_number)
        payoffs.append([_payoff(table, name, field) for name, field in zip(columns, record[1:], strict=True)])
        check_game_memory(source, len(rows) + len(columns))
    if not rows:
        raise bad_input(source, "", CONTENT, "no row")
    check_distinct(rows, lambda position: f"{source}, line {lines[position]}")
    return PayoffFile(tuple(rows), tuple(columns), np.array(payoffs), tuple(lines))


def _payoff(table: Table, name: str, field: str) -> float:
    try:
        return number(field)
    except ValueError as error:
        raise bad_input(table.line(), shortened(name), PAYOFF, quoted(field)) from error
