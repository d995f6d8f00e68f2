"""What every command shares: reading numbers, writing to the terminal, errors in one line."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import typer

from nashjax._validation import message
from nashjax.files import BadInput
from nashjax.files.errors import bad_input, number, quoted, sentence, unwritable, visible

NOT_CONVERGED, OUTPUT_FAILED, BAD_INPUT, INTERRUPTED = 1, 1, 2, 130
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

_T = TypeVar("_T")


class BadOption(typer.BadParameter):
    """The value of an option that cannot be used, said in the form of all messages."""

    def __init__(self, requirement: str, got: str):
        super().__init__(message("the value", requirement, got))
        self.requirement, self.got = requirement, got

    def format_message(self) -> str:
        """The message, with the name of the option as its subject."""
        names = getattr(self.param, "opts", None) or ["the value"]
        return message(max(names, key=len), self.requirement, self.got)


def number_option(
    low: float, *, whole: bool = False, closed: bool = True, high: float = math.inf
) -> Callable[[str], Any]:
    """A reader of an option's text that accepts numbers within limits."""
    kind = "an integer" if whole else "a finite number"
    requirement = f"{kind} {'>=' if closed else '>'} {low:g}" + (f" and <= {high:.10g}" if math.isfinite(high) else "")

    def read(text: object) -> float | int:
        try:
            value = number(str(text), int if whole else float)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high and (closed or value > low)):
            raise BadOption(requirement, quoted(str(text)))
        return value

    return read


def size_option(text: object) -> int:
    """The number of bytes that a text such as `500M` or `4G` stands for."""
    match = re.fullmatch(r"(\d{1,15})([KMGT]?)B?", str(text).strip(), re.IGNORECASE)
    if match is None or not int(match[1]):
        raise BadOption("a size such as 500M or 4G", quoted(str(text)))
    return int(match[1]) * _UNITS[match[2].upper()]


class _ClosedStream(io.RawIOBase):
    """In place of a standard output that is closed: each write fails."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        del data
        raise OSError(9, os.strerror(9))


def open_standard_streams() -> None:
    """Make the standard streams usable: those that are closed, and those that cannot show every letter of a name.

    A closed descriptor is opened on the null device, so that no file that is opened later takes its number.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        closed: Any = _ClosedStream(1)
        sys.stdout = io.TextIOWrapper(closed, encoding="utf-8", write_through=True)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (open until the program ends)
    for stream in (sys.stdout, sys.stderr):
        # An output that cannot show a letter of a name shows its code instead.
        stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]


def put(text: str) -> None:
    """Write to the standard output, now; a reader that has gone is no error, anything else ends the program."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout)
        if not isinstance(error, BrokenPipeError):  # there, whoever read it has seen enough
            fail(str(unwritable("standard output", error)), OUTPUT_FAILED)


def flush_output() -> None:
    """Write what is left for the standard output; ends the program as `put` does."""
    put("")


def _discard(stream: Any) -> None:
    """Send what a stream still holds, which Python writes at its end, to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def interruptible(work: Callable[[], _T]) -> _T:
    """Do the work in a thread: compiled code cannot be interrupted, but waiting for it can."""
    outcome: list[Any] = []

    def record() -> None:
        try:
            outcome.extend((work(), None))
        except BaseException as error:
            outcome.extend((None, error))

    thread = threading.Thread(target=record, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    result, error = outcome
    if error is not None:
        raise error
    return result


def fail(message: str, code: int = BAD_INPUT) -> NoReturn:
    """End with an error in one line."""
    _complain(f"error: {message}\n")
    sys.exit(code)


def warn(sentence: str) -> None:
    """Say what is no error but should be known."""
    _complain(f"warning: {sentence}\n")


def _complain(text: str) -> None:
    """Write to the standard error; where that cannot be written, nobody can be told."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


@contextlib.contextmanager
def library_errors(**options: str) -> Iterator[None]:
    """Turn what the library refuses, a missing extra, files and devices that fail, and numbers lost into `BadInput`.

    `options` are the arguments of the library that the user knows by another name, that of an option.
    """
    try:
        yield
    except BadInput:  # of files and options, by their names already
        raise
    except (ImportError, TypeError, ValueError, FloatingPointError) as error:
        named = re.sub(r"^\w+(?=[:\[]| must )", lambda found: options.get(found[0], found[0]), str(error))
        raise BadInput(visible(named)) from error
    except OSError as error:
        where = "a file" if error.filename is None else str(error.filename)
        raise bad_input(where, "", "readable and writable", f"the error {error.strerror or error}") from error
    except (jax.errors.JaxRuntimeError, MemoryError) as error:  # such as a device with less memory than the machine
        raise BadInput(f"The computation failed: {sentence(str(error) or 'not enough memory')}") from error


@contextlib.contextmanager
def errors_in_one_line(debug: bool = False) -> Iterator[None]:
    """Report input that cannot be used in one line, and end; also where the user interrupts.

    Args:
      debug: whether to show the traceback before that line.
    """
    try:
        yield
    except BadInput as error:
        if debug:
            _complain("".join(traceback.format_exception(error)))
        fail(str(error))
    except (RuntimeError, AssertionError) as error:  # both of them are what jax raises without a platform
        problem = _platform_problem()
        if problem is None:
            raise
        if debug:
            _complain("".join(traceback.format_exception(error)))
        fail(problem)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        # Not through Python's usual end, which the thread still computing could disturb.
        os._exit(INTERRUPTED)


def _platform_problem() -> str | None:
    """Return one line about the platforms in JAX_PLATFORMS that jax cannot use, None if it can use them."""
    wanted = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    if not wanted:
        return None
    try:
        jax.devices()
        return None
    except (RuntimeError, AssertionError):
        pass
    from jax.extend.backend import backends

    jax.config.update("jax_platforms", None)
    there = ", ".join(sorted(backends()))
    return message("JAX_PLATFORMS", f"a platform of this machine ({there})", quoted(wanted))
