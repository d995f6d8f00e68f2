"""One sweep at a time on a directory; the kernel lets go of the lock however a process ends."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from nashjax.files.errors import bad_input, shortened

FILE = "lock"


@contextlib.contextmanager
def locked(directory: Path, *, shared: bool = False, joins: bool = False) -> Iterator[None]:
    """Hold the lock of a directory, in the file `lock`, while the context lasts.

    Args:
      directory: an existing one.
      shared: let the other processes of the same run in, which take it with `joins`. A later run is kept out by
        whichever of them still lives.
      joins: come in where the first process of the run is.

    Raises:
      BadInput: another process holds it; the message says which one, on which host and since when.
      OSError: the file cannot be made.
    """
    import fcntl  # not there on Windows

    # Opened for both: over NFS a shared lock needs reading, one's own needs writing. What is written replaces what is
    # there, so never where a link leads to.
    descriptor = os.open(directory / FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if joins else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if not joins:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, _this_process().encode())
            if shared and not joins:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = shortened(os.pread(descriptor, 300, 0).decode("utf-8", "replace").strip(), 200) or "unknown"
            raise bad_input(directory, "", "free of other sweeps", f"a sweep at work in it ({holder})") from error
        yield
    finally:
        os.close(descriptor)


def _this_process() -> str:
    since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return f"host {socket.gethostname()}, process {os.getpid()}, since {since}\n"
