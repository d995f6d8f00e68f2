"""Reading a reference policy: a probability for each item."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from nashjax.arguments import SUM_TOLERANCE, first_index
from nashjax.files.arrays import read_vector_array
from nashjax.files.errors import BadInput, bad_input, listed, number, quoted, unreadable, visible
from nashjax.files.tables import open_table
from nashjax.files.write import harmless

_FORMS = ".csv (item,probability), .json ({item: probability}), .npy, or numbers with commas between"


def read_reference(source: str | Path, items: tuple[str, ...], batch_shape: tuple[int, ...] = ()) -> np.ndarray:
    """Read a reference policy for games with these items.

    Args:
      source: a file, `.csv` with rows `item,probability`, `.json` with an object `{item: probability}` (in both forms
        also the answer to one game that `nashjax solve` writes) or `.npy` with an array `[..., n]`; or the `n` numbers
        themselves, in the order of the items, with commas between.
      items: the names of the `n` items; a file that names them may do so in any order.
      batch_shape: of the games.

    Returns:
      Probabilities, float64 `[n]` or `[..., n]`; zeros exclude items.

    Raises:
      BadInput: the source cannot be used; the message names the place, what was found and what is allowed.
    """
    match Path(source).suffix.lower():
        case ".csv":
            reference = _from_csv(Path(source), items)
        case ".json":
            reference = _from_json(Path(source), items)
        case ".npy":
            reference = read_vector_array(Path(source))
        case _:
            reference = _from_text(str(source))
    where = f"reference {source}"
    if reference.ndim == 0 or reference.shape[-1] != len(items):
        raise bad_input(where, f"shape {list(reference.shape)}", f"is a probability for each of {len(items)} items")
    _check_values(where, reference, items)
    try:
        np.broadcast_shapes(reference.shape[:-1], batch_shape)
    except ValueError:
        raise bad_input(
            where,
            f"batch shape {list(reference.shape[:-1])} for games of batch shape {list(batch_shape)}",
            "are shapes that numpy broadcasts",
        ) from None
    return reference


def _from_csv(path: Path, items: tuple[str, ...]) -> np.ndarray:
    given: dict[str, float] = {}
    known = {harmless(item): item for item in items} | {item: item for item in items}  # also as answers are written
    with open_table(path) as table:
        table.first_record()
        at_item, at_probability = table.positions(["item", "probability"])
        for record in table.records:
            if not record:
                continue
            table.check_width(record)
            item = known.get(record[at_item].strip(), record[at_item].strip())
            if item in given:
                raise bad_input(table.line("item"), f"{quoted(item)} a second time", "are distinct names")
            if item not in items:
                raise bad_input(table.line("item"), quoted(item), f"are the items of the game: {listed(list(items))}")
            try:
                given[item] = number(record[at_probability])
            except ValueError:
                raise bad_input(
                    table.line("probability"), quoted(record[at_probability]), "are probabilities >= 0"
                ) from None
    return _in_order(path, given, items)


def _of_answer(path: Path, items: object, policy: object) -> dict[str, Any]:
    if not (isinstance(items, list) and isinstance(policy, list) and len(items) == len(policy)):
        raise bad_input(path, "an answer for several games or betas", "are answers for one")
    return dict(zip(map(str, items), policy, strict=True))


def _from_json(path: Path, items: tuple[str, ...]) -> np.ndarray:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        content = json.loads(text, parse_int=float, object_pairs_hook=_distinct(path))
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError as error:
        raise bad_input(f"{path}, byte {error.start + 1}", "bytes that are not text", "is text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise bad_input(f"{path}, line {error.lineno}, column {error.colno}", error.msg, "is valid JSON") from None
    except RecursionError:
        raise bad_input(path, "objects within objects", "is {item: probability}") from None
    if not isinstance(content, dict):
        raise bad_input(path, f"a {type(content).__name__}", "is an object {item: probability}")
    if {"items", "policy"} <= content.keys() - set(items):  # an answer of `nashjax solve`
        content = _of_answer(path, content["items"], content["policy"])
    for item, value in content.items():
        if item not in items:
            raise bad_input(path, f"item {quoted(item)}", f"are the items of the game: {listed(list(items))}")
        if not isinstance(value, float):
            raise bad_input(f"{path}, item {item}", quoted(str(value)), "are probabilities >= 0")
    return _in_order(path, content, items)


def _distinct(path: Path) -> Callable[[list[tuple[str, object]]], dict[str, object]]:
    def collect(pairs: list[tuple[str, object]]) -> dict[str, object]:
        collected: dict[str, object] = {}
        for item, value in pairs:
            if item in collected:
                raise bad_input(path, f"item {quoted(item)} a second time", "are distinct names")
            collected[item] = value
        return collected

    return collect


def _from_text(text: str) -> np.ndarray:
    try:
        return np.array([number(field) for field in text.split(",")])
    except ValueError:
        raise bad_input("reference", quoted(text), f"are {_FORMS}") from None


def _in_order(path: Path, given: dict[str, float], items: Iterable[str]) -> np.ndarray:
    missing = [item for item in items if item not in given]
    if missing:
        raise bad_input(path, f"no probability for {listed(missing)}", "is one for each item; 0 excludes an item")
    return np.array([float(given[item]) for item in items])


def _check_values(where: str, reference: np.ndarray, items: tuple[str, ...]) -> None:
    bad = ~(np.isfinite(reference) & (reference >= 0))
    if bad.any():
        index = first_index(bad)
        raise _bad_at(where, index, items[index[-1]], str(reference[index]), "are probabilities >= 0")
    sums = reference.sum(axis=-1)
    wrong = np.abs(sums - 1) > SUM_TOLERANCE
    if wrong.any():
        index = first_index(wrong)
        found = "only zeros" if sums[index] == 0 else f"a sum of {sums[index]:.9g}"
        raise _bad_at(where, index, None, found, f"are probabilities that sum to 1 within {SUM_TOLERANCE:g}")


def _bad_at(where: str, index: tuple[int, ...], item: str | None, found: str, allowed: str) -> BadInput:
    place = f"{where}, entry {list(index)}" if index else where
    return bad_input(place if item is None else f"{place} ({visible(item)})", found, allowed)
