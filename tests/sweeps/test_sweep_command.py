"""`nashjax sweep`, the installed program."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scripts import Done, call
from sweeps.runs import contents

import nashjax as nj

PROGRAM = Path(sys.executable).with_name("nashjax")
DRAWN = ("--kind", "uniform", "--num-actions", "3", "--num-games", "600", "--chunk-size", "20", "--beta", "0.1")


def run(*arguments: object) -> Done:
    return call("sweep", *arguments)


def test_games_that_are_drawn(tmp_path: Path):
    output = tmp_path / "out"
    command = [PROGRAM, "sweep", output, *DRAWN, "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"600 games: 600 CONVERGED.\nWritten to {output}, 30 shards.\n"
    assert done.stderr == ""  # no bar where nobody looks
    results = nj.sweeps.load(output)
    assert results.complete
    assert results.manifest["source"]["seed"] == 7
    whole = contents(output)
    (output / "shard-00000004.npz").write_bytes(b"")
    done = run(output, *DRAWN, "--seed", 7)
    assert done.returncode == 0
    assert done.stderr.startswith(
        f"warning: {output}: shard-00000004.npz is solved again because it does not agree with"
    )
    assert contents(output) == whole
    done = run(output, *DRAWN, "--seed", 8)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: {output}: source.seed must be 7 as in its manifest.json, got 8. Use the settings"
    )


def test_games_in_a_folder_and_tolerances_out_of_reach(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    np.savez(folder / "g.npz", [[0.5, 0.9, 0.2], [0.1, 0.5, 0.8], [0.8, 0.2, 0.5]])
    done = run(tmp_path / "out", "--input", folder, "--tol", 1e-30)
    assert done.returncode == 1, done.stderr
    assert done.stdout == f"1 game: 1 STALLED.\nWritten to {tmp_path / 'out'}, 1 shard.\n"
    np.savez(folder / "h.npz", np.array([None, {}], object))
    done = run(tmp_path / "other", "--input", folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {folder / 'h.npz'}, array arr_0: dtype must be a number type, got object.\n"


def test_options_that_do_not_go_together(tmp_path: Path):
    done = run(tmp_path / "out", "--input", tmp_path, "--seed", 1, "--kind", "cyclic")
    assert done.returncode == 2
    assert done.stderr == "error: --input must be the only source of games, got --kind, --seed too.\n"
    done = run(tmp_path / "out", "--num-games", 5)
    assert done.stderr.startswith("error: --num-actions must be given to draw games, got nothing. Use --input DIR")
    done = run(tmp_path / "out", *DRAWN, "--kind", "normal")
    assert done.stderr.startswith("error: --kind must be one of gaussian, ")
    assert not (tmp_path / "out").exists()


def test_the_bar_on_a_terminal_and_an_interrupt(tmp_path: Path):
    here, there = pty.openpty()
    command = [PROGRAM, "sweep", tmp_path / "out", "--num-actions", "3", "--num-games", "1000000", "--chunk-size", "50"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=there, env=os.environ | {"TERM": "xterm"})
    os.close(there)
    shown, deadline = b"", time.monotonic() + 100
    while not (b"games/s" in shown and b"unconverged" in shown) and time.monotonic() < deadline:
        shown += os.read(here, 4096)
    process.send_signal(signal.SIGINT)
    try:
        while True:
            shown += os.read(here, 4096)
    except OSError:  # as Linux ends a terminal
        pass
    assert process.wait(20) == 130
    assert b"Traceback" not in shown
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l")  # the cursor is back
    assert len(nj.sweeps.load(tmp_path / "out")) > 0
    os.close(here)
