"""`nashjax rank` as a program: its answers in every form, its warnings, its errors and exit codes."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scripts import Done, call

pytest.importorskip("pyarrow", reason="needs the extra `rank`")

PROGRAM = Path(sys.executable).with_name("nashjax")
BATTLES = "model_a,model_b,winner,kind,judge\n" + "".join(
    f"{a},{b},{winner},{kind},{judge}\n"
    for judge in "uvw"
    for a, b, kind in [("x", "y", "one"), ("y", "z", "one"), ("z", "x", "one"), ("x", "y", "two")]
    for winner in ["model_a", "model_a", "tie" if judge == "u" else "model_b"]
)


def run(*arguments: object) -> Done:
    return call("rank", *arguments)


@pytest.fixture
def battles(tmp_path: Path) -> Path:
    path = tmp_path / "b.csv"
    path.write_text(BATTLES + "x,x,tie,one,u\n", encoding="utf-8")
    return path


def test_it_prints_the_table_and_writes_it(battles: Path, tmp_path: Path):
    output = tmp_path / "r.json"
    options = ["--beta", "0.1", "--bootstrap", "30", "--cluster", "judge", "--path", "--output", output]
    done = subprocess.run(
        [PROGRAM, "rank", battles, *options], capture_output=True, text=True, encoding="utf-8", timeout=180
    )
    assert done.returncode == 0, done.stderr
    assert "3 items, 36 comparisons" in done.stdout
    assert "95 % intervals by 30 resamples of clusters of judge" in done.stdout
    assert "The surest cycle: " in done.stdout
    assert f"warning: 1 row was left out: {battles}, line 38: items must be different, got 'x' twice." in done.stderr
    assert "warning: Only 3 clusters (judge)" in done.stderr
    assert "resamples" not in done.stderr.split("warning")[0]  # no progress bar where there is no terminal
    found = json.loads(output.read_text(encoding="utf-8"))
    assert (found["beta"], found["bootstrap"], found["bad_rows"]) == (0.1, 30, 1)
    assert sorted(item["item"] for item in found["items"]) == ["x", "y", "z"]
    assert sum(item["mass"] for item in found["items"]) == pytest.approx(1)
    assert found["path"]["beta"][-1] == 0
    assert all(f"{item['mass']:.4f}" in done.stdout for item in found["items"])
    assert done.stderr.count("warning: ") == len(found["warnings"])


def test_groups_pages_and_pictures(battles: Path, tmp_path: Path):
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    table, page, picture = tmp_path / "r.csv", tmp_path / "r.html", tmp_path / "r.svg"
    done = run(battles, "--by", "kind", "--bootstrap", "20", "--output", table, "--plot", picture)
    assert done.returncode == 0, done.stderr
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["kind"], row["item"]) for row in rows][3:] == [("two", "x"), ("two", "y")]
    assert {row["item"] for row in rows[:3]} == {"x", "y", "z"}
    assert done.stderr.count("1 row was left out: ") == 1  # which is of no group
    assert picture.read_text(encoding="utf-8").startswith("<?xml")
    assert run(battles, "--where", "kind=two", "--bootstrap", "20", "--output", page).returncode == 0
    assert "Ranking of b.csv" in page.read_text(encoding="utf-8")


def test_a_picture_that_cannot_be_drawn_is_refused_before_the_ranking(battles: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "nashjax.plotting", raising=False)
    monkeypatch.setattr("nashjax.ranking.rank", None)
    done = run(battles, "--plot", "r.png")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: nashjax.plotting needs matplotlib")
    assert done.stderr.endswith(': python -m pip install "nashjax[plot]"\n')


def test_more_groups_than_a_picture_has_room_for_are_refused_before_the_ranking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    path = tmp_path / "many.csv"
    rows = [f"{a},{b},model_a,g{k}" for k in range(13) for a, b in ("xy", "yx")]
    path.write_text("\n".join(["model_a,model_b,winner,group", *rows]) + "\n", encoding="utf-8")
    monkeypatch.setattr("nashjax.ranking.rank", None)
    done = run(path, "--by", "group", "--plot", tmp_path / "r.png")
    assert done.returncode == 2
    assert done.stderr == "error: --plot must be used with at most 12 groups, got 13.\n"


def test_a_matrix_with_its_number_of_comparisons(tmp_path: Path):
    path = tmp_path / "p.npy"
    np.save(path, np.array([[0.5, 0.75, 0.25], [0.25, 0.5, 0.75], [0.75, 0.25, 0.5]]))
    refused = run(path)
    assert refused.returncode == 2
    assert "must be a file with counts of comparisons, got a matrix. Say with --comparisons-per-pair" in refused.stderr
    done = run(path, "--comparisons-per-pair", "40", "--bootstrap", "20")
    assert done.returncode == 0, done.stderr
    assert "3 items, 120 comparisons" in done.stdout


ERRORS = {
    "suffix": (["--output", "r.txt"], "r.txt: suffix must be one of .json, .csv, .html, got '.txt'."),
    "picture": (["--plot", "r.gif"], "r.gif: suffix must be one of .png, .svg, .pdf, got '.gif'."),
    "strict": (["--strict"], "line 38: items must be different, got 'x' twice."),
    "cluster": (
        ["--cluster", "prompt"],
        "line 1: header must have the columns 'prompt', got 'model_a', 'model_b', 'winner', 'kind', 'jud",
    ),
    "where": (["--where", "kind"], "--where must be COLUMN=TEXT, got 'kind'."),
    "no such text": (["--where", "kind=three"], "column kind must contain 'three', got 'one', 'two'."),
    "beta": (["--beta", "-1"], "--beta must be a finite number >= 0, got '-1'."),
    "ties": (["--ties", "win"], "--ties must be one of 'half', 'drop', got 'win'."),
    "level": (["--level", "1"], "--level must be a finite number > 0 and <= 0.9999, got '1'."),
    "format": (["--format", "xml"], "--format must be one of battles, pairs, matrix, array, got 'xml'."),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_what_cannot_be_used(battles: Path, kind: str):
    arguments, message = ERRORS[kind]
    done = run(battles, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_group_that_cannot_be_ranked_is_named(battles: Path):
    done = run(battles, "--by", "judge", "--cluster", "judge")
    assert done.returncode == 2
    assert "error: u: cluster 'judge': number of names must be at least 2, got 1." in done.stderr


def test_an_output_is_not_the_input(battles: Path):
    done = run(battles, "--output", battles)
    assert done.returncode == 2
    assert "must be another file than the input" in done.stderr
