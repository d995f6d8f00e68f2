"""Scripts in processes of their own, and the program called in this one."""

import concurrent.futures
import contextlib
import io
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple, cast

import jax
import pytest

from nashjax import cli

REFUSED = """
    def refused(call, *words):
        try:
            call()
        except ValueError as error:
            assert all(word in str(error) for word in words), error
        else:
            raise AssertionError(words)
"""
"""For scripts: a call has to end with an error of these words."""


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def call(*arguments: object, folder: Path | None = None) -> Done:
    """The entry of the program, called in a folder, but in this process: a start and compilation cost seconds."""
    outputs = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        if folder is not None:
            patch.chdir(folder)
        patch.setattr(sys, "argv", ["nashjax", *map(str, arguments)])
        patch.setattr(sys, "path", [*sys.path])
        sys.modules.pop("judging", None)  # that of another test
        streams = contextlib.redirect_stdout(outputs[0]), contextlib.redirect_stderr(outputs[1])
        jax.config.update("jax_enable_x64", False)  # as the installed program begins
        try:
            with streams[0], streams[1], pytest.raises(SystemExit) as ended:
                cli.main()
        finally:
            jax.config.update("jax_enable_x64", True)  # as in tests/conftest.py
    for stream in outputs:
        stream.flush()
    texts = [cast(io.BytesIO, stream.buffer).getvalue().decode("utf-8") for stream in outputs]
    return Done(int(ended.value.code or 0), *texts)


def run_script(script: str, seconds: float) -> str:
    """Run a script; what it prints."""
    return run_together([script], seconds)[0]


def start(script: str) -> subprocess.Popen[str]:
    """Start a script."""
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def all_said(processes: list[subprocess.Popen[str]], seconds: float) -> list[tuple[str, str]]:
    """What each prints on both streams, read side by side: one that waits for a reader keeps the others waiting."""
    with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(lambda process: process.communicate(timeout=seconds), processes))


def run_together(scripts: list[str], seconds: float) -> list[str]:
    """Run scripts at the same time; what each prints."""
    processes = [start(script) for script in scripts]
    try:
        ended = all_said(processes, seconds)
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, ended, strict=True):
        assert process.returncode == 0, errors
    return [output for output, _ in ended]
