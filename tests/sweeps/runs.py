"""Small sweeps in processes of their own, and the bytes that they leave."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

import nashjax as nj

GAMES = nj.sweeps.RandomGames("uniform", 3, 600, seed=7)
SETTINGS: dict[str, Any] = {"beta": 0.1, "tol": 1e-5, "chunk_size": 20}
"""30 shards."""
CODE = f"""
import sys
import nashjax as nj
print("ready", flush=True)
print(nj.sweep(nj.sweeps.{GAMES!r}, sys.argv[1], **{SETTINGS!r}))
"""


def start(code: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """A process in the precision of jax's default."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Its standard output; it has to end well."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def resume(directory: Path) -> nj.sweeps.SweepSummary:
    """Go on with a sweep in this process, which has compiled already, in the precision of jax's default."""
    jax.config.update("jax_enable_x64", False)
    try:
        return nj.sweep(GAMES, directory, **SETTINGS)
    finally:
        jax.config.update("jax_enable_x64", True)  # as in tests/conftest.py


def contents(directory: Path) -> dict[str, bytes]:
    """What matters of a directory, byte by byte."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.name != "lock"}
