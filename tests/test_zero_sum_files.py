"""Zero-sum games in files and in the shell."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("typer", reason="the shell needs typer")

from scripts import call as run

from nashjax.files import BadInput, read_payoffs

TABLE = ",rock,paper,scissors,well\nrock,0,-1,1,-1\npaper,1,0,-1,1\nscissors,-1,1,0,-1\n"
VALUE = -1 / 9
"""Value of the game of `TABLE`: rows play 3/9, 4/9, 2/9 against 2/9, 4/9, 3/9 on paper, scissors and well."""


def test_a_table_of_payoffs_names_both_players(tmp_path):
    file = tmp_path / "payoffs.csv"
    file.write_text(TABLE)
    found = read_payoffs(file)
    assert found.rows == ("rock", "paper", "scissors")
    assert found.columns == ("rock", "paper", "scissors", "well")
    np.testing.assert_array_equal(found.payoffs[1], [1, 0, -1, 1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",a,b\nx,1,2\ny,nan,3\n", "line 3 (y), column a must be a finite number, got nan."),
        (",a,b\nx,1,2\ny,?,3\n", "line 3: a must be a finite number, got '?'."),
        (",a,a\nx,1,2\n", "column 3 must be a distinct name"),
        (",a,b\nx,1,2\nx,1,2\n", "line 3 must be a distinct name"),
        (",a,b\nx,1\n", "a record of 3 fields"),
        ("a\nx\n", "a header with the names of the columns"),
        ("", "must contain a header and rows below it"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, text, message):
    file = tmp_path / "payoffs.csv"
    file.write_text(text)
    with pytest.raises(BadInput) as error:
        read_payoffs(file)
    assert message in str(error.value)


def test_arrays_have_numbers_for_names(tmp_path):
    file = tmp_path / "payoffs.npy"
    np.save(file, np.zeros((5, 2, 3)))
    assert read_payoffs(file).columns == ("0", "1", "2")
    np.save(file, np.zeros(3))
    with pytest.raises(BadInput, match=r"an array \[..., n1, n2\]"):
        read_payoffs(file)


def test_the_shell_solves_and_writes(tmp_path):
    file, output = tmp_path / "payoffs.csv", tmp_path / "answer.json"
    file.write_text(TABLE)
    shown = run("solve", str(file), "--zero-sum", "--beta", "0", "--output", str(output))
    assert shown.returncode == 0
    assert "value for the row player -0.11111" in shown.stdout
    answer = json.loads(output.read_text())
    assert answer["value"] == pytest.approx(VALUE, abs=1e-6)
    assert answer["row_policy"] == pytest.approx([3 / 9, 4 / 9, 2 / 9], abs=1e-6)
    assert answer["columns"] == ["rock", "paper", "scissors", "well"]
    for suffix in (".csv", ".npz"):
        assert run("solve", str(file), "--zero-sum", "--output", str(output.with_suffix(suffix))).returncode == 0
    with np.load(output.with_suffix(".npz")) as arrays:
        assert arrays["column_policy"].shape == (4,)
    assert output.with_suffix(".csv").read_text().splitlines()[0].startswith("beta,player,action,probability,payoff")


def test_the_shell_solves_many_games(tmp_path):
    file = tmp_path / "payoffs.npy"
    np.save(file, np.random.default_rng(0).normal(size=(3, 2, 4)))
    shown = run("solve", str(file), "--zero-sum", "--beta", "0.5", "--top", "2")
    assert shown.returncode == 0
    assert "3 of 3 solved." in shown.stdout
    assert "1 more row" in shown.stdout


def test_options_for_comparisons_and_payoffs_out_of_range_are_refused(tmp_path):
    file = tmp_path / "payoffs.csv"
    file.write_text(TABLE)
    refused = run("solve", str(file), "--zero-sum", "--prior", "1")
    assert refused.returncode == 2
    assert "--prior must be left out with --zero-sum" in refused.stderr
    file.write_text(TABLE.replace("rock,0", "rock,1e39"))
    refused = run("solve", str(file), "--zero-sum")
    assert refused.returncode == 2
    assert "line 2 (rock), column rock must be at most 3.4e+38" in refused.stderr
    assert "Use --x64." in refused.stderr
