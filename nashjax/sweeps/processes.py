"""What the processes of one `jax.distributed` run tell each other; a single process talks to nobody."""

from __future__ import annotations

import jax
import numpy as np

from nashjax.files import BadInput

_LONGEST = 1000


def agree(problem: Exception | None) -> None:
    """Wait for all processes, and raise in each of them what is wrong in one.

    Args:
      problem: what is wrong in this process, None if nothing is.

    Raises:
      Exception: the problem of this process, or else, as BadInput, that of the first process that has one.
    """
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        text = b"" if problem is None else (str(problem) or repr(problem)).encode(errors="replace")[:_LONGEST]
        told = np.zeros(_LONGEST, np.uint8)
        told[: len(text)] = np.frombuffer(text, np.uint8)
        answers = np.asarray(multihost_utils.process_allgather(told))
        for process, answer in enumerate(answers):
            if problem is None and answer.any():
                message = bytes(answer).rstrip(b"\0").decode("utf-8", "replace")
                problem = BadInput(f"process {process}: {message}")
    if problem is not None:
        raise problem
