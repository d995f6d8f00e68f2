"""Comparisons from files and tables of millions of rows: each distinct text is understood once (pyarrow).

One file, though long: the readers of each format share how a column of texts and its faults are kept.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nashjax._validation import wrong_type
from nashjax.files.errors import BadInput, bad_input, listed, number, quoted, shortened
from nashjax.files.memory import check_game_memory, check_memory, size
from nashjax.files.source import Source
from nashjax.files.tables import (
    LARGEST_COUNT,
    NAME,
    Columns,
    encoding_fault,
    missing_columns,
    open_table,
    outcome_words,
    width_requirement,
    winner_requirement,
)
from nashjax.ranking.battles import BadRows, Battles, Label

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv
    import pyarrow.parquet
except ImportError as error:
    raise ImportError(f'nashjax.ranking needs {error.name}: python -m pip install "nashjax[rank]"') from error

FORMS = ("battles", "pairs")
LONGEST_NAME = 10_000
SHOWN_BAD_ROWS = 5


class Request(NamedTuple):
    """What is wanted of a source; the arguments of `Battles.read`."""

    format: str | None
    item_a: str | None
    item_b: str | None
    winner: str | None
    weight: str | None
    tie_words: tuple[str, ...]
    labels: tuple[str, ...]
    where: dict[str, str]
    strict: bool

    @property
    def columns(self) -> Columns:
        """Names of columns that differ from the usual ones."""
        return Columns(self.item_a, self.item_b, self.winner)


class Column(NamedTuple):
    """Texts, each distinct one once."""

    codes: np.ndarray
    texts: list[str]

    def map(self, function: Callable[[str], Any], dtype: Any) -> np.ndarray:
        """A function of the text in each row, called once for each distinct text."""
        return np.array([function(text) for text in self.texts], dtype)[self.codes]


@dataclasses.dataclass(frozen=True)
class Records:
    """A table that was read.

    Attributes:
      name: for messages.
      columns: those that are needed.
      num_rows: of each.
      misshapen: how many rows were left out as they have too many or too few fields.
      places: names of the rows at some positions, in order, and of the misshapen ones before them.
    """

    name: str
    columns: dict[str, Column]
    num_rows: int
    misshapen: int = 0
    places: Callable[[Sequence[int]], Iterator[tuple[int | None, str]]] = lambda rows: ((i, f"row {i}") for i in rows)


def open_source(source: Any, request: Request) -> Records:
    """Read the columns that are needed of a path or a DataFrame.

    Raises:
      BadInput: it cannot be read, or a column is missing.
    """
    if request.format not in (None, *FORMS):
        raise bad_input("format", "", f"one of {', '.join(FORMS)}", quoted(str(request.format)))
    if isinstance(source, (str, Path, Source)):
        source = Source.of(source)
        return _of_parquet(source, request) if source.suffix in (".parquet", ".pq") else _of_csv(source, request)
    try:
        names = _needed([str(name) for name in source.columns], "the table", request)
    except AttributeError:
        raise wrong_type("source", "a path or a DataFrame", source) from None
    index = list(getattr(source, "index", range(len(source))))
    columns = {name: _of_series(source[name]) for name in names}
    return Records(
        "the table", columns, len(source), places=lambda rows: ((i, f"the table, row {index[i]}") for i in rows)
    )


def understand(source: Records, request: Request) -> Battles:
    """Comparisons of the texts in a table; what cannot be used is left out and counted, or is an error.

    Raises:
      BadInput: no row can be used, or, with `strict`, one cannot.
    """
    columns = source.columns
    wanted = np.ones(source.num_rows, bool)
    for name, text in request.where.items():
        matches = columns[name].map(lambda found, text=text: found.strip() == text.strip(), bool)
        if not matches.any():
            there = sorted({found.strip() for found in columns[name].texts} - {""})
            raise bad_input(source.name, f"column {shortened(name)}", f"must contain {quoted(text)}", listed(there))
        wanted &= matches
    faults = _Faults(source.num_rows)
    a, b = (columns[name] for name in _item_columns(list(columns), request))
    names, first, second = _understand_names(a, b, faults)
    faults.add(first == second, lambda i: ("items", "different", f"{_shown(a, i)} twice"))
    weight = np.ones(source.num_rows)
    if request.weight:
        weight = _understand_numbers(columns, request.weight, faults, "weight")
    for name in request.labels:
        faults.add(
            columns[name].map(lambda text: not text.strip(), bool),
            lambda i, name=name: (shortened(name), "a text that is not empty", "an empty text"),
        )
    if _is_pairs(list(columns), request):
        outcomes = [_understand_numbers(columns, name, faults, "count") for name in ("wins_a", "wins_b")]
        outcomes.append(_understand_numbers(columns, "ties", faults, "count") if "ties" in columns else 0 * outcomes[0])
        times = np.stack(outcomes, axis=1)
    else:
        outcome = _understand_outcomes(columns, request, faults)
        times = (outcome[:, None] == np.arange(3)).astype(np.float64)
    bad_rows = faults.report(source, wanted, strict=request.strict)
    good = wanted & ~faults.bad & (weight > 0)
    rows, outcome = np.nonzero((times > 0) & good[:, None])
    if not rows.size:
        got = "none"
        if bad_rows.count:
            got = f"{bad_rows.count} rows that cannot be used, the first being {bad_rows.examples[0].rstrip('.')}"
        raise bad_input(source.name, "number of comparisons", "at least 1", got)
    present, codes = np.unique(np.concatenate([first[rows], second[rows]]), return_inverse=True)
    check_game_memory(source.name, len(present))
    order = sorted(range(len(present)), key=lambda i: names[present[i]])
    codes = np.argsort(order)[codes].astype(np.int32)
    return Battles(
        tuple(names[present[i]] for i in order),
        codes[: len(rows)],
        codes[len(rows) :],
        outcome.astype(np.int8),
        times[rows, outcome],
        weight[rows],
        {name: _label(columns[name], rows) for name in request.labels},
        bad_rows,
    )


def _understand_names(a: Column, b: Column, faults: _Faults) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The distinct names, and the place of each row's two among them."""
    place: dict[str, int] = {}
    codes = [
        column.map(lambda text: place.setdefault(text.strip(), len(place)), np.int32)
        if column.texts
        else np.zeros(0, np.int32)
        for column in (a, b)
    ]
    for column in (a, b):
        faults.add(column.map(lambda text: not text.strip(), bool), lambda i: ("name", NAME, "an empty text"))
        faults.add(column.map(lambda text: "\0" in text, bool), lambda i: ("name", NAME, "a text with a NUL byte"))
        faults.add(
            column.map(lambda text: len(text.strip()) > LONGEST_NAME, bool),
            lambda i, column=column: (
                "name",
                f"at most {LONGEST_NAME} characters long",
                str(len(column.texts[column.codes[i]].strip())),
            ),
        )
    return list(place), codes[0], codes[1]


