"""Reading ahead and writing behind: three threads and a caller that can be interrupted at any time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")

_PATIENCE = 2.0
"""How many seconds an interrupted caller waits for an iterable that does not give anything."""


def pipeline(items: Iterable[T], work: Callable[[T], U], write: Callable[[U], Any], report: Callable[[U], Any]) -> None:
    """Draw an item, work on the one before it and write the one before that, all at the same time.

    Args:
      items: drawn in a thread of its own, at most two ahead of the work.
      work: what is done to each, in a second thread: compiled code cannot be interrupted, but waiting for it can.
      write: called with each result, in a third thread, at most one behind.
      report: called with each result that is written, by this thread.

    Raises:
      Exception: what any of the threads has raised. A write that has begun is finished first, also where the caller
        is interrupted.
    """
    worker, writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    written: Future[U] | None = None

    def put_away(result: U) -> U:
        write(result)
        return result

    ahead = _ahead(items)
    try:
        for item in ahead:
            result = worker.submit(work, item).result()
            if written is not None:
                report(written.result())
            written = writer.submit(put_away, result)
        if written is not None:
            report(written.result())
    finally:
        ahead.close()
        worker.shutdown(wait=False, cancel_futures=True)
        writer.shutdown(wait=True)  # nobody else may write before


def _ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """The items, the next of which is drawn by a thread meanwhile."""
    drawn: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1)
    stopped = threading.Event()

    def offer(kind: str, value: Any) -> bool:
        while not stopped.is_set():
            try:
                drawn.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def draw() -> None:
        try:
            for item in items:
                if not offer("item", item):
                    return
            offer("end", None)
        except BaseException as error:  # the caller shall see it, whatever it is
            offer("error", error)

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = drawn.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stopped.set()
        thread.join(_PATIENCE)
