"""Games in numpy's array files."""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from nashjax.files.errors import BadInput, bad_input, listed, unreadable, visible
from nashjax.files.memory import check_game_memory, check_memory

SHAPE_ALLOWED = "are square matrices [..., n, n] with n >= 2"

_LONGEST_NAME = 10_000

# What numpy and zipfile raise on files that are cut short, damaged, encrypted or packed in an unknown way.
_DAMAGE = (ValueError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_game_array(path: Path) -> tuple[list[str] | None, np.ndarray]:
    """Read preferences `[..., n, n]` from a `.npy` file, or from a `.npz` file with its item names.

    In a `.npz` file the array is `preferences`, or else the only one; names may stand beside it as `items`.

    Returns:
      The names, None where the file has none, and the preferences as float64; values are not checked here.

    Raises:
      BadInput: the file is damaged, too large for the memory, or its array is not numeric or not `[..., n, n]`.
    """
    try:
        with open(path, "rb") as stream:
            packed = stream.read(2) == b"PK"
            stream.seek(0)
            return _read_npz(stream, path) if packed else (None, _read_preferences(stream, str(path), path))
    except OSError as error:
        raise unreadable(path, error) from None


def describe_game_archive(path: Path) -> tuple[tuple[int, ...], int]:
    """Tell the shape `[..., n, n]` of the preferences in a `.npz` file and their CRC-32, reading its headers only.

    Raises:
      BadInput: as `read_game_array`, for what the headers show; or the file is no `.npz` file.
    """
    try:
        with open(path, "rb") as stream:
            if stream.read(2) != b"PK":
                raise bad_input(path, "no zip archive", "are .npz files written by numpy.savez")
            with _damage_reported(str(path)), zipfile.ZipFile(stream) as archive:
                name, _ = _preferences_in(archive, path)
                with archive.open(f"{name}.npy") as member:
                    shape = _read_preferences_header(member, f"{path}, array {name}", path)
                return shape, archive.getinfo(f"{name}.npy").CRC
    except OSError as error:
        raise unreadable(path, error) from None


def read_vector_array(path: Path) -> np.ndarray:
    """Read numbers of any shape from a `.npy` file as float64; raises BadInput."""
    try:
        with open(path, "rb") as stream:
            shape, dtype = _read_header(stream, str(path))
            _check_numeric(dtype, str(path))
            check_memory(path, f"shape {list(shape)}", 2 * 8 * math.prod(shape))
            return _read_data(stream, str(path)).astype(np.float64)
    except OSError as error:
        raise unreadable(path, error) from None


def _read_npz(stream: IO[bytes], path: Path) -> tuple[list[str] | None, np.ndarray]:
    with _damage_reported(str(path)), zipfile.ZipFile(stream) as archive:
        name, names = _preferences_in(archive, path)
        with archive.open(f"{name}.npy") as member:
            preferences = _read_preferences(member, f"{path}, array {name}", path)
        if "items" not in names:
            return None, preferences
        with archive.open("items.npy") as member:
            return _read_items(member, f"{path}, array items", preferences.shape[-1]), preferences


def _preferences_in(archive: zipfile.ZipFile, path: Path) -> tuple[str, list[str]]:
    """The name of the array of preferences, and those of all arrays."""
    names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    games = [name for name in names if name != "items"]
    if "preferences" in games:
        return "preferences", names
    if len(games) == 1:
        return games[0], names
    raise bad_input(path, f"arrays {listed(names)}" if names else "no array", "is one named 'preferences'")


def _read_preferences(stream: IO[bytes], where: str, path: Path) -> np.ndarray:
    _read_preferences_header(stream, where, path)
    return _read_data(stream, where).astype(np.float64, copy=False)


def _read_preferences_header(stream: IO[bytes], where: str, path: Path) -> tuple[int, ...]:
    """The shape of preferences that can be read into memory."""
    shape, dtype = _read_header(stream, where)
    _check_numeric(dtype, where)
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] < 2 or math.prod(shape) == 0:
        raise bad_input(where, f"shape {list(shape)}", SHAPE_ALLOWED)
    check_game_memory(path, shape[-1], math.prod(shape[:-2]))
    return shape


def _read_items(stream: IO[bytes], where: str, num_items: int) -> list[str]:
    shape, dtype = _read_header(stream, where)
    if shape != (num_items,):
        raise bad_input(where, f"shape {list(shape)}", f"is [{num_items}], a name for each item")
    if dtype.kind not in "Uiu" or dtype.itemsize > _LONGEST_NAME * 4:
        raise bad_input(where, f"dtype {dtype}", f"are integers and text of at most {_LONGEST_NAME} characters")
    return [str(name) for name in _read_data(stream, where).tolist()]


def _read_header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], np.dtype]:
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read(stream)
        if min(shape, default=0) < 0:
            raise ValueError("negative shape")
    except (OSError, zipfile.BadZipFile, zlib.error):
        raise
    except Exception:  # the header is parsed as Python: a damaged one can raise anything
        raise bad_input(where, "no readable header of a numpy array", "are arrays written by numpy.save") from None
    # Names that are not text would need pickles, which can run code.
    if dtype.hasobject:
        raise bad_input(where, "dtype object", "are arrays of numbers")
    return shape, dtype


def _read_data(stream: IO[bytes], where: str) -> np.ndarray:
    stream.seek(0)
    with _damage_reported(where):
        return np.lib.format.read_array(stream, allow_pickle=False)


def _check_numeric(dtype: np.dtype, where: str) -> None:
    if dtype.kind not in "fiub":
        raise bad_input(where, f"dtype {dtype}", "are real numbers")


@contextlib.contextmanager
def _damage_reported(where: str) -> Iterator[None]:
    try:
        yield
    except BadInput:
        raise
    except _DAMAGE as error:
        reason = visible(str(error)).split(". ")[0] or type(error).__name__
        raise BadInput(f"{visible(where)}: is damaged or cut short: {reason}") from None