def _understand_outcomes(columns: dict[str, Column], request: Request, faults: _Faults) -> np.ndarray:
    names = request.columns.of_battles()
    words = outcome_words(names, request.tie_words)
    column = columns[names[2]]
    outcome = column.map(lambda text: words.get(text.strip().casefold(), -1), np.int8)
    faults.add(outcome < 0, lambda i: (shortened(names[2]), winner_requirement(words), _shown(column, i)))
    return outcome


def _understand_numbers(columns: dict[str, Column], name: str, faults: _Faults, kind: str) -> np.ndarray:
    def value(text: str) -> float:
        try:
            found = number(text)
        except ValueError:
            return math.nan
        return found if 0 <= found <= LARGEST_COUNT else math.nan

    column = columns[name]
    values = column.map(value, np.float64)
    requirement = f"a {kind} >= 0 and <= {LARGEST_COUNT:g}"
    faults.add(np.isnan(values), lambda i: (shortened(name), requirement, _shown(column, i)))
    return values


class _Faults:
    """Rows that cannot be used, and the first reason of each."""

    def __init__(self, num_rows: int):
        self.bad = np.zeros(num_rows, bool)
        self._reasons: list[tuple[np.ndarray, Callable[[int], tuple[str, str, str]]]] = []

    def add(self, bad: np.ndarray, reason: Callable[[int], tuple[str, str, str]]) -> None:
        """Add rows; `reason(row)` returns the subject, the requirement and what was found, as for `bad_input`."""
        if bad.any():
            self._reasons.append((bad & ~self.bad, reason))
            self.bad |= bad

    def report(self, source: Records, wanted: np.ndarray, *, strict: bool) -> BadRows:
        """Count them, and describe the first; with `strict` that is an error."""
        rows = np.flatnonzero(self.bad & wanted)
        count = len(rows) + source.misshapen
        if not count:
            return BadRows()
        first = itertools.islice(source.places(rows[:SHOWN_BAD_ROWS].tolist()), 1 if strict else SHOWN_BAD_ROWS)
        examples = [place if row is None else self._describe(row, place) for row, place in first]
        if strict:
            raise BadInput(examples[0])
        return BadRows(count, tuple(examples))

    def _describe(self, row: int, place: str) -> str:
        return str(bad_input(place, *next(reason(row) for bad, reason in self._reasons if bad[row])))


