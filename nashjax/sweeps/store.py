"""The directory of a sweep: what is in it, written so that a kill at any moment leaves nothing half done."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nashjax._validation import LARGEST_INT
from nashjax.files.errors import BadInput, bad_input, listed, unreadable, visible
from nashjax.files.memory import size
from nashjax.files.settings import first_difference, told
from nashjax.files.source import parsing
from nashjax.sweeps import lock
from nashjax.sweeps.shards import (
    CHECKSUM,
    Damaged,
    Shard,
    checksum_line,
    encode,
    read_regular,
    read_shard,
    shard_name,
    shard_number,
)

FORMAT = 1
"""Of the directory, as its manifest says; raised where an older nashjax could not go on from it."""
MANIFEST, SUMMARY = "manifest.json", "summary.json"
MOST_LEVELS = 20
"""Largest depth of nesting in a JSON file of a sweep; a manifest has 4 levels."""
_PARTIAL = ".partial"
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota of the disk is used up",
         errno.EFBIG: "the file is larger than files may be"}  # fmt: skip


def claim(directory: Path, settings: dict[str, Any]) -> None:
    """Make a directory that of a sweep with these settings, or see that it is; the caller holds its lock.

    What a killed process left half written is removed.

    Raises:
      BadInput: the directory is that of another sweep, of something else, or cannot be written.
    """
    with writing(directory, MANIFEST):
        for name in os.listdir(directory):
            if _is_partial(name):
                (directory / name).unlink()
    if not (directory / MANIFEST).exists():
        content = json.dumps({"format": FORMAT, **settings}, indent=1).encode() + b"\n"
        write_file(directory, MANIFEST, content)
    compare_manifest(directory, settings)


def check_directory(directory: Path) -> None:
    """Make the directory where there is none.

    Raises:
      BadInput: it cannot be made, or holds something else than a sweep.
    """
    with writing(directory, "the directory"):
        if not directory.is_dir():
            directory.mkdir()
        names = set(os.listdir(directory))
    foreign = [name for name in sorted(names) if name != lock.FILE and not _is_partial(name)]
    if MANIFEST not in names and foreign:
        found = f"a directory with {listed(foreign, 3)} and no {MANIFEST}"
        raise bad_input(directory, "", "an empty directory or that of a sweep", found)


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a directory.

    Raises:
      BadInput: it is missing, damaged, or of a format that this version does not know.
    """
    path = directory / MANIFEST
    manifest = _read_json(path)
    if not isinstance(manifest, dict):
        raise bad_input(path, "", "a JSON object", told(manifest))
    for name, (good, requirement) in _REQUIRED.items():
        value = manifest.get(name, ...)
        if not good(value):
            newer = name == "format" and type(value) is int and value > FORMAT
            advice = "A newer nashjax has written it and can read it." if newer else ""
            raise bad_input(path, name, requirement, told(value), advice)
    return manifest


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


_REQUIRED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "format": (lambda x: type(x) is int and 1 <= x <= FORMAT, f"an integer from 1 to {FORMAT}"),
    "source": (
        lambda x: isinstance(x, dict) and x.get("from") in ("random_games", "folder", "iterable"),
        "an object whose 'from' is random_games, folder or iterable",
    ),
    "beta": (_is_number, "a finite number >= 0"),
    "tol": (_is_number, "a finite number >= 0"),
    "chunk_size": (lambda x: x is None or (type(x) is int and 1 <= x <= LARGEST_INT), "null or an integer >= 1"),
    "dtype": (lambda x: x in ("float32", "float64"), "float32 or float64"),
    "versions": (lambda x: isinstance(x, dict), "an object"),
    "devices": (lambda x: isinstance(x, dict), "an object"),
}
"""What the manifest must hold; readers rely on these keys and types."""


def compare_manifest(directory: Path, settings: dict[str, Any]) -> None:
    """Raise BadInput, naming the first difference, unless the directory is that of a sweep with these settings."""
    manifest = read_manifest(directory)
    with parsing(directory / MANIFEST, "JSON"):  # where it nests deeply
        different = first_difference(manifest, json.loads(json.dumps({"format": FORMAT, **settings})))
    if different is not None:
        name, there, here = different
        advice = "Use the settings of the sweep in this directory, or another directory."
        raise bad_input(directory, visible(name), f"{told(there)} as in its {MANIFEST}", told(here), advice)


