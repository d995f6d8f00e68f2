"""Settings of a fine-tuning, in the folder of its run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nashjax.files.errors import bad_input, quoted, shortened
from nashjax.files.source import Source, parsing

RUN_FILE = "run.json"
LARGEST_RANK, LONGEST_ANSWER = 2**16, 2**24


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_integer(low: int, high: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and low <= value <= high


_SETTINGS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "model": ("a string or null", lambda value: value is None or _is_text(value)),
    "gguf": ("a string or null", lambda value: value is None or _is_text(value)),
    "lora_rank": (f"an integer from 0 to {LARGEST_RANK}", _is_integer(0, LARGEST_RANK)),
    "dtype": ("a string", _is_text),
    "answer_length": (f"an integer from 1 to {LONGEST_ANSWER}", _is_integer(1, LONGEST_ANSWER)),
    "demo": ("true or false", lambda value: isinstance(value, bool)),
    "judge": ("a string", _is_text),
    "judge_model": ("a string or null", lambda value: value is None or _is_text(value)),
}
"""For each setting in the file of a run what it must be, in words and as a check."""


def read_settings(folder: Path, named: str) -> dict[str, Any]:
    """Return the settings of the run in a folder.

    Raises:
      BadInput: there is no run, in which case the message begins with `named`, or its settings are damaged.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        raise bad_input(named, "", "an output folder of nashjax finetune", quoted(str(folder)))
    source = Source(path)
    with parsing(source, "JSON"):
        settings = json.loads(source.read("JSON").decode("utf-8"))
        if not isinstance(settings, dict):
            raise bad_input(source, "", "an object", f"a {type(settings).__name__}")
        if settings.keys() != _SETTINGS.keys():
            different = min(settings.keys() ^ _SETTINGS.keys())
            got = "nothing" if different in _SETTINGS else "another key"
            raise bad_input(source, shortened(different), f"one of the keys {', '.join(_SETTINGS)}", got)
        for name, (requirement, good) in _SETTINGS.items():
            if not good(settings[name]):
                raise bad_input(source, name, requirement, shortened(json.dumps(settings[name])))
    return settings
