"""Arrays of known names and shapes in `.npz` files."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from nashjax.files.errors import BadInput, bad_input, listed, quoted, shortened, unreadable

_HEADER_BYTES = 65_536
"""Limit of the bytes in front of the entries of an array."""
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_arrays(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Read the arrays of a `.npz` file, which must have these names and shapes and hold finite real numbers.

    No more memory is allocated than arrays of these shapes need: the names, sizes and headers in the file are checked
    first.

    Args:
      path: the file.
      shapes: the shape of each array by its name.

    Raises:
      BadInput: the file cannot be read or holds other arrays; the first difference is named.
    """
    with _parsing(path, "", "a .npz file as numpy.savez writes it"):
        if not os.path.isfile(path):
            os.stat(path)
            raise bad_input(path, "", "a regular .npz file", "a directory, a pipe or a device")
        with warnings.catch_warnings(), open(path, "rb") as stream, zipfile.ZipFile(stream) as archive:
            warnings.simplefilter("ignore")  # numpy warns of headers as Python 2 wrote them
            _check_names(path, archive, shapes)
            return {name: _read_member(path, archive, name, shape) for name, shape in shapes.items()}


@contextlib.contextmanager
def _parsing(path: str | Path, subject: str, requirement: str) -> Iterator[None]:
    """Turn whatever zipfile, its decompressors and numpy raise on a damaged file into `BadInput`."""
    try:
        yield
    except BadInput:
        raise
    except (FileNotFoundError, PermissionError) as error:
        raise unreadable(path, error) from error
    except Exception as error:
        got = f"{type(error).__name__}: {shortened(str(error), 200)}" if str(error) else type(error).__name__
        raise bad_input(path, subject, requirement, got) from error


def _check_names(path: str | Path, archive: zipfile.ZipFile, shapes: Mapping[str, tuple[int, ...]]) -> None:
    members = archive.namelist()
    found = [name.removesuffix(".npy") for name in members]
    for name in shapes:
        if f"{name}.npy" not in members:
            raise bad_input(path, f"array {shortened(name)}", "in the file", f"arrays {listed(found, 3)}")
    for index, name in enumerate(members):
        if found[index] not in shapes or found[index] == name:
            raise bad_input(path, f"array {shortened(name)}", "one of the model's", "an array that it does not have")
        if members.index(name) != index:
            raise bad_input(path, f"array {shortened(name)}", "in the file once", "two of this name")


def _read_member(path: str | Path, archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return one array; what is read is bounded by the size that its shape gives."""
    subject = f"array {shortened(name)}"
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # LZMA takes as much memory as it says
        raise bad_input(path, subject, "stored or deflated, as numpy does", f"compression method {info.compress_type}")
    most = 8 * math.prod(shape) + _HEADER_BYTES
    if info.file_size > most:
        requirement = f"at most {most} bytes long, as an array of shape {list(shape)} is"
        raise bad_input(path, subject, requirement, f"{info.file_size} bytes")
    with _parsing(path, subject, "an array as numpy.save writes it"), archive.open(info) as stream:
        found, dtype = _read_header(stream)
        if dtype.kind not in "fiu" or dtype.itemsize > 8:
            raise bad_input(path, subject, "an array of real numbers of at most 8 bytes", f"dtype {quoted(str(dtype))}")
        if found != shape:
            raise bad_input(path, subject, f"of shape {list(shape)}", f"{list(found)}", "Take weights of this model.")
        if info.file_size != stream.tell() + math.prod(shape) * dtype.itemsize:
            raise bad_input(path, subject, "as long as its shape says", f"{info.file_size} bytes")
        stream.seek(0)
        array = np.lib.format.read_array(stream, allow_pickle=False)
    if not np.isfinite(array).all():
        raise bad_input(path, subject, "finite numbers", "entries that are not finite")
    return array


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    shape, _, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
    return tuple(int(size) for size in shape), dtype
