"""Reading a reference policy: a probability for each item."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from nashjax._validation import SUM_TOLERANCE, first_index
from nashjax.files.arrays import read_vector_array
from nashjax.files.errors import BadInput, bad_input, listed, number, quoted, shortened, visible
from nashjax.files.source import Source
from nashjax.files.tables import open_table
from nashjax.files.write import harmless

_FORMS = (
    "a .csv file (item,probability), a .json file ({item: probability}), a .npy file, or numbers with commas between"
)
_PROBABILITY = "a probability >= 0"


def read_reference(
    source: str | Path | Source, items: tuple[str, ...], batch_shape: tuple[int, ...] = ()
) -> np.ndarray:
    """Read a reference policy for games with these items.

    Args:
      source: a file, `.csv` with rows `item,probability`, `.json` with an object `{item: probability}` (in both forms
        also the answer to one game that `nashjax solve` writes) or `.npy` with an array `[..., n]`; a pipe, or `-` for
        standard input, with one of these; or the `n` numbers themselves, in the order of the items, with commas
        between.
      items: the names of the `n` items; a file that names them may do so in any order.
      batch_shape: of the games.

    Returns:
      Probabilities, float64 `[n]` or `[..., n]`; zeros exclude items.

    Raises:
      BadInput: the source cannot be used; the message names the place, what was found and what is allowed.
    """
    source = Source.of(source)
    match source.suffix:
        case ".csv":
            reference = _from_csv(source, items)
        case ".json":
            reference = _from_json(source, items)
        case ".npy":
            reference = read_vector_array(source)
        case _:
            reference = _from_text(str(source.path))
    where = f"reference {source}"
    if reference.ndim == 0 or reference.shape[-1] != len(items):
        requirement = f"[{len(items)}], a probability for each item"
        raise bad_input(where, "shape", requirement, str(list(reference.shape)))
    _check_values(where, reference, items)
    try:
        np.broadcast_shapes(reference.shape[:-1], batch_shape)
    except ValueError as error:
        requirement = f"one that broadcasts with that of the games, {list(batch_shape)}"
        raise bad_input(where, "batch shape", requirement, str(list(reference.shape[:-1]))) from error
    return reference


def _from_csv(source: Source, items: tuple[str, ...]) -> np.ndarray:
    given: dict[str, float] = {}
    known = {harmless(item): item for item in items} | {item: item for item in items}  # also as answers are written
    with open_table(source) as table:
        table.first_record()
        at_item, at_probability = table.positions(["item", "probability"])
        for record in table.records:
            if not record:
                continue
            table.check_width(record)
            item = known.get(record[at_item].strip(), record[at_item].strip())
            if item in given:
                raise bad_input(table.line(), "item", "distinct", f"{quoted(item)} a second time")
            if item not in items:
                raise bad_input(table.line(), "item", _one_of(items), quoted(item))
            try:
                given[item] = number(record[at_probability])
            except ValueError as error:
                raise bad_input(table.line(), "probability", _PROBABILITY, quoted(record[at_probability])) from error
    return _in_order(source, given, items)


def _of_answer(source: Source, items: object, policy: object) -> dict[str, Any]:
    if not (isinstance(items, list) and isinstance(policy, list) and len(items) == len(policy)):
        raise bad_input(source, "", "an answer for one game at one beta", "an answer for several")
    return dict(zip(map(str, items), policy, strict=True))


def _from_json(source: Source, items: tuple[str, ...]) -> np.ndarray:
    with source.open("JSON"):  # the boundary around all of its parsing
        content = _parse_json(source)
        if not isinstance(content, dict):
            raise bad_input(source, "", "an object {item: probability}", f"a {type(content).__name__}")
        if {"items", "policy"} <= content.keys() - set(items):  # an answer of `nashjax solve`
            content = _of_answer(source, content["items"], content["policy"])
        for item, value in content.items():
            if item not in items:
                raise bad_input(source, "item", _one_of(items), quoted(item))
            if not isinstance(value, float):
                raise bad_input(source, f"item {shortened(item)}", _PROBABILITY, quoted(str(value)))
        return _in_order(source, content, items)


def _parse_json(source: Source) -> Any:
    try:
        text = source.read("JSON").decode("utf-8-sig")
        return json.loads(text, parse_int=float, object_pairs_hook=_distinct(source))
    except UnicodeDecodeError as error:
        raise bad_input(f"{source}, byte {error.start + 1}", "", "text in UTF-8", "bytes of no character") from error
    except json.JSONDecodeError as error:
        where = f"{source}, line {error.lineno}, column {error.colno}"
        raise bad_input(where, "", "valid JSON", f"the fault {error.msg!r}") from error


def _distinct(source: Source) -> Callable[[list[tuple[str, object]]], dict[str, object]]:
    def collect(pairs: list[tuple[str, object]]) -> dict[str, object]:
        collected: dict[str, object] = {}
        for item, value in pairs:
            if item in collected:
                raise bad_input(source, "item", "distinct", f"{quoted(item)} a second time")
            collected[item] = value
        return collected

    return collect


def _from_text(text: str) -> np.ndarray:
    try:
        return np.array([number(field) for field in text.split(",")])
    except ValueError as error:
        raise bad_input("reference", "", _FORMS, quoted(text)) from error


def _one_of(items: Iterable[str]) -> str:
    return f"an item of the game: {listed(list(items))}"


def _in_order(source: Source, given: dict[str, float], items: Iterable[str]) -> np.ndarray:
    missing = [item for item in items if item not in given]
    if missing:
        advice = "A probability of 0 excludes an item."
        raise bad_input(source, "", "must contain a probability for each item", f"none for {listed(missing)}", advice)
    return np.array([float(given[item]) for item in items])


def _check_values(where: str, reference: np.ndarray, items: tuple[str, ...]) -> None:
    bad = ~(np.isfinite(reference) & (reference >= 0))
    if bad.any():
        index = first_index(bad)
        raise _bad_at(where, index, items[index[-1]], _PROBABILITY, str(reference[index]))
    sums = reference.sum(axis=-1)
    wrong = np.abs(sums - 1) > SUM_TOLERANCE
    if wrong.any():
        index = first_index(wrong)
        found = "only zeros" if sums[index] == 0 else f"a sum of {sums[index]:.9g}"
        raise _bad_at(where, index, None, f"probabilities that sum to 1 within {SUM_TOLERANCE:g}", found)


def _bad_at(where: str, index: tuple[int, ...], item: str | None, requirement: str, got: str) -> BadInput:
    place = f"{where}, entry {list(index)}" if index else where
    return bad_input(place if item is None else f"{place} ({visible(item)})", "", requirement, got)
