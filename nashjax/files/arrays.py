"""Games in numpy's array files."""

from __future__ import annotations

import contextlib
import math
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from nashjax.files.errors import bad_input, listed
from nashjax.files.memory import check_game_memory, check_memory, size
from nashjax.files.source import DEFAULT_LIMIT, Source, parsing
from nashjax.games.matrix import as_exact

SHAPE_ALLOWED = "a square matrix [..., n, n] with n >= 2"

_LONGEST_NAME = 10_000
_MOST_AXES = 32
_LARGEST_RATIO = 1100
"""Deflate packs at most 1032 bytes into one."""
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Header(NamedTuple):
    """Shape and dtype of an array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype


Check = Callable[[Header], None]
"""Raises `BadInput` for an array that is not wanted, before any of it is read."""


def read_game_array(source: str | Path | Source) -> tuple[list[str] | None, np.ndarray]:
    """Read preferences `[..., n, n]` from a `.npy` file, or from a `.npz` file with its item names.

    In a `.npz` file the array is `preferences`, or else the only one; names may stand beside it as `items`.

    Returns:
      The names, None where the file has none, and the preferences as float64; values are not checked here.

    Raises:
      BadInput: the file is damaged, too large for the memory, or its array is not numeric or not `[..., n, n]`.
    """
    source = Source.of(source)
    with source.open("numpy") as stream:
        packed = stream.read(2) == b"PK"
        stream.seek(0)
        if not packed:
            check = _check_preferences(str(source), source)
            return None, _as_preferences(read_array(stream, stream_size(stream), str(source), check))
        with zipfile.ZipFile(stream) as archive:
            name, names = _preferences_in(archive, source)
            check = _check_preferences(f"{source}, array {name}", source)
            preferences = _as_preferences(read_member(archive, name, str(source), check, source.limit))
            return (_read_items(archive, source, preferences.shape[-1]) if "items" in names else None), preferences


def describe_game_archive(source: str | Path | Source) -> tuple[tuple[int, ...], int]:
    """Return the shape `[..., n, n]` of the preferences in a `.npz` file and their CRC-32, reading its headers only.

    Raises:
      BadInput: as `read_game_array`, for what the headers show; or the file is not a `.npz` file.
    """
    source = Source.of(source)
    with source.open(".npz") as stream:
        if stream.read(2) != b"PK":
            raise bad_input(source, "", "a .npz file", "content of another format", "Write it by numpy.savez.")
        with zipfile.ZipFile(stream) as archive:
            name, _ = _preferences_in(archive, source)
            where = f"{source}, array {name}"
            with _open_member(archive, name, where, source.limit) as (member, num_bytes):
                header = read_header(member, num_bytes, where, _check_preferences(where, source))
            return header.shape, archive.getinfo(f"{name}.npy").CRC


def read_vector_array(source: str | Path | Source) -> np.ndarray:
    """Read numbers of any shape from a `.npy` file as float64; raises BadInput."""
    source = Source.of(source)
    where = str(source)

    def check(header: Header) -> None:
        check_numeric(header.dtype, where)
        check_memory(where, f"an array of shape {list(header.shape)}", 2 * 8 * math.prod(header.shape))

    with source.open(".npy") as stream:
        return as_float64(read_array(stream, stream_size(stream), where, check))


def read_member(
    archive: zipfile.ZipFile, name: str, where: str, check: Check, limit: int = DEFAULT_LIMIT
) -> np.ndarray:
    """Read an array of a `.npz` file, as `read_array`; `limit` is the most bytes that it may unpack to."""
    where = f"{where}, array {name}"
    with _open_member(archive, name, where, limit) as (member, num_bytes):
        return read_array(member, num_bytes, where, check)


def read_array(stream: IO[bytes], num_bytes: int, where: str, check: Check) -> np.ndarray:
    """Read an array as `numpy.save` writes it.

    Args:
      stream: at the start of the array; it can seek.
      num_bytes: the length of the stream.
      where: the place, for messages.
      check: called with the `Header` before any entry is read.

    Raises:
      BadInput: the header cannot be read, or promises more entries than the stream has.
    """
    read_header(stream, num_bytes, where, check)
    stream.seek(0)
    with parsing(where, "numpy"), _quiet():
        return np.lib.format.read_array(stream, allow_pickle=False)


def read_header(stream: IO[bytes], num_bytes: int, where: str, check: Check) -> Header:
    """Read the shape and dtype of an array; raises BadInput, also where the stream is too short for its entries."""
    try:
        # The header is parsed as Python, which can warn about what it reads.
        with _quiet():
            shape, _, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
        if not all(type(length) is int and length >= 0 for length in shape) or len(shape) > _MOST_AXES:
            raise ValueError(f"the shape is not a tuple of at most {_MOST_AXES} integers >= 0")
    except (OSError, zipfile.BadZipFile, zlib.error):  # of the archive around it
        raise
    except Exception as error:  # numpy parses headers as Python, which can raise anything
        raise bad_input(where, "", "an array written by numpy.save", "an unreadable header") from error
    # Names that are not text would need pickles, which can run code.
    if dtype.hasobject:
        raise bad_input(where, "dtype", "a number type", "object")
    check(Header(shape, dtype))
    needed, there = math.prod(shape) * dtype.itemsize, num_bytes - stream.tell()
    if needed > there:
        raise bad_input(where, "", f"{needed} bytes long after its header of shape {list(shape)}", str(there))
    return Header(shape, dtype)


def _as_preferences(array: np.ndarray) -> np.ndarray:
    """The array in double precision; in half precision, entries that sum to 1 within its rounding do so."""
    return as_float64(np.asarray(as_exact(array)) if array.dtype.kind == "f" and array.dtype.itemsize < 4 else array)


def as_float64(array: np.ndarray) -> np.ndarray:
    """The array in double precision; what is too large becomes infinite."""
    with np.errstate(all="ignore"):
        return array.astype(np.float64, copy=False)


def stream_size(stream: IO[bytes]) -> int:
    """The length of a stream that can seek, which is left at its start."""
    num_bytes = stream.seek(0, 2)
    stream.seek(0)
    return num_bytes


@contextlib.contextmanager
def _open_member(archive: zipfile.ZipFile, name: str, where: str, limit: int) -> Iterator[tuple[IO[bytes], int]]:
    """A member of an archive and its size, which is checked against that of the archive and the limit."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise bad_input(where, "compression", "none or deflate", f"method {info.compress_type}")
    assert archive.fp is not None
    num_bytes, packed = stream_size(archive.fp), info.compress_type == zipfile.ZIP_DEFLATED
    most = num_bytes * (_LARGEST_RATIO if packed else 1)
    if info.file_size > most:
        raise bad_input(where, "", f"at most {size(most)} long in a file of {size(num_bytes)}", size(info.file_size))
    if packed and info.file_size > max(limit, num_bytes):
        advice = "Use --max-file-size to raise the limit."
        raise bad_input(where, "", f"at most {size(limit)} long", size(info.file_size), advice)
    with archive.open(info) as member:
        yield member, info.file_size