def _shown(column: Column, row: int) -> str:
    return quoted(column.texts[column.codes[row]])


def _label(column: Column, rows: np.ndarray) -> Label:
    """A column of some rows, names without space around them."""
    place: dict[str, int] = {}
    codes = column.map(lambda text: place.setdefault(text.strip(), len(place)), np.int32)[rows]
    return Label(codes, tuple(place))


def _is_pairs(names: list[str], request: Request) -> bool:
    if request.format is not None:
        return request.format == "pairs"
    return request.winner is None and set(names).issuperset(request.columns.of_pairs())


def _item_columns(names: list[str], request: Request) -> tuple[str, str]:
    pairs = _is_pairs(names, request)
    return request.columns.of_pairs()[:2] if pairs else request.columns.of_battles()[:2]


def _needed(header: list[str], where: str, request: Request) -> list[str]:
    """The columns to read; raises BadInput where one is missing or stands there twice."""
    if _is_pairs(header, request):
        needed = [*request.columns.of_pairs(), *(["ties"] if "ties" in header else [])]
    else:
        needed = list(request.columns.of_battles())
    needed += [*([request.weight] if request.weight else []), *request.labels, *request.where]
    missing = [name for name in needed if name not in header]
    if missing:
        raise missing_columns(where, missing, header)
    twice = [name for name in needed if header.count(name) > 1]
    if twice:
        raise bad_input(where, "columns", "distinct", f"{quoted(twice[0])} twice")
    roles = needed[:3]
    if len(set(roles)) < 3:
        raise bad_input(where, "columns of items and outcome", "three different ones", listed(roles))
    return list(dict.fromkeys(needed))


