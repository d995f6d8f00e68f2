"""Header of a GGUF file: every number is checked against the size of the file before it is used.

The reader of the package `gguf` believes lengths, offsets and types, so that a damaged file of a few bytes makes it run
for hours or allocate gigabytes. Only its tables of types and its dequantization are used here.
"""

from __future__ import annotations

import dataclasses
import math
import os
import stat
import struct
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from nashjax._validation import shown
from nashjax.files.errors import bad_input, quoted, shortened, unreadable

MOST_KEYS = 2**16
"""Limit of the keys of a file, and of its tensors."""
MOST_ENTRIES = 2**20
"""Limit of the strings in all arrays of a header together; large vocabularies have 300,000 tokens, 600,000 merges."""
MOST_NESTED = 2**16
"""Limit of the arrays inside of arrays, all together; published files have none."""
MOST_TEXT = 2**25
"""Limit of the bytes of all strings of a header together; large vocabularies have some 10 MB."""
MOST_NAME = 2**16 - 1
"""Limit of the bytes in the name of a key or tensor, from the definition of the format."""
MOST_DEPTH = 4
"""Limit of arrays inside of arrays."""
MOST_DIMENSIONS = 4
"""Limit of the dimensions of a tensor, from the definition of the format."""

_SCALARS = {
    kind: np.dtype(code)
    for kind, code in enumerate(["u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "u1", None, None, "<u8", "<i8", "<f8"])
    if code is not None
}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_LEAST_BYTES = {_STRING: 8, _ARRAY: 12} | {kind: dtype.itemsize for kind, dtype in _SCALARS.items()}
_ENTRY_BYTES = 13
"""Least bytes of a key with its value, less than those of a tensor's entry."""


@dataclasses.dataclass(frozen=True)
class TensorEntry:
    """Place of a tensor in the file.

    Attributes:
      shape: rows first, as in numpy.
      kind: a `gguf.GGMLQuantizationType`.
      start: first byte in the file.
      size: number of bytes.
    """

    shape: tuple[int, ...]
    kind: Any
    start: int
    size: int


class GGUFHeader:
    """Keys and tensors of a GGUF file.

    Args:
      path: a regular file in the GGUF format, version 2 or 3, little-endian.

    Attributes:
      path: the file.
      fields: value of each key: a Python number, bool or string, an array of numbers, or a list.
      tensors: place of each tensor; the places lie in the file and do not overlap.

    Raises:
      BadInput: a number of the header does not fit the file or the other numbers; the message names the key or tensor.
    """

    def __init__(self, path: str | Path):
        self.path = path
        self._data = _mapped(path)
        cursor = _Cursor(path, self._data)
        num_tensors, num_keys = _counts(cursor)
        self.fields: dict[str, Any] = {}
        for _ in range(num_keys):
            name = cursor.name("key", self.fields)
            self.fields[name] = cursor.value(shortened(name), cursor.number("<I", shortened(name)))
        alignment = self.integer("general.alignment", 1, 2**31, default=32)
        if alignment & (alignment - 1):
            raise self.fault("general.alignment", "a power of two", str(alignment))
        entries: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(num_tensors):
            name = cursor.name("tensor", entries)
            entries[name] = _tensor_entry(cursor, f"tensor {shortened(name)}")
        start = -(-cursor.at // alignment) * alignment
        self.tensors = {name: self._place(name, *entry, start, alignment) for name, entry in entries.items()}
        self._check_overlap()

    def fault(self, subject: str, requirement: str, got: str, advice: str = "") -> Exception:
        """Return the `BadInput` for a part of this file."""
        return bad_input(self.path, shortened(subject, 200), requirement, got, advice)

    def integer(self, key: str, least: int, most: int, *, default: int | None = None) -> int:
        """Return an integer from `least` to `most`; a missing key has the default, or raises `BadInput`."""
        value = self.fields.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self._refuse(key, f"an integer from {least} to {most}")
        return value

    def number(
        self, key: str, least: float, most: float, *, default: float | None = None, above: bool = False
    ) -> float:
        """Return a number from `least` to `most`, and not `least` itself if `above` is true."""
        value = self.fields.get(key, default)
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most
        if not good or (above and value == least):
            self._refuse(key, f"a number {'>' if above else '>='} {least:g} and <= {most:g}")
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """Return a bool."""
        if not isinstance(self.fields.get(key, default), bool):
            self._refuse(key, "a bool")
        return self.fields.get(key, default)

    def text(self, key: str, *, default: str | None = None) -> str:
        """Return a string."""
        value = self.fields.get(key, default)
        if not isinstance(value, str):
            self._refuse(key, "a string")
        return value

    def texts(self, key: str) -> list[str]:
        """Return a list of strings."""
        value = self.fields.get(key)
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            self._refuse(key, "an array of strings")
        return value

    def integers(self, key: str, length: int) -> list[int]:
        """Return so many integers."""
        value = self.fields.get(key)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu" or len(value) != length:
            self._refuse(key, f"an array of {length} integers")
        return value.tolist()

    def weights(self, name: str) -> np.ndarray:
        """Return a tensor, dequantized, float32."""
        import gguf

        entry = self.tensors[name]
        data = self._data[entry.start : entry.start + entry.size].reshape(*entry.shape[:-1], -1)
        try:
            with np.errstate(all="ignore"):  # what is not finite is refused
                found = np.asarray(gguf.dequantize(data, entry.kind), np.float32)
        except (NotImplementedError, ValueError) as error:
            raise self.fault(f"tensor {name}", "of a type that can be dequantized", entry.kind.name) from error
        if not np.isfinite(found).all():
            raise self.fault(f"tensor {name}", "finite numbers", "entries that are not finite")
        return found

    def _refuse(self, key: str, requirement: str) -> NoReturn:
        value = self.fields.get(key)
        kind = f"an array of {len(value)} entries" if isinstance(value, (list, np.ndarray)) else shown(value)
        raise self.fault(key, requirement, "no such key" if value is None else kind)

    def _place(
        self, name: str, shape: tuple[int, ...], number: int, offset: int, start: int, alignment: int
    ) -> TensorEntry:
        """Return the place of a tensor, which lies in the file."""
        import gguf

        subject, most = f"tensor {name}", len(self._data) - start
        try:
            kind = gguf.GGMLQuantizationType(number)
            block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError) as error:
            raise self.fault(subject, "of a known type", f"type {number}") from error
        if shape[-1] % block:
            raise self.fault(subject, f"of rows in blocks of {block}, as type {kind.name} has", f"rows of {shape[-1]}")
        if offset % alignment:
            raise self.fault(subject, f"at an offset that is a multiple of {alignment}", f"{offset}")
        size = math.prod(shape) // block * block_bytes
        if offset + size > most:
            requirement = f"inside of the {max(most, 0)} bytes of data that the file has"
            raise self.fault(subject, requirement, f"shape {list(shape)}, {size} bytes at offset {offset}")
        return TensorEntry(shape, kind, start + offset, size)

    def _check_overlap(self) -> None:
        """Raise BadInput if two tensors share bytes: a small file could stand for large weights."""
        end, before = 0, ""
        for name, entry in sorted(self.tensors.items(), key=lambda item: item[1].start):
            if entry.start < end:
                raise self.fault(f"tensor {name}", "apart from all other tensors", f"bytes of {shortened(before)}")
            end, before = entry.start + entry.size, name


class _Cursor:
    """Place in a file up to which it has been read."""

    def __init__(self, path: str | Path, data: np.ndarray):
        self.path, self.at, self._data = path, 0, data.data
        self._entries = self._nested = self._text_bytes = 0

    @property
    def left(self) -> int:
        """Number of bytes that have not been read."""
        return len(self._data) - self.at

    def take(self, size: int, subject: str) -> memoryview:
        """Return the next bytes."""
        if size > self.left:
            requirement = f"within the {self.left} bytes that are left of the file"
            raise bad_input(self.path, subject, requirement, f"a length of {size}")
        self.at += size
        return self._data[self.at - size : self.at]

    def number(self, code: str, subject: str) -> int:
        """Return the next integer."""
        return struct.unpack(code, self.take(struct.calcsize(code), subject))[0]

    def text(self, subject: str) -> str:
        """Return the next string."""
        found = self.take(self.number("<Q", subject), subject)
        self._text_bytes += len(found)
        if self._text_bytes > MOST_TEXT:
            raise bad_input(self.path, "header", f"at most {MOST_TEXT} bytes of text", f"{self._text_bytes}")
        try:
            return str(found, "utf-8")
        except UnicodeDecodeError as error:
            raise bad_input(self.path, subject, "UTF-8", shown(bytes(found[:60]))) from error

    def name(self, of: str, seen: dict[str, Any]) -> str:
        """Return the name of the next key or tensor, which is new."""
        subject = f"name of {of} {len(seen)}"
        name = self.text(subject)
        if not 1 <= len(name.encode()) <= MOST_NAME:
            raise bad_input(self.path, subject, f"1 to {MOST_NAME} bytes", f"{len(name.encode())}")
        if name in seen:
            raise bad_input(self.path, subject, f"different from the other {of}s", f"{quoted(name)} twice")
        return name

    def value(self, key: str, kind: int, depth: int = 0) -> Any:
        """Return the next value, of this type."""
        if kind == _STRING:
            return self.text(key)
        if kind == _ARRAY:
            return self._array(key, depth + 1)
        if kind not in _SCALARS:
            raise bad_input(self.path, key, "of a type from 0 to 12", f"type {kind}")
        found = self._numbers(key, kind, 1)[0].item()
        return bool(found) if kind == _BOOL else found

    def _array(self, key: str, depth: int) -> Any:
        kind, length = self.number("<I", key), self.number("<Q", key)
        if depth > MOST_DEPTH:
            raise bad_input(self.path, key, f"an array with at most {MOST_DEPTH} levels", "one that is nested deeper")
        if kind not in _LEAST_BYTES:
            raise bad_input(self.path, key, "an array of a type from 0 to 12", f"type {kind}")
        most = self.left // _LEAST_BYTES[kind]
        if length > most:
            raise bad_input(self.path, key, f"at most {most} entries, all that the file has room for", f"{length}")
        if kind in _SCALARS:
            return self._numbers(key, kind, length)
        if kind == _STRING:
            return self._texts(key, length)
        self._nested += length
        if self._nested > MOST_NESTED:
            got = f"at least {self._nested}"
            raise bad_input(self.path, "header", f"at most {MOST_NESTED} arrays inside of arrays", got)
        return [self.value(f"{key}[{index}]", kind, depth) for index in range(length)]

    def _texts(self, key: str, length: int) -> list[str]:
        """Return the next strings, read in a short loop; `text` reads the one that is at fault again, to name it."""
        self._entries += length
        if self._entries > MOST_ENTRIES:
            got = f"at least {self._entries} entries"
            raise bad_input(self.path, "header", f"strings in arrays of at most {MOST_ENTRIES} entries", got)
        data, read_size, found, start = self._data, struct.Struct("<Q").unpack_from, [], self.at
        last = min(len(data), start + 8 * length + MOST_TEXT - self._text_bytes)
        for _ in range(length):
            try:
                begin = self.at + 8
                end = begin + read_size(data, self.at)[0]
                if end > last:
                    break
                found.append(str(data[begin:end], "utf-8"))
            except (struct.error, UnicodeDecodeError):
                break
            self.at = end
        self._text_bytes += self.at - start - 8 * len(found)
        return found + [self.text(f"{key}[{index}]") for index in range(len(found), length)]

    def _numbers(self, key: str, kind: int, length: int) -> np.ndarray:
        found = np.frombuffer(self.take(length * _SCALARS[kind].itemsize, key), _SCALARS[kind])
        if kind == _BOOL and found.size and found.max() > 1:
            raise bad_input(self.path, key, "bools of 0 or 1", f"{found.max()}")
        return found


def _mapped(path: str | Path) -> np.ndarray:
    """Return the bytes of a file, which are read when they are used."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            got = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
            raise bad_input(path, "", "a regular file in the GGUF format", got)
        if not status.st_size:
            raise bad_input(path, "", "a file in the GGUF format", "an empty file")
        return np.memmap(path, np.uint8, mode="r")
    except OSError as error:
        raise unreadable(path, error) from error


def _counts(cursor: _Cursor) -> tuple[int, int]:
    """Return the numbers of tensors and keys."""
    magic = bytes(cursor.take(min(4, cursor.left), "file"))
    if magic != b"GGUF":
        raise bad_input(cursor.path, "", "a file in the GGUF format, which begins with 'GGUF'", shown(magic))
    version = cursor.number("<I", "version")
    if version not in (2, 3):
        raise bad_input(cursor.path, "version", "2 or 3, little-endian", f"{version}")
    counts = []
    for subject in ("number of tensors", "number of keys"):
        count = cursor.number("<Q", subject)
        most = min(MOST_KEYS, cursor.left // _ENTRY_BYTES)
        if count > most:
            raise bad_input(cursor.path, subject, f"at most {most}, for which the file has room", f"{count}")
        counts.append(count)
    return counts[0], counts[1]


def _tensor_entry(cursor: _Cursor, subject: str) -> tuple[tuple[int, ...], int, int]:
    """Return the shape of the next tensor, the number of its type, and its offset."""
    num_dimensions = cursor.number("<I", subject)
    if not 1 <= num_dimensions <= MOST_DIMENSIONS:
        raise bad_input(cursor.path, subject, f"1 to {MOST_DIMENSIONS} dimensions", f"{num_dimensions}")
    shape = tuple(cursor.number("<Q", subject) for _ in range(num_dimensions))[::-1]
    if not all(shape):
        raise bad_input(cursor.path, subject, "of a shape without 0", f"{list(shape)}")
    return shape, cursor.number("<I", subject), cursor.number("<Q", subject)
