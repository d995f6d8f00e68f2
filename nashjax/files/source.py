"""Bounded reading of files, pipes, devices and standard input."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import stat
import sys
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from nashjax.files.errors import BadInput, bad_input, unreadable, visible
from nashjax.files.memory import available_memory, check_memory, size

DEFAULT_LIMIT = 10**9
"""Most bytes that are read of a pipe, a device or standard input, unless the caller sets another limit."""
STANDARD_INPUT = "-"

_BLOCK = 2**20
_GZIP = b"\x1f\x8b"
_MAGIC = {b"\x93NUMPY": ".npy", b"PK": ".npz", b"PAR1": ".parquet", b"{": ".json"}
"""First bytes of each format, after blanks. Everything else is CSV."""


class Source:
    """Content of a file, a pipe, a device or standard input, which can be read again and again.

    A regular file is read in place. Anything else is read once, up to the limit, into a temporary file. Data packed by
    gzip are unpacked in the same way.

    Args:
      path: the file; `-` is standard input.
      limit: most bytes to read of a pipe, a device or standard input, and most bytes that packed data may unpack to. A
        regular file may also be as large as the free memory.
    """

    def __init__(self, path: str | Path, limit: int = DEFAULT_LIMIT):
        self.path = Path(path)
        self.limit = limit
        self._kept: BinaryIO | None = None

    @classmethod
    def of(cls, source: str | Path | Source) -> Source:
        """Return the source itself, or the source at a path."""
        return source if isinstance(source, Source) else cls(source)

    def __str__(self) -> str:
        return "standard input" if self.is_standard_input else str(self.path)

    @property
    def is_standard_input(self) -> bool:
        """Whether the content comes from standard input."""
        return str(self.path) == STANDARD_INPUT

    @property
    def is_stream(self) -> bool:
        """Whether this is a pipe, a device or standard input, whose name does not tell the format."""
        if self.is_standard_input:
            return True
        try:
            mode = self.path.stat().st_mode
        except (OSError, ValueError):  # reading it reports the error
            return False
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))

    @property
    def suffix(self) -> str:
        """Lower-case suffix that stands for the format: that of the file's name, or of a stream that of its content.

        Raises:
          BadInput: the stream cannot be read.
        """
        if self.is_stream:
            with self.open("gzip") as stream:
                start = stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
            return next((suffix for magic, suffix in _MAGIC.items() if start.startswith(magic)), ".csv")
        name = self.path.name.lower()
        return Path(name.removesuffix(".gz")).suffix

    @contextlib.contextmanager
    def open(self, form: str) -> Iterator[BinaryIO]:
        """Open the content for reading from its start; the stream can seek.

        Args:
          form: the format that is parsed, for the message about a damaged file.

        Raises:
          BadInput: the content cannot be read, is larger than the limit, or raises any error while it is parsed.
        """
        with parsing(self, form):
            if self._kept is None:
                self._kept = self._keep()
                if self._kept is not None:
                    weakref.finalize(self, self._kept.close)
            if self._kept is None:
                with open(self.path, "rb") as stream:
                    yield stream
                return
            # A file object of its own: closing it leaves the temporary file open.
            with open(os.dup(self._kept.fileno()), "rb") as stream:
                stream.seek(0)
                yield stream

    def read(self, form: str) -> bytes:
        """Return the whole content; raises BadInput as `open` does, and if it does not fit into memory."""
        with self.open(form) as stream:
            num_bytes = os.fstat(stream.fileno()).st_size
            check_memory(self, size(num_bytes), 3 * num_bytes)
            return stream.read()

    def _keep(self) -> BinaryIO | None:
        """Copy the content to a temporary file; None for a regular file that is not packed, which stays in place."""
        if self.is_stream:
            kept = self._copy_stream()
        else:
            self._check_size()
            kept = None
        packed = open(self.path, "rb") if kept is None else kept  # noqa: SIM115 (closed below, or kept open)
        start = packed.read(len(_GZIP))
        packed.seek(0)
        if start == _GZIP:
            with packed, gzip.GzipFile(fileobj=packed) as unpacked:
                return self._copy(unpacked)
        if kept is None:
            packed.close()
        return kept

    def _copy_stream(self) -> BinaryIO:
        if not self.is_standard_input:
            with open(self.path, "rb", buffering=0) as stream:
                return self._copy(stream)
        try:
            stream = sys.stdin.buffer
        except AttributeError:  # no stream, or one without bytes
            raise bad_input(self, "", "open", "a closed stream") from None
        return self._copy(stream)

    def _check_size(self) -> None:
        num_bytes, most = self.path.stat().st_size, max(self.limit, available_memory() or 0)
        if num_bytes > most:
            raise self._too_large(size(num_bytes), most)

    def _copy(self, stream: Any) -> BinaryIO:
        with contextlib.ExitStack() as held:
            copy: BinaryIO = held.enter_context(tempfile.TemporaryFile())
            left = self.limit
            while block := stream.read(min(_BLOCK, left + 1)):
                left -= len(block)
                if left < 0:
                    raise self._too_large("more", self.limit)
                copy.write(block)
            if block is None:
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            copy.seek(0)
            held.pop_all()
            return copy

    def _too_large(self, got: str, most: int) -> BadInput:
        return bad_input(self, "", f"at most {size(most)} long", got, "Use --max-file-size to raise the limit.")


@contextlib.contextmanager
def parsing(where: object, form: str) -> Iterator[None]:
    """Turn every error of parsing a file into `BadInput`, with that error as its cause.

    This is the boundary around a format: parsers of numpy, zipfile, json and others raise almost any exception for a
    damaged file.

    Args:
      where: the file, for the message.
      form: the format, such as "CSV".
    """
    try:
        yield
    except BadInput:
        raise
    except Exception as error:  # see above
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(where, error) from error
        raise bad_input(visible(str(where)), "", f"an undamaged {form} file", reason(error)) from error


def reason(error: Exception) -> str:
    """Return an error in a few words: its class, and the beginning of what it says."""
    if isinstance(error, RecursionError):
        return "nesting that is too deep"
    if isinstance(error, MemoryError):
        return "content that does not fit into memory"
    said = visible(str(error).strip().split("\n")[0].split(". ")[0]).rstrip(".")
    return f"{type(error).__name__}: {said[:150]}" if said else type(error).__name__