def _of_csv(source: Source, request: Request) -> Records:
    with open_table(source) as table:
        header, skip = table.header, table.line_number
        names = _needed(header, table.header_line, request)
        table.first_record()
    ignored = (f"\0{i}" for i in itertools.count())  # a column that is not needed may have any name, or none
    unique = [name if name in names else next(ignored) for name in header]
    misshapen = 0

    def skip_row(row: Any) -> str:
        nonlocal misshapen
        misshapen += 1
        return "skip"

    text = pa.dictionary(pa.int32(), pa.string())
    with source.open("CSV") as stream:
        try:
            read = pyarrow.csv.read_csv(
                stream,
                pyarrow.csv.ReadOptions(column_names=unique, skip_rows=skip),
                pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip_row),
                pyarrow.csv.ConvertOptions(
                    include_columns=names,
                    column_types=dict.fromkeys(names, text),
                    strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid as error:
            if "UTF8" in str(error):
                raise encoding_fault(source) from error
            raise
        columns = {name: _of_arrow(read[name]) for name in names}
    places = functools.partial(_csv_places, source, len(header), misshapen)
    return Records(str(source), columns, read.num_rows, misshapen, places)


def _csv_places(source: Source, width: int, misshapen: int, rows: Sequence[int]) -> Iterator[tuple[int | None, str]]:
    """The lines of some records and of all misshapen ones, as they come in the file."""
    wanted = set(rows)
    last = max(wanted, default=-1)
    with open_table(source) as table:
        position = -1
        for record in table.records:
            if not record:
                continue
            if len(record) != width:
                yield None, str(bad_input(table.line(), "", width_requirement(width), f"{len(record)} fields"))
                continue
            position += 1
            if position in wanted:
                yield position, table.line()
            if position >= last and not misshapen:
                return


def _of_parquet(source: Source, request: Request) -> Records:
    with source.open("Parquet") as stream:
        file = pyarrow.parquet.ParquetFile(stream)
        names = _needed(file.schema_arrow.names, str(source), request)
        types = {name: file.schema_arrow.field(name).type for name in names}
        for name in names:
            if pa.types.is_nested(types[name]):  # such as a list in each row
                raise _bad_type(source, name, types[name])
        # A text that many rows share is kept once, however long it is.
        file = pyarrow.parquet.ParquetFile(stream, metadata=file.metadata, read_dictionary=names)
        _check_parquet(source, file, types)
        parts, num_bytes = [file.schema_arrow.empty_table().select(names)], 0
        for group in range(file.num_row_groups):
            parts.append(file.read_row_group(group, columns=names))
            num_bytes += parts[-1].nbytes
            _check_unpacked(source, num_bytes)
        read = pa.concat_tables(parts)
        columns = {}
        for name in names:
            try:
                columns[name] = _of_arrow(read[name])
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise _bad_type(source, name, types[name]) from error
    return Records(
        str(source), columns, read.num_rows, places=lambda rows: ((i, f"{source}, row {i + 1}") for i in rows)
    )


def _check_parquet(source: Source, file: Any, types: dict[str, Any]) -> None:
    """Raise BadInput for columns that unpack to too much, before they are read."""
    num_rows, num_bytes, schema = file.metadata.num_rows, 0, file.metadata.schema
    check_memory(source, f"{num_rows} rows", 32 * num_rows * len(types))
    for kind in types.values():
        num_bytes += num_rows * (kind.byte_width if pa.types.is_fixed_size_binary(kind) else 4)
    needed = [i for i in range(len(schema)) if schema.column(i).path in types]
    for group in range(file.num_row_groups):
        # Of a damaged column this raises an error, while pyarrow's `column` ends the process.
        next(file.iter_batches(1, row_groups=[group], columns=list(types)), None)
        row_group = file.metadata.row_group(group)
        num_bytes += sum(row_group.column(i).total_uncompressed_size for i in needed)
    _check_unpacked(source, num_bytes)


def _check_unpacked(source: Source, num_bytes: int) -> None:
    if num_bytes > source.limit:
        requirement, advice = f"at most {size(source.limit)} long", "Use --max-file-size to raise the limit."
        raise bad_input(source, "unpacked columns", requirement, size(num_bytes), advice)


def _bad_type(source: Source, name: str, kind: Any) -> BadInput:
    return bad_input(source, f"type of column {shortened(name)}", "text, number or truth", quoted(str(kind)))


def _of_series(series: Any) -> Column:
    """A column of a DataFrame; what is missing becomes the empty text."""
    try:
        return _of_arrow(pa.chunked_array([pa.Array.from_pandas(series)]))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):  # such as numbers beside texts
        missing = series.isna().tolist()
        texts = ["" if gone else str(value) for value, gone in zip(series.tolist(), missing, strict=True)]
        return _of_arrow(pa.chunked_array([pa.array(texts, pa.string())]))


def _of_arrow(column: pa.ChunkedArray) -> Column:
    if not pa.types.is_dictionary(column.type):
        column = pc.cast(column, pa.string()).dictionary_encode()  # pyright: ignore[reportAttributeAccessIssue]
    whole = column.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        if whole.num_chunks == 0:
            return Column(np.zeros(0, np.int32), [])
        whole = whole.chunk(0)
    values = whole.dictionary
    if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
        values = pc.cast(values, pa.string())
    texts = ["" if text is None else str(text) for text in values.to_pylist()]
    codes = pc.fill_null(whole.indices, len(texts)).to_numpy(zero_copy_only=False)  # pyright: ignore
    return Column(codes.astype(np.int32, copy=False), [*texts, ""])
