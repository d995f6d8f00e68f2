"""Arrays of known names and shapes in `.npz` files."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nashjax.files.arrays import Header, read_member
from nashjax.files.errors import bad_input, listed, quoted, shortened
from nashjax.files.source import Source

_HEADER_BYTES = 65_536
"""Limit of the bytes in front of the entries of an array."""
_ADVICE = "Take weights of the same model."


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
    source = Source(path)
    with source.open(".npz") as stream, zipfile.ZipFile(stream) as archive:
        _check_names(source, archive, shapes)
        return {name: _read_array(source, archive, name, shape) for name, shape in shapes.items()}


def _check_names(source: Source, archive: zipfile.ZipFile, shapes: Mapping[str, tuple[int, ...]]) -> None:
    members = archive.namelist()
    found = [name.removesuffix(".npy") for name in members]
    for name in shapes:
        if f"{name}.npy" not in members:
            raise bad_input(source, f"array {shortened(name)}", "in the file", f"arrays {listed(found, 3)}", _ADVICE)
    for index, name in enumerate(members):
        if found[index] not in shapes or found[index] == name:
            raise bad_input(source, f"array {shortened(name)}", "one of the model's", "an array that it does not have")
        if members.index(name) != index:
            raise bad_input(source, f"array {shortened(name)}", "in the file once", "two of this name")


def _read_array(source: Source, archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return one array; what is unpacked is bounded by the size that its shape gives."""
    subject = f"array {shortened(name)}"

    def check(header: Header) -> None:
        if header.dtype.kind not in "fiu" or header.dtype.itemsize > 8:
            got = f"dtype {quoted(str(header.dtype))}"
            raise bad_input(source, subject, "an array of real numbers of at most 8 bytes", got)
        if header.shape != shape:
            got = str(list(header.shape))
            raise bad_input(source, subject, f"of shape {list(shape)}", got, _ADVICE)

    size, most = archive.getinfo(f"{name}.npy").file_size, 8 * math.prod(shape) + _HEADER_BYTES
    if size > most:
        requirement = f"at most {most} bytes long, as an array of shape {list(shape)} is"
        raise bad_input(source, subject, requirement, f"{size} bytes")
    array = read_member(archive, name, str(source), check)
    if not np.isfinite(array).all():
        raise bad_input(source, subject, "finite numbers", "entries that are not finite")
    return array