def find_shards(
    directory: Path, mine: Callable[[int], bool], num_chunks: int | None, dtype: np.dtype
) -> Iterator[tuple[int, Shard | None, str]]:
    """Look at all shards that are there, each checked against its checksum.

    Args:
      directory: that of a sweep.
      mine: whether a number is to be looked at.
      num_chunks: how many there can be, None where nobody knows.
      dtype: that of the sweep.

    Yields:
      The number; the shard, or None where it is damaged; what is wrong with it.

    Raises:
      BadInput: there is one beyond the last.
    """
    for number in sorted(filter(mine, shard_numbers(directory))):
        if num_chunks is not None and number >= num_chunks:
            last = shard_name(num_chunks - 1)
            raise bad_input(directory, "", f"a directory with the shards up to {last}", shard_name(number))
        try:
            yield number, read_shard(directory, number, dtype), ""
        except Damaged as error:
            yield number, None, str(error)


def shard_numbers(directory: Path) -> list[int]:
    """The numbers of all files with the name of a shard; raises BadInput where the directory cannot be read."""
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise unreadable(directory, error) from error
    return sorted(number for number in map(shard_number, names) if number is not None)


def remove_shard(directory: Path, number: int) -> None:
    """Remove a shard and its checksum; raises BadInput where that cannot be done."""
    with writing(directory, shard_name(number)):
        (directory / shard_name(number)).unlink(missing_ok=True)
        (directory / (shard_name(number) + CHECKSUM)).unlink(missing_ok=True)


def write_shard(directory: Path, shard: Shard) -> None:
    """Write a shard and, before it, its checksum: it counts once both are there.

    Raises:
      BadInput: the disk is full, or they cannot be written for another reason; nothing half written is left.
    """
    name, content = shard_name(shard.number), encode(shard)
    write_file(directory, name + CHECKSUM, checksum_line(name, content))
    write_file(directory, name, content)


def write_file(directory: Path, name: str, content: bytes) -> None:
    """Write a file that is there as a whole, also after the power fails, or not at all; raises BadInput."""
    beside = directory / f".{name}-{secrets.token_hex(8)}{_PARTIAL}"
    with writing(directory, name, len(content)):
        try:
            with open(beside, "xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(beside, directory / name)
        finally:
            beside.unlink(missing_ok=True)
        # The name, too, has to be on the disk before anything is said to be done.
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_summary(directory: Path) -> dict[str, Any] | None:
    """What the end of the sweep has written; None before, and where it is damaged: it is then written anew."""
    path = directory / SUMMARY
    if not path.exists():
        return None
    try:
        summary = _read_json(path)
    except BadInput:
        return None
    good = isinstance(summary, dict) and all(type(summary.get(name)) is int for name in ("games", "shards"))
    return summary if good else None


def damaged(directory: Path, number: int, error: Damaged) -> BadInput:
    """Return the error for a shard that cannot be used; chain the cause with `from`."""
    advice = "Run the same sweep again to replace it."
    return bad_input(directory / shard_name(number), "", "an undamaged shard", f"one that {error}", advice)


def _is_partial(name: str) -> bool:
    return name.startswith(".") and name.endswith(_PARTIAL)


@contextlib.contextmanager
def writing(directory: Path, name: str, num_bytes: int | None = None) -> Iterator[None]:
    """Say in one line what could not be written, and what it takes to go on."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise bad_input(directory, name, "writable", f"the error {error.strerror or error}") from error
        needed = "" if num_bytes is None else f" of {size(num_bytes)}"
        advice = "Finished files stay: make room and repeat the same call to continue."
        requirement = f"must have room for {name}{needed}"
        raise bad_input(directory, "", requirement, f"the error that {_FULL[error.errno]}", advice) from error


def _read_json(path: Path) -> Any:
    try:
        found = json.loads(read_regular(path))
    except OSError as error:
        raise unreadable(path, error) from error
    except MemoryError as error:
        raise bad_input(path, "", "a file that fits into memory", "a larger file") from error
    except ValueError as error:
        raise bad_input(path, "", "JSON", "a file that cannot be parsed", "It is damaged.") from error
    except RecursionError as error:
        raise _too_deep(path) from error
    level = [found]
    for _ in range(MOST_LEVELS):  # deeper values would exceed Python's recursion limit later
        level = [x for value in level for x in _inner(value)]
    if level:
        raise _too_deep(path)
    return found


def _inner(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _too_deep(path: Path) -> BadInput:
    return bad_input(path, "", f"JSON of at most {MOST_LEVELS} levels", "deeper nesting", "It is damaged.")
