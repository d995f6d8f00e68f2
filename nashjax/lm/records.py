"""What a fine-tuning reports on its way, and the file that keeps it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nashjax._validation import invalid
from nashjax.files.errors import bad_input, quoted
from nashjax.files.source import Source
from nashjax.files.write import whole_file
from nashjax.stochastic.records import interval


class Rate(NamedTuple):
    """How often one policy was preferred over another, with a 95 % interval.

    Attributes:
      mean: in [0, 1].
      low: lower end.
      high: upper end.
    """

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, outcomes: np.ndarray) -> Rate:
        """Of answers `[prompts, ...]`; those to one prompt are not independent, so the interval is over prompts."""
        values = np.asarray(outcomes, np.float64).reshape(len(outcomes), -1).mean(axis=1)
        low, high = interval(values.mean(), values.var(), len(values))
        return cls(float(values.mean()), float(low), float(high))


class Record(NamedTuple):
    """Where a fine-tuning stands. Means over the steps since the last record unless said otherwise.

    Attributes:
      step: steps made.
      judge_calls: comparisons so far, those of two equal texts among them and those of evaluations.
      win_rate: how often the policy was preferred over its opponent in the method.
      kl: `log p/r` of its answers, an estimate of `KL(policy || reference)` in nats.
      entropy: `-log p` of its answers, an estimate of its entropy in nats.
      answer_length: tokens of an answer, the stop token among them.
      gradient_norm: of the gradient.
      tokens_per_second: of answers drawn, everything counted.
      reference_win_rate: a `Rate` on held-out prompts, against the reference; None without such prompts.
      target_win_rate: the same against the proximal centre, a moving average or an earlier state of the policy; None
        where the method has none.
      samples: some answers to held-out prompts, pairs of prompt and answer.
    """

    step: int
    judge_calls: int
    win_rate: float
    kl: float
    entropy: float
    answer_length: float
    gradient_norm: float
    tokens_per_second: float
    reference_win_rate: Rate | None
    target_win_rate: Rate | None
    samples: tuple[tuple[str, str], ...]

    def as_json(self) -> str:
        """One line of JSON."""
        fields = self._asdict()
        for name in ("reference_win_rate", "target_win_rate"):
            rate = fields[name]
            fields[name] = None if rate is None else rate._asdict()
        return json.dumps(fields, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """A record from its line.

        Raises:
          ValueError: it is none.
        """
        try:
            fields: dict[str, Any] = json.loads(line)
            for name in ("reference_win_rate", "target_win_rate"):
                fields[name] = None if fields[name] is None else Rate(**fields[name])
            fields["samples"] = tuple((prompt, answer) for prompt, answer in fields["samples"])
            record = cls(**fields)
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise invalid("line", "a record of a run", f"{type(error).__name__}: {error}") from error
        record._check_types()
        return record

    def _check_types(self) -> None:
        """Raise ValueError for a field that JSON holds in another type."""
        rates = [rate for rate in (self.reference_win_rate, self.target_win_rate) if rate is not None]
        numbers = [*self[2:8], *(number for rate in rates for number in rate)]
        texts = [text for sample in self.samples for text in sample]
        good = type(self.step) is type(self.judge_calls) is int and all(type(x) in (int, float) for x in numbers)
        if not good or not all(isinstance(text, str) for text in texts):
            raise invalid("line", "a record of a run", "a field of another type")


class RecordFile:
    """Records as lines of JSON; one that a kill cut off, or that is of later than a checkpoint, is dropped.

    Raises:
      BadInput: a whole line is not a record; it is named.
    """

    def __init__(self, path: Path | None, step: int):
        self._path = path
        self.records: list[Record] = []
        if path is None or not path.exists():
            return
        for number, line in enumerate(Source(path).read("JSON Lines").split(b"\n")[:-1], 1):
            try:
                record = Record.from_json(line.decode("utf-8"))
            except ValueError as error:
                got = quoted(line.decode("utf-8", "replace"))
                raise bad_input(f"{path}, line {number}", "", "a record of this run", got) from error
            if record.step <= step:
                self.records.append(record)
        lines = "".join(record.as_json() + "\n" for record in self.records)
        with whole_file(path) as file:
            file.write(lines.encode())

    def add(self, record: Record) -> None:
        """Add a record."""
        self.records.append(record)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(record.as_json() + "\n")


class Totals(NamedTuple):
    """Sums over the steps since the last record; an array, so that checkpoints can keep it."""

    steps: float = 0.0
    win_rate: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    answer_length: float = 0.0
    gradient_norm: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0

    def add(self, *values: float) -> Totals:
        """With one step more, its values in the order of the fields."""
        return Totals(self.steps + 1, *(total + float(value) for total, value in zip(self[1:], values, strict=True)))

    def record(self, step: int, judge_calls: int, **others: Any) -> Record:
        """The record of these steps."""
        means = [float(f"{total / max(self.steps, 1):.6g}") for total in self[1:6]]
        speed = float(f"{self.tokens / max(self.seconds, 1e-9):.4g}")
        names = ("win_rate", "kl", "entropy", "answer_length", "gradient_norm")
        fields: dict[str, Any] = dict(zip(names, means, strict=True)) | {"tokens_per_second": speed} | others
        return Record(step=step, judge_calls=judge_calls, **fields)
