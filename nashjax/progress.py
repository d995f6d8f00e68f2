"""One line on the terminal that tells how far a long computation is."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any


def styles(stream: Any) -> dict[str, Any]:
    """Options of a rich console: colors and other styles on a terminal only, and not where NO_COLOR is set."""
    is_terminal = stream is not None and stream.isatty()
    styled = is_terminal and not os.environ.get("NO_COLOR")
    return {"force_terminal": is_terminal, "color_system": "auto" if styled else None}


@contextlib.contextmanager
def progress_line(
    name: str, total: int | None, done: int = 0, *, shown: bool = True, asked: bool = False
) -> Iterator[Callable[[int, str], None]]:
    """Draw a bar while the context lasts: on the standard error, if that is a terminal, and gone at the end.

    Args:
      name: what stands beside the bar at first.
      total: how much there is to do; None where nobody knows.
      done: how much of it was done before.
      shown: False draws nothing at all.
      asked: the caller has asked for it: it is drawn on the standard output, wherever that leads, and stays.

    Yields:
      A function of how much is done by now and of the text beside the bar. Threads may call it.
    """
    if not shown or not (asked or (sys.stderr is not None and sys.stderr.isatty())):
        yield lambda done, text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    # Markup is off: a text may hold brackets.
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    stream = sys.stdout if asked else sys.stderr
    with Progress(*columns, console=Console(stderr=not asked, **styles(stream)), transient=not asked) as bar:
        task = bar.add_task(name, total=total, completed=done)
        yield lambda done, text: bar.update(task, completed=done, description=text)
