"""Run a measurement in a fresh process of any source tree and tell a hang from a slow call."""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

IDLE = 0.03
"""A process that uses less than this share of one core at the end of its deadline hangs."""
LONGEST_WATCH = 10.0
"""Seconds at the end of the deadline in which processor time is measured."""


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a process ended.

    Attributes:
      how: "ended" with exit code 0, "failed" with another one, "hangs" if it was killed while idle, or "slow" if it
        was killed at work.
      code: the exit code; the negative number of the signal if a signal ended the process.
      message: last line of standard error.
    """

    how: str
    code: int
    message: str

    def __str__(self) -> str:
        if self.how == "failed":
            return f"exit code {self.code}: {self.message}"
        return "no answer in time" if self.how == "slow" else self.how


def environment(tree: Path, **more: str) -> dict[str, str]:
    """Return the environment of a process that imports nashjax from `tree`, with jax as users have it.

    Settings of jax and XLA are dropped, except for the platform: program caches, precision, compiler flags.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == "JAX_PLATFORMS" or not name.startswith(("JAX_", "XLA_", "PYTHONPATH"))
    }
    return kept | {"PYTHONPATH": str(tree.resolve())} | more


def run_worker(
    script: Path,
    arguments: list[str],
    variables: dict[str, str],
    deadline: float,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
) -> tuple[list[dict[str, Any]], Ending]:
    """Run a script that prints one JSON object a line, and kill the process if no line arrives in time.

    Args:
      script: path of the script. Its folder is not put on the path of imports.
      arguments: of the script.
      variables: environment of the process.
      deadline: longest time between two lines in seconds.
      report: called with each object as soon as it is printed.

    Returns:
      The objects printed, and how the process ended.
    """
    with tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-P", str(script), *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=variables, text=True)
        lines: queue.Queue[str | None] = queue.Queue()
        reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
        reader.start()
        rows, how = [], ""
        while not how:
            line, how = _next(process, lines, deadline)
            if line and line.startswith("{"):
                rows.append(json.loads(line))
                report(rows[-1])
        if how != "ended":
            process.kill()
        code = process.wait()
        reader.join()
        errors.seek(0)
        message = (errors.read().decode(errors="replace").strip().splitlines() or ["no message"])[-1][:200]
    return rows, Ending("failed" if how == "ended" and code else how, code, message)


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def _next(process: subprocess.Popen[str], lines: queue.Queue[str | None], deadline: float) -> tuple[str | None, str]:
    """Return the next line, or how the process ended."""
    watch = min(LONGEST_WATCH, deadline / 2)
    try:
        line = lines.get(timeout=deadline - watch)
    except queue.Empty:
        before, start = cpu_seconds(process.pid), time.perf_counter()
        try:
            line = lines.get(timeout=watch)
        except queue.Empty:
            share = (cpu_seconds(process.pid) - before) / (time.perf_counter() - start)
            return None, "hangs" if share < IDLE else "slow"
    return line, "ended" if line is None else ""


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a running process has used, all threads together (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def merge(old: list[dict[str, Any]], rows: list[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    """Return the old rows that were not measured again, and then the new ones."""
    again = {tuple(row[key] for key in keys) for row in rows}
    return [row for row in old if tuple(row[key] for key in keys) not in again] + rows
