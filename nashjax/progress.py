"""One line on the terminal that tells how far a long computation is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_line(
    name: str, total: int | None, done: int = 0, *, shown: bool = True
) -> Iterator[Callable[[int, str], None]]:
    """Draw a bar on the standard error while the context lasts, if that is a terminal; else nothing at all.

    Args:
      name: what stands beside the bar at first.
      total: how much there is to do; None where nobody knows.
      done: how much of it was done before.
      shown: False draws nothing on a terminal either.

    Yields:
      A function of how much is done by now and of the text beside the bar. Threads may call it.
    """
    if not (shown and sys.stderr is not None and sys.stderr.isatty()):
        yield lambda done, text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    # Markup is off: a text may hold brackets.
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=total, completed=done)
        yield lambda done, text: bar.update(task, completed=done, description=text)
