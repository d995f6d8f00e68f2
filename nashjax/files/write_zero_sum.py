"""Writing solved zero-sum games: JSON, CSV or numpy arrays, whole or not at all."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nashjax.files.write import GamesByBeta, harmless, json_object, with_nulls, write_whole

PLAYERS = ("row", "column")


@dataclasses.dataclass(frozen=True)
class ZeroSumAnswer(GamesByBeta):
    """Solved zero-sum games as plain arrays; `axes` are `[betas]` if there are several, and then those of the games.

    Attributes:
      actions: names of the actions of the row player and of the column player.
      several_betas: whether the first axis is that of beta.
      beta: float64 `[*axes]`.
      policies: probabilities of both players, `[*axes, n1]` and `[*axes, n2]`.
      payoffs: what each action earns against the other player, of the same shapes.
      value: what the row player gets, `[*axes]`.
      exploitability: duality gap, `[*axes]`, in payoffs.
      kl_bound: `[*axes]`, in nats; inf at beta = 0.
      queries: int `[*axes]`.
      status: names such as `CONVERGED`, `[*axes]`.
    """

    actions: tuple[tuple[str, ...], tuple[str, ...]]
    several_betas: bool
    beta: np.ndarray
    policies: tuple[np.ndarray, np.ndarray]
    payoffs: tuple[np.ndarray, np.ndarray]
    value: np.ndarray
    exploitability: np.ndarray
    kl_bound: np.ndarray
    queries: np.ndarray
    status: np.ndarray

    def arrays(self) -> dict[str, Any]:
        """Return everything by name, as it is written."""
        found: dict[str, Any] = {f"{name}s": list(self.actions[g]) for g, name in enumerate(PLAYERS)}
        found["beta"] = self.beta
        for g, name in enumerate(PLAYERS):
            found[f"{name}_policy"], found[f"{name}_payoffs"] = self.policies[g], self.payoffs[g]
        for name in ("value", "exploitability", "kl_bound", "queries", "status"):
            found[name] = vars(self)[name]
        return found


def write_zero_sum_answer(path: Path, answer: ZeroSumAnswer) -> None:
    """Write to a `.json`, `.csv` or `.npz` file, which appears whole or not at all.

    Raises:
      BadInput: the file cannot be written.
    """
    write_whole(path, _WRITERS[path.suffix.lower()](answer))


def _as_json(answer: ZeroSumAnswer) -> bytes:
    fields = answer.arrays()
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            fields[name] = with_nulls(value.tolist()) if value.dtype.kind == "f" else value.tolist()
    return json_object(fields)


def _as_csv(answer: ZeroSumAnswer) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    header = ["beta", "player", "action", "probability", "payoff", "value", "exploitability", "kl_bound", "queries"]
    writer.writerow([*(["game"] if answer.is_batch else []), *header, "status"])
    for index in np.ndindex(answer.beta.shape):
        first = [answer.game_name(index)] if answer.is_batch else []
        numbers = (answer.value, answer.exploitability, answer.kl_bound, answer.queries, answer.status)
        last = [values[index].item() for values in numbers]
        for g, player in enumerate(PLAYERS):
            rows = zip(
                map(harmless, answer.actions[g]),
                answer.policies[g][index].tolist(),
                answer.payoffs[g][index].tolist(),
                strict=True,
            )
            writer.writerows([*first, float(answer.beta[index]), player, *row, *last] for row in rows)
    return stream.getvalue().encode()


def _as_npz(answer: ZeroSumAnswer) -> bytes:
    stream = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in answer.arrays().items()}
    np.savez(stream, **arrays)
    return stream.getvalue()


_WRITERS: dict[str, Callable[[ZeroSumAnswer], bytes]] = {".json": _as_json, ".csv": _as_csv, ".npz": _as_npz}