def _preferences_in(archive: zipfile.ZipFile, source: Source) -> tuple[str, list[str]]:
    """The name of the array of preferences, and those of all arrays."""
    names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    games = [name for name in names if name != "items"]
    if "preferences" in games:
        return "preferences", names
    if len(games) == 1:
        return games[0], names
    got = f"arrays {listed(names)}" if names else "no array"
    raise bad_input(source, "", "an archive with an array 'preferences'", got)


def _check_preferences(where: str, source: Source) -> Check:
    """A check of the header of preferences: its dtype and shape, and that they can be solved in the free memory."""

    def check(header: Header) -> None:
        shape = header.shape
        check_numeric(header.dtype, where)
        if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] < 2 or math.prod(shape) == 0:
            raise bad_input(where, "", SHAPE_ALLOWED, f"shape {list(shape)}")
        check_game_memory(source, shape[-1], math.prod(shape[:-2]))

    return check


def _read_items(archive: zipfile.ZipFile, source: Source, num_items: int) -> list[str]:
    where = f"{source}, array items"

    def check(header: Header) -> None:
        shape, dtype = header
        if shape != (num_items,):
            raise bad_input(where, "shape", f"[{num_items}], a name for each item", str(list(shape)))
        if dtype.kind not in "Uiu" or dtype.itemsize > _LONGEST_NAME * 4:
            requirement = f"integers or text of at most {_LONGEST_NAME} characters"
            raise bad_input(where, "", requirement, f"dtype {dtype}")
        check_memory(where, f"names of {dtype}", 3 * num_items * dtype.itemsize)

    names = read_member(archive, "items", str(source), check, source.limit)
    if names.dtype.kind == "U":  # numpy makes texts of any numbers, which then break whatever reads them
        codes = np.frombuffer(names.astype(names.dtype.newbyteorder("=")).tobytes(), np.uint32)
        if codes.size and codes.max() > sys.maxunicode:
            raise bad_input(where, "characters", f"at most U+{sys.maxunicode:X}", f"U+{codes.max():X}")
    return [str(name) for name in names.tolist()]


def check_numeric(dtype: np.dtype, where: str) -> None:
    """Raise BadInput unless a dtype is one of real numbers."""
    if dtype.kind not in "fiub":
        raise bad_input(where, "dtype", "a real number type", str(dtype))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
