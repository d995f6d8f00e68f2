"""What every command shares: reading numbers, writing to the terminal, errors in one line."""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import typer

from nashjax.files import BadInput
from nashjax.files.errors import number, quoted, unwritable, visible

NOT_CONVERGED, BAD_INPUT, INTERRUPTED = 1, 2, 130

_T = TypeVar("_T")


def number_option(
    low: float, *, whole: bool = False, closed: bool = True, high: float = math.inf
) -> Callable[[str], Any]:
    """A reader of an option's text that says what it found and what is allowed."""
    kind = "integers" if whole else "finite numbers"
    allowed = f"{kind} {'>=' if closed else '>'} {low:g}" + (f" and <= {high:.10g}" if math.isfinite(high) else "")

    def read(text: object) -> float | int:
        try:
            value = number(str(text), int if whole else float)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high and (closed or value > low)):
            raise typer.BadParameter(f"found {quoted(str(text))}; allowed are {allowed}")
        return value

    return read


def put(text: str) -> None:
    """Write to the standard output, now; a reader that has gone is no error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # What Python still flushes at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # there, whoever read it has seen enough
            raise unwritable("standard output", error) from None


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


def fail(message: str) -> NoReturn:
    """End with an error in one line."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(BAD_INPUT)


def warn(sentence: str) -> None:
    """Say what is no error but should be known."""
    print(f"warning: {sentence}", file=sys.stderr)


@contextlib.contextmanager
def library_errors(**options: str) -> Iterator[None]:
    """Turn what the library refuses, a missing extra, files and devices that fail, and numbers lost into `BadInput`.

    `options` are the arguments of the library that the user knows by another name, that of an option.
    """
    try:
        yield
    except BadInput:  # of files and options, by their names already
        raise
    except (ImportError, ValueError, FloatingPointError) as error:
        message = re.sub(r"^\w+(?=[:\[])", lambda found: options.get(found[0], found[0]), str(error))
        raise BadInput(visible(message)) from None
    except OSError as error:
        where = "a file" if error.filename is None else str(error.filename)
        raise BadInput(visible(f"{where}: cannot be read or written: {error.strerror or error}")) from None
    except (jax.errors.JaxRuntimeError, MemoryError) as error:  # such as a device with less memory than the machine
        raise BadInput(f"the computation failed: {visible(str(error) or 'not enough memory')}") from None


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Report input that cannot be used in one line, and end; also where the user interrupts."""
    try:
        yield
    except BadInput as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.stdout.flush()
        # Not through Python's usual end, which the thread still computing could disturb.
        os._exit(INTERRUPTED)
