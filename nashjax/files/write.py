"""Writing solved games: JSON, CSV or numpy arrays, whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import secrets
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nashjax.files.errors import bad_input, quoted, unwritable

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class GamesByBeta:
    """Base of answers whose `axes` are `[betas]` if there are several, and then those of the games."""

    beta: np.ndarray
    several_betas: bool

    @property
    def is_batch(self) -> bool:
        """Whether there are several games, not only several betas."""
        return self.beta.ndim > self.several_betas

    def game_name(self, index: tuple[int, ...]) -> str:
        """Return the name of the game at an index into `axes`: its own index, such as `4` or `1,4`."""
        return ",".join(map(str, index[self.several_betas :]))


@dataclasses.dataclass(frozen=True)
class Answer(GamesByBeta):
    """Solved games as plain arrays; `axes` are `[betas]` where there are several, and then those of the games.

    Attributes:
      items: the names of the `n` items.
      several_betas: whether the first axis is that of beta.
      beta: float64 `[*axes]`.
      policy: the mixtures, `[*axes, n]`.
      payoffs: of each item against the mixture, `P p`, `[*axes, n]`.
      mean_win_rate: of each item over all others, `[*axes, n]`.
      comparisons: of each item, `[n]`, or None where nothing was counted.
      exploitability: `[*axes]`.
      kl_bound: `[*axes]`; inf at beta = 0.
      queries: int `[*axes]`.
      status: names such as `CONVERGED`, `[*axes]`.
    """

    items: tuple[str, ...]
    several_betas: bool
    beta: np.ndarray
    policy: np.ndarray
    payoffs: np.ndarray
    mean_win_rate: np.ndarray
    comparisons: np.ndarray | None
    exploitability: np.ndarray
    kl_bound: np.ndarray
    queries: np.ndarray
    status: np.ndarray


def check_output(path: Path, *sources: Path, suffixes: Collection[str] = (".json", ".csv", ".npz")) -> None:
    """Raise BadInput if nothing could be written to `path`; `sources`, which are read, are not overwritten."""
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise bad_input(path, "suffix", f"one of {', '.join(suffixes)}", quoted(suffix))
    if path.is_dir():
        raise bad_input(path, "", "a file to write", "a directory")
    for source in sources:
        if path.exists() and source.exists() and path.samefile(source):
            raise bad_input(path, "", "another file than the input", "the input itself")
    folder = path.parent
    if not folder.is_dir():
        got = f"{'the file ' if folder.exists() else ''}{quoted(str(folder))}"
        raise bad_input(path, "", "in a directory that exists", got)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise bad_input(path, "", "in a writable directory", quoted(str(folder)))


def write_answer(path: Path, answer: Answer) -> None:
    """Write to a `.json`, `.csv` or `.npz` file, which appears whole or not at all.

    Raises:
      BadInput: the file cannot be written.
    """
    write_whole(path, _WRITERS[path.suffix.lower()](answer))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all; raises BadInput where it cannot be written."""
    try:
        with whole_file(path) as stream:
            stream.write(content)
    except OSError as error:
        raise unwritable(path, error) from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes its place once all is written; raises OSError where it cannot."""
    target = Path(os.path.realpath(path))
    beside = target.with_name(f".nashjax-{secrets.token_hex(8)}.partial")
    try:
        with open(beside, "xb") as stream:
            yield stream
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def harmless(name: str) -> str:
    """A name that no spreadsheet takes for a formula: one that begins like one gets an apostrophe in front."""
    return f"'{name}" if name.startswith(_FORMULA) else name


def _as_json(answer: Answer) -> bytes:
    fields = {
        "items": list(answer.items),
        "beta": answer.beta.tolist(),
        "policy": with_nulls(answer.policy.tolist()),
        "payoffs": with_nulls(answer.payoffs.tolist()),
        "mean_win_rate": answer.mean_win_rate.tolist(),
        "comparisons": None if answer.comparisons is None else answer.comparisons.tolist(),
        "exploitability": with_nulls(answer.exploitability.tolist()),
        "kl_bound": with_nulls(answer.kl_bound.tolist()),
        "queries": answer.queries.tolist(),
        "status": answer.status.tolist(),
    }
    return json_object(fields)


def json_object(fields: dict[str, object]) -> bytes:
    """Return an object in JSON, a line for each field."""
    lines = (f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in fields.items())
    return ("{\n " + ",\n ".join(lines) + "\n}\n").encode()


def with_nulls(value: object) -> object:
    """The nested lists with None for every number that JSON does not have."""
    if isinstance(value, list):
        return [with_nulls(entry) for entry in value]
    return value if isinstance(value, float) and math.isfinite(value) else None


def _as_csv(answer: Answer) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    header = ["beta", "item", "probability", "payoff", "mean_win_rate", "comparisons"]
    # What is true of the whole game stands in each of its rows.
    header += ["exploitability", "kl_bound", "queries", "status"]
    writer.writerow(["game", *header] if answer.is_batch else header)
    comparisons = [""] * len(answer.items) if answer.comparisons is None else answer.comparisons.tolist()
    for index in np.ndindex(answer.beta.shape):
        game = [answer.game_name(index)] if answer.is_batch else []
        beta = float(answer.beta[index])
        rows = zip(
            map(harmless, answer.items),
            answer.policy[index].tolist(),
            answer.payoffs[index].tolist(),
            answer.mean_win_rate[index].tolist(),
            comparisons,
            strict=True,
        )
        numbers = (answer.exploitability, answer.kl_bound, answer.queries, answer.status)
        ending = [values[index].item() for values in numbers]
        writer.writerows([*game, beta, *row, *ending] for row in rows)
    return stream.getvalue().encode()


def _as_npz(answer: Answer) -> bytes:
    arrays: dict[str, Any] = {name: value for name, value in vars(answer).items() if value is not None}
    arrays["items"] = np.array(answer.items)
    del arrays["several_betas"]
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


_WRITERS: dict[str, Callable[[Answer], bytes]] = {".json": _as_json, ".csv": _as_csv, ".npz": _as_npz}
