"""The installed program: every form of input, every kind of error, its answers and its exit codes.

One file, though long: all inputs go through the same program.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scripts import call as run

from nashjax.commands import report
from nashjax.files import Answer, GameFile

PROGRAM = Path(sys.executable).with_name("nashjax")
LONG_NAME = "an item whose name is far longer than a narrow terminal has room for"

PAIRS = "item_a,item_b,wins_a,wins_b,ties\n[red]ed,paper,0,12,0\npaper,scissors,2,10,0\nscissors,[red]ed,0,9,6\n"
BATTLES = "model_a,model_b,winner\nx,y,model_a\ny,z,model_a\nz,x,model_a\nx,y,tie\n"
MATRIX = "item,rock,paper,scissors\nrock,0.5,0,1\npaper,1,0.5,0\nscissors,0,1,0.5\n"


def run_installed(*arguments: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A process of its own: once for each exit code. Other tests call the program in this one, which is faster."""
    return subprocess.run(
        [PROGRAM, *map(str, arguments)], capture_output=True, text=True, encoding="utf-8", cwd=folder, timeout=120
    )


def write(folder: Path, text: str, name: str = "g.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def check_policy(path: Path, P: np.ndarray, beta: float) -> None:
    """The written policy is the fixed point `p ~ exp(P p / beta)` (spec 1), as far as the tolerance shows it."""
    p = np.array(json.loads(path.read_text())["policy"])
    answer = np.exp((P @ p) / beta)
    np.testing.assert_allclose(p, answer / answer.sum(), rtol=0, atol=1e-4)


# --- solve: each form of input ---


def test_battles_to_json(tmp_path: Path):
    path = write(tmp_path, BATTLES)
    done = run_installed("solve", path, "--beta", 0.2, "--tol", 1e-10, "--x64", "--output", tmp_path / "o.json")
    assert done.returncode == 0, done.stderr
    assert "g.csv: 3 items, 4 comparisons" in done.stdout
    assert "Solved" in done.stdout
    assert "KL(mixture || exact equilibrium) <= " in done.stdout
    assert "warning: 3 of 3 items have fewer than 10 comparisons: z (2), x (3), y (3); a prior" in done.stderr
    assert "warning: 1 of 4 comparisons (25 %) are ties" in done.stderr
    written = json.loads((tmp_path / "o.json").read_text())
    assert written["items"] == ["x", "y", "z"]
    assert written["status"] == "CONVERGED"
    assert 0 <= written["exploitability"] <= 1e-10
    assert written["kl_bound"] <= 1e-9
    P = np.array([[0.5, 0.75, 0], [0.25, 0.5, 1], [1, 0, 0.5]])
    np.testing.assert_allclose(written["payoffs"], P @ written["policy"], rtol=0, atol=1e-12)
    check_policy(tmp_path / "o.json", P, 0.2)


def test_pairs_with_two_betas_to_csv_and_names_printed_literally(tmp_path: Path):
    path = write(tmp_path, PAIRS)
    done = run("solve", path, "--beta", "0.1,0", "--beta", "1", "--output", tmp_path / "o.csv")
    assert done.returncode == 0, done.stderr
    assert "[red]ed" in done.stdout
    assert [line for line in done.stdout.splitlines() if line.startswith("beta = ")] == [
        "beta = 0.1",
        "beta = 0",
        "beta = 1",
    ]
    assert "no item that the reference allows is preferred over the" in done.stdout
    with open(tmp_path / "o.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["beta"]) for row in rows] == [0.1] * 3 + [0.0] * 3 + [1.0] * 3
    assert [row["item"] for row in rows[:3]] == ["[red]ed", "paper", "scissors"]
    assert [float(row["comparisons"]) for row in rows[:3]] == [27, 24, 27]
    np.testing.assert_allclose(float(rows[0]["mean_win_rate"]), (0 + 0.2 * 0 + 12 / 15) / 2, atol=1e-12)
    for at in (0, 3, 6):
        np.testing.assert_allclose(sum(float(row["probability"]) for row in rows[at : at + 3]), 1, atol=1e-6)


def test_matrix_with_a_reference_that_excludes_an_item(tmp_path: Path):
    path = write(tmp_path, MATRIX)
    reference = write(tmp_path, "item,probability\nscissors,0\nrock,0.5\npaper,0.5\n", "r.csv")
    output = tmp_path / "o.npz"
    done = run("solve", path, "--beta", 0.5, "--reference", reference, "--output", output, "--top", 2)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "1 more item with 0.0000 together" in done.stdout
    with np.load(output) as written:
        p = written["policy"]
        assert written["items"].tolist() == ["rock", "paper", "scissors"]
        assert written["status"] == "CONVERGED"
    assert p[2] == 0
    # Paper always beats rock, so P p differs by 1/2 between them.
    np.testing.assert_allclose(p[1] / p[0], np.e ** (0.5 / 0.5), rtol=1e-2)


def test_padding_that_the_reference_excludes_reaches_no_answer(tmp_path: Path):
    rps = np.array([[0.5, 0.25, 1.0], [0.75, 0.5, 0.0], [0.0, 1.0, 0.5]])
    wide = np.full((5, 5), np.nan)
    wide[:3, :3] = rps
    np.save(tmp_path / "g.npy", wide)
    np.save(tmp_path / "r.npy", np.array([1, 1, 1, 0, 0]) / 3)
    np.save(tmp_path / "small.npy", rps)
    more = ("--beta", 0.5, "--reference", tmp_path / "r.npy", "--output", tmp_path / "a.json")
    done = run("solve", tmp_path / "g.npy", *more)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nan" not in done.stdout
    run("solve", tmp_path / "small.npy", "--beta", 0.5, "--output", tmp_path / "b.json")
    found, expected = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    np.testing.assert_allclose(found["policy"], [*expected["policy"], 0, 0], atol=1e-5)
    assert np.isfinite(found["payoffs"]).all()
    assert np.isfinite(found["mean_win_rate"]).all()


def test_batch_of_arrays(tmp_path: Path):
    P = np.array([[0.5, 0.9], [0.1, 0.5]])
    np.save(tmp_path / "g.npy", np.stack([P, P.T, np.full((2, 2), 0.5)]).astype(np.float32))
    done = run("solve", tmp_path / "g.npy", "--beta", 0.1, "--top", 2, "--output", tmp_path / "o.json")
    assert done.returncode == 0, done.stderr
    assert "3 games of 2 items" in done.stdout
    assert "3 of 3 solved" in done.stdout
    assert "1 more row (--top 0 shows all)." in done.stdout
    written = json.loads((tmp_path / "o.json").read_text())
    policy = np.array(written["policy"])
    assert policy.shape == (3, 2)
    assert policy[0, 0] > 0.97
    np.testing.assert_allclose(policy[0], policy[1, ::-1], rtol=0, atol=1e-6)
    assert written["beta"] == [0.1] * 3
    assert len(written["kl_bound"]) == len(written["queries"]) == len(written["status"]) == 3


@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_a_numpy_archive_with_names_at_two_betas(tmp_path: Path, suffix: str):
    """A batch of two games from `.npz`, solved at two betas, written in either form."""
    rps = np.array([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])
    np.savez(tmp_path / "g.npz", preferences=np.stack([rps, 0.5 + (rps - 0.5) / 2]), items=["rock", "p", "s"])
    output = tmp_path / f"o{suffix}"
    done = run("solve", tmp_path / "g.npz", "--beta", "0.5,0", "--reference", "0.6,0.2,0.2", "--output", output)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 solved" in done.stdout
    if suffix == ".npz":
        with np.load(output) as written:
            assert list(written["items"]) == ["rock", "p", "s"]
            assert written["policy"].shape == (2, 2, 3)
            policy = written["policy"]
    else:
        rows = list(csv.DictReader(io.StringIO(output.read_text())))
        assert [(row["game"], row["beta"]) for row in rows[::3]] == [
            ("0", "0.5"),
            ("1", "0.5"),
            ("0", "0.0"),
            ("1", "0.0"),
        ]
        policy = np.array([float(row["probability"]) for row in rows]).reshape(2, 2, 3)
    np.testing.assert_allclose(policy[1], 1 / 3, atol=1e-5)
    assert (policy[0, :, 0] > 0.4).all()


def test_other_columns_words_prior_and_format(tmp_path: Path):
    path = write(tmp_path, "left,right,who\na,b,left\na,b,same\n", "g.txt")
    columns = ["--item-a", "left", "--item-b", "right", "--winner", "who", "--tie-word", "same", "--format", "battles"]
    done = run("solve", path, *columns, "--prior", 2, "--beta", 1, "--output", "o.json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Written to o.json." in done.stdout
    check_policy(tmp_path / "o.json", np.array([[0.5, 2.5 / 4], [1.5 / 4, 0.5]]), 1.0)


def test_not_converged_is_shown_and_written_with_exit_code_1(tmp_path: Path):
    path = write(tmp_path, MATRIX.replace("rock,0.5,0,1", "rock,0.5,0.25,1").replace("paper,1", "paper,0.75"))
    done = run_installed("solve", path, "--beta", 0.001, "--max-queries", 3, "--output", tmp_path / "o.json")
    assert done.returncode == 1, done.stderr
    assert "NOT solved to the tolerance" in done.stdout
    assert "rock" in done.stdout
    assert json.loads((tmp_path / "o.json").read_text())["status"] == "MAX_QUERIES"


@pytest.mark.parametrize(("name", "file"), [("llm_crowd", "battles.csv"), ("food", "pairs.csv")])
def test_real_data(data: Path, tmp_path: Path, name: str, file: str):
    done = run("solve", data / name / file, "--x64", "--tol", 1e-12, "--output", tmp_path / "o.json")
    assert done.returncode == 0, done.stderr
    assert "comparisons" in done.stdout
    written = json.loads((tmp_path / "o.json").read_text())
    reference = json.loads((data / name / "reference.json").read_text())
    expected = reference["regularised"]["0.01"]["p"]
    assert written["items"] == reference["items"]
    assert np.abs(np.array(written["policy"]) - expected).max() <= 0.5 * np.sqrt(2 * written["kl_bound"]) + 1e-9
    # What is certified is much weaker than what is reached.
    np.testing.assert_allclose(written["policy"], expected, rtol=0, atol=1e-5)


def test_real_data_reports_what_is_weak_in_it(data: Path):
    done = run("solve", data / "llm_crowd" / "battles.csv", "--top", 3)
    assert done.returncode == 0, done.stderr
    assert "59 items, 8931 comparisons" in done.stdout
    assert "56 more items with" in done.stdout
    assert "warning: 784 of 1711 pairs (45.8 %) were never compared; they count as 1/2." in done.stderr
    assert "warning: 3471 of 8931 comparisons (38.9 %) are ties" in done.stderr


# --- bad input ---

BAD_INPUT = {
    "negative count": (PAIRS + "a,b,-3,0,0\n", [], "g.csv, line 5: wins_a must be a count >= 0 and <= 1e+15, got -3."),
    "winner word": (
        BATTLES + "x,y,both sides\n",
        [],
        "g.csv, line 6: winner must be one of 'tie', 'draw', 'both', 'bothbad', 'tie (bothbad)', 'model_",
    ),
    "matrix sum": (
        MATRIX.replace("paper,1", "paper,0.9"),
        [],
        "g.csv, line 2 (rock), column paper must satisfy P[i, j] + P[j, i] = 1 within 1e-6, got 0.0, and 0.9 ",
    ),
    "empty": ("", [], "g.csv must contain a header and rows below it, got an empty file."),
    "beta negative": (BATTLES, ["--beta", "0.1,-1"], "--beta must be a finite number >= 0, got '-1'."),
    "beta nan": (BATTLES, ["--beta", "nan"], "--beta must be a finite number >= 0, got 'nan'."),
    "beta inf": (BATTLES, ["--beta", "inf"], "--beta must be a finite number >= 0, got 'inf'."),
    "beta text": (BATTLES, ["--beta", "x"], "--beta must be a finite number >= 0, got 'x'."),
    "beta too large": (MATRIX, ["--beta", "1e39"], "--beta must be 0 or, in float32, 1.18e-38 to 3.4e+38, got 1e+39."),
    "tol": (BATTLES, ["--tol", "nan"], "--tol must be a finite number > 0, got 'nan'."),
    "tol zero": (BATTLES, ["--tol", "0"], "--tol must be a finite number > 0, got '0'."),
    "tol text": (BATTLES, ["--tol", "abc"], "--tol must be a finite number > 0, got 'abc'."),
    "prior": (BATTLES, ["--prior", "-1"], "--prior must be a finite number >= 0, got '-1'."),
    "top": (BATTLES, ["--top", "1.5"], "--top must be an integer >= 0, got '1.5'."),
    "max queries": (
        BATTLES,
        ["--max-queries", "0"],
        "--max-queries must be an integer >= 1 and <= 2147483647, got '0'.",
    ),
    "unknown option": (BATTLES, ["--bet", "1"], "No such option"),
    "not square": (
        "i,a,b\na,0.5,0.5\n",
        [],
        "g.csv must be a square matrix, with as many rows as columns, got 2 columns and 1 rows.",
    ),
    "outside [0, 1]": (
        MATRIX.replace("paper,1", "paper,1.5"),
        [],
        "g.csv, line 3 (paper), column rock must be a probability in [0, 1], got 1.5.",
    ),
    "nan": (
        MATRIX.replace("paper,1", "paper,nan"),
        [],
        "g.csv, line 3 (paper), column rock must be a finite probability, got nan.",
    ),
    "inf": (
        MATRIX.replace("paper,1", "paper,inf"),
        [],
        "g.csv, line 3 (paper), column rock must be a finite probability, got inf.",
    ),
    "one item": ("i,a\na,0.5\n", [], "g.csv, line 1, column 2: number of items must be at least 2, got 1."),
    "duplicated name": (
        "i,a,a\na,0.5,0.5\na,0.5,0.5\n",
        [],
        "g.csv, line 1, column 3 must be a distinct name, got 'a' a second time.",
    ),
    "nul byte": (
        BATTLES + "x\0,y,tie\n",
        [],
        "g.csv, line 6: name must be the name of an item, got a text with a NUL byte.",
    ),
    "self-battle": (BATTLES + "x,x,tie\n", [], "g.csv, line 6: items must be different, got 'x' twice."),
    "truncated": (BATTLES + "x,y\n", [], "g.csv, line 6 must be a record of 3 fields, as in the header, got 2 fields."),
    "no rows": (
        "model_a,model_b,winner\n",
        [],
        "g.csv must contain a header and rows below it, got the header 'model_a', 'model_b', 'winner' al",
    ),
    "unclosed quote": (
        BATTLES + '"x,y,tie\n',
        [],
        "g.csv, line 6 must be a CSV record with its quotes closed, got unexpected end of data.",
    ),
    "underscores": (
        PAIRS.replace("paper,0,12", "paper,1_0,12"),
        [],
        "g.csv, line 2: wins_a must be a count >= 0 and <= 1e+15, got '1_0'.",
    ),
    "separator": (
        BATTLES.replace(",", ";"),
        [],
        "g.csv, line 1: columns must be separated by commas, got the one column 'model_a;model_b;winner'",
    ),
    "reference all zero": (
        BATTLES,
        ["--reference", "0,0,0"],
        "reference 0,0,0 must be probabilities that sum to 1 within 1e-06, got only zeros.",
    ),
    "reference sum": (
        BATTLES,
        ["--reference", "0.5,0.4,0"],
        "reference 0.5,0.4,0 must be probabilities that sum to 1 within 1e-06, got a sum of 0.9.",
    ),
    "reference shape": (
        BATTLES,
        ["--reference", "0.5,0.5"],
        "reference 0.5,0.5: shape must be [3], a probability for each item, got [2].",
    ),
    "reference underflows": (
        BATTLES,
        ["--reference", "0.5,0.5,1e-50"],
        "--reference[2] must be 0 or, in float32, at least 1.18e-38, got 1e-50.",
    ),
    "reference": (
        BATTLES,
        ["--reference", "0.5,0.6,-0.1"],
        "reference 0.5,0.6,-0.1, entry [2] (z) must be a probability >= 0, got -0.1.",
    ),
    "beta too small": (
        MATRIX,
        ["--beta", "1e-200"],
        "--beta must be 0 or, in float32, 1.18e-38 to 3.4e+38, got 1e-200.",
    ),
    "output suffix": (MATRIX, ["--output", "o.txt"], "o.txt: suffix must be one of .json, .csv, .npz, got '.txt'."),
    "output is input": (
        MATRIX,
        ["--output", "g.csv"],
        "g.csv must be another file than the input, got the input itself.",
    ),
    "format": (
        MATRIX,
        ["--format", "excel"],
        "--format must be one of array, matrix, pairs, battles, got 'excel'.",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, case: str):
    text, options, message = BAD_INPUT[case]
    write(tmp_path, text)
    output = [] if "--output" in options else ["--output", "o.json"]
    done = run("solve", "g.csv", *options, *output, folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["g.csv"], "nothing is written"


def test_bad_files_that_are_no_text(tmp_path: Path):
    good = np.full((2, 3, 3), 0.5)
    np.save(tmp_path / "flat.npy", good[:, 0])
    np.save(tmp_path / "good.npy", good)
    whole = (tmp_path / "good.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-8])
    np.save(tmp_path / "r.npy", np.full((3, 3), 1 / 3))
    (tmp_path / "latin.csv").write_bytes("model_a,model_b,winner\nJos\xe9,y,model_a\n".encode("latin-1"))
    (tmp_path / "folder.csv").mkdir()
    for arguments, message in (
        (["flat.npy"], "flat.npy must be a square matrix [..., n, n] with n >= 2, got shape [2, 3]."),
        (["cut.npy"], "cut.npy must be 144 bytes long after its header of shape [2, 3, 3], got 136."),
        (["latin.csv"], "latin.csv, line 2 must be text in UTF-8, got byte 0xe9 at position 4 of the line."),
        (["folder.csv"], "folder.csv must be a file, got a directory."),
        (["missing.csv"], "missing.csv must be a file that exists, got a path where nothing is."),
        (
            ["good.npy", "--reference", "r.npy"],
            "batch shape must be one that broadcasts with that of the games, [2], got [3].",
        ),
        (
            ["good.npy", "--reference", "r.npy", "--output", "r.npy"],
            "r.npy: suffix must be one of .json, .csv, .npz, got '.npy'.",
        ),
    ):
        before = sorted(path.name for path in tmp_path.iterdir())
        done = run("solve", *arguments, folder=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
        assert before == sorted(path.name for path in tmp_path.iterdir())


def test_the_reference_is_not_overwritten(tmp_path: Path):
    write(tmp_path, BATTLES)
    reference = write(tmp_path, "item,probability\nx,0.5\ny,0.25\nz,0.25\n", "r.csv")
    done = run_installed("solve", "g.csv", "--reference", "r.csv", "--output", "r.csv", folder=tmp_path)
    assert done.returncode == 2
    assert "r.csv must be another file than the input, got the input itself." in done.stderr
    assert reference.read_text().startswith("item,probability")


def test_a_matrix_too_large_for_this_machine(tmp_path: Path):
    with open(tmp_path / "g.npy", "wb") as stream:
        header = {"descr": "<f8", "fortran_order": False, "shape": (5_000_000, 5_000_000)}
        np.lib.format.write_array_header_1_0(stream, header)
    done = run("solve", tmp_path / "g.npy")
    assert done.returncode == 2
    assert "got a game of 5000000 items, which needs about 1,200,000.0 GB." in done.stderr
    assert done.stderr.count("\n") == 1


def test_usage_errors_have_exit_code_2(tmp_path: Path):
    for arguments in (
        ["solve"],
        ["demo", "--num-games", "0"],
        ["demo", "--num-games", "1_000"],
        ["solve", "x.csv", "--top", "-1"],
    ):
        done = run(*arguments, folder=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1


# --- demo, help, and how the program ends ---


def test_demo():
    done = run("demo", "--num-games", 30, "--num-actions", 5, "--kind", "cyclic", "--seed", 3, "--top", 4)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "30 random games of 5 actions (cyclic), beta = 0.05"
    assert sum(line.endswith("  solved") for line in lines) == 4
    assert any(line.startswith("30 of 30 solved") for line in lines)
    assert "s with compilation" in lines[-1]
    assert max(map(len, lines)) <= 80


def test_demo_with_bad_options():
    for options, message in [
        (["--kind", "chess"], "--kind must be one of "),
        (["--beta", "1,2"], "error: --beta must be a finite number >= 0, got '1,2'."),
    ]:
        done = run("demo", *options)
        assert done.returncode == 2
        assert message in done.stderr


def test_help_has_examples_and_version_is_shown():
    for command in ([], ["solve"], ["demo"]):
        done = run(*command, "--help")
        assert done.returncode == 0
        assert "Example: nashjax " in done.stdout
    done = run_installed("--version")
    assert done.stdout.startswith("nashjax ")
    assert done.returncode == 0


def open_pipe(path: Path, reader: subprocess.Popen[str]) -> int:
    """Open a pipe to write into once somebody reads it; unlike `open`, give up if the reader ends."""
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert reader.poll() is None
            time.sleep(0.05)


def test_an_interrupt_ends_it_at_once_without_a_traceback(tmp_path: Path):
    logits = np.random.default_rng(0).normal(size=(400, 400))
    np.save(tmp_path / "g.npy", 1 / (1 + np.exp(logits.T - logits)))
    # The program waits for somebody to write into this pipe, and then computes for minutes.
    os.mkfifo(tmp_path / "r.csv")
    betas = ",".join(f"{beta:.6g}" for beta in np.geomspace(1e-6, 1e-5, 1000))
    endless = ["--beta", betas, "--tol", "1e-12", "--max-queries", "2000000000"]
    with subprocess.Popen(
        [PROGRAM, "solve", "g.npy", "--reference", "r.csv", *endless],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        with open(open_pipe(tmp_path / "r.csv", process), "w") as pipe:
            pipe.write("item,probability\n" + "".join(f"{i},0.0025\n" for i in range(400)))
        time.sleep(2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout, stderr) == (130, "", "")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path):
    # More rows than a pipe holds.
    np.save(tmp_path / "g.npy", np.full((2000, 2, 2), 0.5))
    with subprocess.Popen(
        [PROGRAM, "solve", "g.npy", "--top", "0", "--output", "o.json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "g.npy: 2000 games of 2 items\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 0
    assert len(json.loads((tmp_path / "o.json").read_text())["policy"]) == 2000


# --- what is printed ---


def make_answer(items: tuple[str, ...], **changes: object) -> Answer:
    n = len(items)
    one = np.array(0.01)
    answer = Answer(
        items=items,
        several_betas=False,
        beta=one,
        policy=np.full(n, 1 / n),
        payoffs=np.full(n, 0.5),
        mean_win_rate=np.full(n, 0.5),
        comparisons=np.full(n, 12345.0),
        exploitability=np.array(4.01e-7),
        kl_bound=np.array(4.01e-5),
        queries=np.array(33),
        status=np.array("CONVERGED"),
    )
    return dataclasses.replace(answer, **changes)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("width", [30, 80, 10_000])
def test_numbers_are_whole_and_names_shortened_in_narrow_terminals(width: int):
    console = Console(file=io.StringIO(), width=width)
    report.show_mixture(console, make_answer((LONG_NAME, "b\x1b[2J")), (), top=10)
    printed = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert printed.count("12345\n") == printed.count("0.5000          0.5000") == 2
    assert (LONG_NAME in printed) == (width == 10_000)
    assert ("…" in printed) == (width < 10_000)
    assert "\x1b" not in printed
    if width == 80:
        assert max(map(len, printed.splitlines())) <= 80


def test_certificates_are_rounded_up():
    sentences = " ".join(report.certificate(make_answer(("a", "b")), ()))
    assert "Exploitability 4.1e-07: " in sentences
    assert "KL(mixture || exact equilibrium) <= 4.1e-05" in sentences
    assert f"by more than {np.ceil(1e4 * 0.5 * np.sqrt(2 * 4.01e-5)) / 1e4:.2g}." in sentences


def test_a_solve_that_went_wrong_says_so():
    nothing = make_answer(
        ("a", "b"), status=np.array("INVALID"), exploitability=np.array(np.inf), policy=np.full(2, np.nan)
    )
    assert report.certificate(nothing, ())[0].startswith("NOT solved")
    assert len(report.certificate(nothing, ())) == 1
    stalled = make_answer(("a", "b"), status=np.array("STALLED"))
    assert "float64" in report.certificate(stalled, ())[0]


def test_warnings_name_the_items_seen_least():
    comparisons = np.diag(np.arange(1.0, 8), 1)
    comparisons += comparisons.T
    game = GameFile(tuple("abcdefgh"), np.full((8, 8), 0.5), comparisons, 7.0)
    assert report.data_warnings(game) == [
        "21 of 28 pairs (75 %) were never compared; they count as 1/2.",
        "6 of 8 items have fewer than 10 comparisons: a (1), b (3), c (5), d (7), h (7) and 1 more; "
        "a prior shrinks rarely compared pairs towards 1/2.",
        "7 of 28 comparisons (25 %) are ties; each counts as half a win for both.",
    ]
