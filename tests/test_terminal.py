"""How the program meets its environment: outputs that cannot be written, platforms that are not there, colors."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from scripts import call

from nashjax.commands import report, terminal
from nashjax.files import BadInput
from nashjax.progress import styles

PROGRAM = "from nashjax.cli import main; main()"


def shell(redirection: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own, started by a shell."""
    command = ["bash", "-c", f'exec "$@" {redirection}', "bash", sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | environment)


@pytest.mark.parametrize(
    ("redirection", "arguments", "code", "message"),
    [
        (">&-", ("--version",), 1, "error: standard output must be writable, got the error Bad file descriptor.\n"),
        ("> /dev/full", ("--help",), 1, "error: standard output must be writable, got the error No space left on dev"),
        (">&- 2>&-", ("--version",), 1, ""),
        ("2>&-", ("solve", "absent.csv"), 2, ""),
    ],
    ids=["closed", "full", "all closed", "errors closed"],
)
def test_an_output_that_cannot_be_written_ends_it_without_a_traceback(redirection, arguments, code, message):
    done = shell(redirection, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == bool(message)


def test_a_full_disk_behind_the_output_is_no_bad_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            terminal.put("text")
        terminal.put("more")  # what is left goes nowhere
    assert ended.value.code == 1
    message = "error: standard output must be writable, got the error No space left on device.\n"
    assert capsys.readouterr().err == message


def test_errors_that_cannot_be_told_keep_their_exit_code(monkeypatch: pytest.MonkeyPatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        with pytest.raises(SystemExit) as ended:
            terminal.fail("nobody reads this")
    assert ended.value.code == 2


def test_a_platform_that_is_not_there_is_named_with_those_that_are():
    done = shell("", "demo", "--num-games", "1", JAX_PLATFORMS="abacus")
    assert done.returncode == 2
    assert done.stderr.startswith("error: JAX_PLATFORMS must be a platform of this machine (")
    assert "cpu" in done.stderr
    assert done.stderr.endswith(", got 'abacus'.\n")
    assert done.stderr.count("\n") == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise io.UnsupportedOperation


def test_colors_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert styles(Terminal()) == {"force_terminal": True, "color_system": "auto"}
    monkeypatch.setenv("FORCE_COLOR", "1")  # which rich would heed
    assert styles(io.StringIO()) == styles(None) == {"force_terminal": False, "color_system": None}
    printed = {}
    for name, stream in (("terminal", Terminal()), ("file", io.StringIO())):
        monkeypatch.setattr(sys, "stdout", stream)
        console = report.make_console()
        with console.capture() as shown:
            report.print_table(console, ["item"], [["a"]], name_column=0)
        printed[name] = shown.get()
    assert "\x1b[" in printed["terminal"]
    assert "\x1b" not in printed["file"]
    monkeypatch.setenv("NO_COLOR", "1")
    assert styles(Terminal()) == {"force_terminal": True, "color_system": None}


def test_debug_shows_the_traceback_and_the_cause(tmp_path: Path):
    (tmp_path / "r.json").write_text("{")
    (tmp_path / "g.csv").write_text("model_a,model_b,winner\nx,y,tie\n")
    arguments = ("solve", "g.csv", "--reference", "r.json")
    plain, debug = call(*arguments, folder=tmp_path), call(*arguments, "--debug", folder=tmp_path)
    assert plain.returncode == debug.returncode == 2
    assert plain.stderr.count("\n") == 1
    assert debug.stderr.startswith("Traceback (most recent call last):\n")
    assert "json.decoder.JSONDecodeError: " in debug.stderr
    assert debug.stderr.endswith(plain.stderr)


def test_arguments_of_the_library_have_the_names_of_options():
    for error in (ValueError, TypeError):
        expected = pytest.raises(BadInput, match=r"^--beta\[2\] must be finite and >= 0, got -1\.0\.$")
        with expected as caught, terminal.library_errors(beta="--beta"):
            raise error("beta[2] must be finite and >= 0, got -1.0.")
        assert isinstance(caught.value.__cause__, error)


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("500M", 5 * 10**8), ("4g", 4 * 10**9), (" 2TB", 2 * 10**12)])
def test_sizes_are_read(text: str, size: int):
    assert terminal.size_option(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5G", "1E9", "9" * 16, "4X", "1_0"])
def test_sizes_that_are_none_are_refused(text: str):
    with pytest.raises(typer.BadParameter, match="must be a size such as 500M or 4G, got "):
        terminal.size_option(text)
