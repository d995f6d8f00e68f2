"""Scripts in processes of their own."""

import subprocess
import sys
import textwrap


def run_script(script: str, seconds: float) -> str:
    """Run a script; what it prints."""
    return run_together([script], seconds)[0]


def start(script: str) -> subprocess.Popen[str]:
    """Start a script."""
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_together(scripts: list[str], seconds: float) -> list[str]:
    """Run scripts at the same time; what each prints."""
    processes = [start(script) for script in scripts]
    try:
        ended = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, ended, strict=True):
        assert process.returncode == 0, errors
    return [output for output, _ in ended]
