"""Reading games and references, every kind of bad input, and writing answers.

One file, though long: all forms of files share what writes them.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nashjax.files import Answer, BadInput, Columns, check_output, memory, read_games, read_reference, write_answer
from nashjax.files.source import Source

ROCK_PAPER_SCISSORS = np.array([[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]])

# --- what can be read ---


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("food", "pairs.csv"),
        ("football_men", "pairs.csv"),
        ("llm_crowd", "battles.csv"),
        ("soccer_agents", "winrates.csv"),
    ],
)
def test_real_data_loads_to_the_reference(data: Path, name: str, file: str):
    game = read_games(data / name / file)
    reference = json.loads((data / name / "reference.json").read_text())
    P = game.preferences
    assert list(game.items) == reference["items"]
    np.testing.assert_allclose((P**2).sum(), reference["checks"]["sum_P_squared"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(P.mean(axis=1), reference["checks"]["row_mean"], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(P + P.T, 1)
    if game.comparisons is not None:
        assert game.comparisons.sum() / 2 == reference["comparisons"]
        assert game.ties == reference["ties"]


def test_npy_of_a_batch(tmp_path: Path):
    batch = np.broadcast_to(ROCK_PAPER_SCISSORS, (2, 4, 3, 3))
    np.save(tmp_path / "g.npy", batch)
    game = read_games(tmp_path / "g.npy")
    assert game.items == ("0", "1", "2")
    np.testing.assert_array_equal(game.preferences, batch)
    assert game.preferences.dtype == np.float64
    assert game.comparisons is None


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ">f8"])
def test_npy_in_other_dtypes_and_orders(tmp_path: Path, dtype: str):
    np.save(tmp_path / "g.npy", np.asfortranarray(ROCK_PAPER_SCISSORS.astype(dtype)))
    np.testing.assert_array_equal(read_games(tmp_path / "g.npy").preferences, ROCK_PAPER_SCISSORS)


def test_sums_that_are_1_only_to_rounding_are_made_exact(tmp_path: Path):
    upper = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    P = np.where(np.triu(np.ones_like(upper), 1) > 0, upper, 1 - upper.T)
    np.fill_diagonal(P, 0.5)
    np.save(tmp_path / "g.npy", P)
    read = read_games(tmp_path / "g.npy").preferences
    np.testing.assert_array_equal(read + read.T, 1)
    np.testing.assert_allclose(read, P, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["g.npy", "g.npz"])
def test_half_precision_needs_to_sum_to_1_within_its_own_rounding_only(tmp_path: Path, name: str):
    P = np.array([[0.5, 0.1, 0.3], [0.9, 0.5, 0.7], [0.7, 0.3, 0.5]], np.float16)
    assert np.abs(P.astype(float) + P.T.astype(float) - 1).max() > 1e-5
    path = tmp_path / name
    np.save(path, P) if name == "g.npy" else np.savez(path, P)
    read = read_games(path).preferences
    np.testing.assert_array_equal(read + read.T, 1)
    np.testing.assert_allclose(read, P, rtol=0, atol=5e-4)
    P[0, 1] = 0.2
    np.save(path, P) if name == "g.npy" else np.savez(path, P)
    assert "must satisfy P[i, j] + P[j, i] = 1 within 1e-6" in _error(lambda: read_games(path))


def test_a_diagonal_without_numbers_becomes_one_half(tmp_path: Path):
    P = np.array(ROCK_PAPER_SCISSORS, np.float64)
    P[1, 1], P[2, 2] = np.nan, np.inf
    np.save(tmp_path / "g.npy", P)
    np.testing.assert_array_equal(read_games(tmp_path / "g.npy").preferences, ROCK_PAPER_SCISSORS)


@pytest.mark.parametrize("filler", [0.0, np.nan, np.inf, -7.0])
def test_nothing_in_excluded_rows_and_columns_of_an_array_is_checked(tmp_path: Path, filler: float):
    P = np.full((2, 5, 5), filler)
    P[:, :3, :3] = ROCK_PAPER_SCISSORS
    P[0, 3, 4], P[0, 4, 3] = 0.25, 0.75
    np.save(tmp_path / "g.npy", P)
    game = read_games(tmp_path / "g.npy", reference=Source("0.2,0.3,0.5,0,0"))
    np.testing.assert_array_equal(game.reference, [0.2, 0.3, 0.5, 0, 0])
    expected = np.full((2, 5, 5), 0.5)
    expected[:, :3, :3] = ROCK_PAPER_SCISSORS
    expected[0, 3, 4], expected[0, 4, 3] = 0.25, 0.75  # as a game has
    np.testing.assert_array_equal(game.preferences, expected)
    assert "g.npy, entry [0, 0, 3] must " in _error(
        lambda: read_games(tmp_path / "g.npy", reference=Source("0.2,0.3,0.4,0.1,0"))
    )


def test_pairs_that_any_of_several_references_allows_are_checked(tmp_path: Path):
    P, path = np.array(ROCK_PAPER_SCISSORS, np.float64), tmp_path / "g.npy"
    P[0, 1] = np.nan
    np.save(path, P)
    np.save(tmp_path / "apart.npy", np.array([[0.5, 0, 0.5], [0, 0.5, 0.5]]))
    game = read_games(path, reference=Source(tmp_path / "apart.npy"))
    np.testing.assert_array_equal(game.preferences, [[0.5, 0.5, 1], [0.5, 0.5, 0], [0, 1, 0.5]])
    np.save(tmp_path / "together.npy", np.array([[0.5, 0, 0.5], [0.5, 0.5, 0]]))
    message = _error(lambda: read_games(path, reference=Source(tmp_path / "together.npy")))
    assert "g.npy, entry [0, 1] must be a finite probability, got nan." in message
    np.save(path, np.stack([P, np.array(ROCK_PAPER_SCISSORS)]))
    assert read_games(path, reference=Source(tmp_path / "together.npy")).preferences[0, 0, 1] == 0.5, "its own one"


def test_cells_of_excluded_items_of_a_matrix_may_hold_anything(tmp_path: Path):
    path = _write(tmp_path, "item,a,b,c\na,0.5,,0.25\nb,nan,?,-3\nc,0.75,x,0.5\n")
    game = read_games(path, reference=Source("0.5,0,0.5"))
    np.testing.assert_array_equal(game.preferences, [[0.5, 0.5, 0.25], [0.5, 0.5, 0.5], [0.75, 0.5, 0.5]])
    for reference in (None, Source("0.25,0.25,0.5")):
        message = _error(lambda reference=reference: read_games(path, reference=reference))
        assert "line 2: b must be a number in [0, 1], got ''." in message


def test_npz_with_names(tmp_path: Path):
    np.savez(tmp_path / "g.npz", preferences=ROCK_PAPER_SCISSORS, items=np.array(["r", "p", "s"]), other=np.ones(2))
    game = read_games(tmp_path / "g.npz")
    assert game.items == ("r", "p", "s")
    np.testing.assert_array_equal(game.preferences, ROCK_PAPER_SCISSORS)


def test_npz_with_one_array_of_any_name(tmp_path: Path):
    np.savez_compressed(tmp_path / "g.npz", anything=ROCK_PAPER_SCISSORS)
    np.testing.assert_array_equal(read_games(tmp_path / "g.npz").preferences, ROCK_PAPER_SCISSORS)


def test_matrix_keeps_the_order_of_the_file(tmp_path: Path):
    game = read_games(_write(tmp_path, "corner, rock ,paper,scissors\nrock,.5,0,1\npaper,1,.5,0\n\nscissors,0,1,.5\n"))
    assert game.items == ("rock", "paper", "scissors")
    np.testing.assert_array_equal(game.preferences, ROCK_PAPER_SCISSORS)


def test_pairs_add_up_in_both_orders(tmp_path: Path):
    # b against a: 1 + 3 wins, 2 + 1 losses, 1 tie; c and a were never compared.
    text = "note,wins_b,item_b,item_a,wins_a,ties\nx,1,b,a,2,1\ny,1,a,b,3,0\nz,0.5,c,b,0,0\n"
    game = read_games(_write(tmp_path, text))
    assert game.items == ("a", "b", "c")
    np.testing.assert_allclose(game.preferences, [[0.5, 3.5 / 8, 0.5], [4.5 / 8, 0.5, 0], [0.5, 1, 0.5]], atol=1e-16)
    np.testing.assert_array_equal(game.comparisons, [[0, 8, 0], [8, 0, 0.5], [0, 0.5, 0]])
    assert game.ties == 1


def test_pairs_without_ties_and_with_a_prior(tmp_path: Path):
    path = _write(tmp_path, "item_a,item_b,wins_a,wins_b\nb,a,3,1\nc,d,0,0\n")
    P = read_games(path, prior=4).preferences
    assert P[1, 0] == (3 + 2) / (4 + 4)
    assert P[2, 3] == 0.5
    assert read_games(path).preferences[1, 0] == 0.75


def test_battles_with_every_winner_word(tmp_path: Path):
    words = ["model_a", "model_a", "model_b", "tie", "Draw", "BOTH", " bothbad ", "tie (bothbad)", "Model_A"]
    rows = "".join(f"y,x,{word}\n" for word in words)
    game = read_games(_write(tmp_path, "model_a,model_b,winner\n" + rows))
    assert game.items == ("x", "y")
    assert game.ties == 5
    np.testing.assert_allclose(game.preferences[1, 0], (3 + 2.5) / 9)


def test_battles_with_other_columns_and_words(tmp_path: Path):
    path = _write(tmp_path, "left,who,right\nx,left,y\ny,model_b,x\nx,=,y\nx,same,y\n")
    game = read_games(path, columns=Columns("left", "right", "who"), tie_words=["=", "SAME"])
    assert game.ties == 2
    np.testing.assert_allclose(game.preferences[0, 1], 3 / 4)


def test_battles_with_swapped_column_names(tmp_path: Path):
    path = _write(tmp_path, "model_a,model_b,winner\nx,y,model_b\n")
    game = read_games(path, columns=Columns("model_b", "model_a"))
    assert game.preferences[1, 0] == 1  # y, in the column model_b, won


def test_byte_order_mark_quotes_and_windows_lines(tmp_path: Path):
    text = '\ufeffmodel_a,model_b,winner\r\n"x, the ""first""",Größe,model_a\r\n'
    assert read_games(_write(tmp_path, text)).items == ("Größe", 'x, the "first"')


def test_format_can_be_named(tmp_path: Path):
    path = _write(tmp_path, "item_a,item_b,wins_a,wins_b,model_a,model_b,winner\na,b,1,0,c,d,tie\n", "g.txt")
    assert read_games(path, format="pairs").items == ("a", "b")
    assert read_games(path, format="battles").items == ("c", "d")


# --- what cannot be read ---

PAIRS = "item_a,item_b,wins_a,wins_b,ties\n"
BATTLES = "model_a,model_b,winner\n"

BAD_TABLES = {
    "empty": ("", "must contain a header and rows below it, got an empty file."),
    "only empty lines": ("\n\n", "must contain a header and rows below it, got an empty file."),
    "header only": (
        PAIRS,
        "must contain a header and rows below it, got the header 'item_a', 'item_b', 'wins_a', 'wins_b',",
    ),
    "unknown header": (
        "who,what\n1,2\n",
        "line 1: header must be that of battles (model_a,model_b,winner), pairs (item_a,item_b,wins_a,wi",
    ),
    "negative count": (PAIRS + "a,b,-3,1,0\n", "line 2: wins_a must be a count >= 0 and <= 1e+15, got -3."),
    "no count": (PAIRS + "a,b,1,1,0\na,b,1,many,0\n", "line 3: wins_b must be a count >= 0 and <= 1e+15, got 'many'."),
    "empty count": (PAIRS + "a,b,1,1,\n", "line 2: ties must be a count >= 0 and <= 1e+15, got ''."),
    "count nan": (PAIRS + "a,b,nan,1,0\n", "line 2: wins_a must be a count >= 0 and <= 1e+15, got nan."),
    "count inf": (PAIRS + "a,b,inf,1,0\n", "line 2: wins_a must be a count >= 0 and <= 1e+15, got inf."),
    "pair with itself": (PAIRS + "a, a,1,1,0\n", "line 2: items must be different, got 'a' twice."),
    "empty name": (PAIRS + " ,a,1,1,0\n", "line 2: name must be the name of an item, got an empty text."),
    "row cut short": (
        PAIRS + "a,b,1,1,0\na,c,1",
        "line 3 must be a record of 5 fields, as in the header, got 3 fields.",
    ),
    "row too long": (BATTLES + "a,b,tie,tie\n", "line 2 must be a record of 3 fields, as in the header, got 4 fields."),
    "quote not closed": (
        BATTLES + 'a,b,"tie\n',
        "line 2 must be a CSV record with its quotes closed, got unexpected end of data.",
    ),
    "column twice": (
        "model_a,model_a,model_b,winner\na,b,c,tie\n",
        "line 1: columns must be distinct, got 'model_a' twice.",
    ),
    "winner word": (
        BATTLES + "a,b,tie\nb,a,Left\n",
        "line 3: winner must be one of 'tie', 'draw', 'both', 'bothbad', 'tie (bothbad)', 'model_a', 'mo",
    ),
    "self battle": (BATTLES + "a,b,tie\nb,b,tie\n", "line 3: items must be different, got 'b' twice."),
    "matrix not square": (
        ",a,b\na,.5,1\n",
        "must be a square matrix, with as many rows as columns, got 2 columns and 1 rows.",
    ),
    "matrix with a row more": (
        ",a,b\na,.5,1\nb,0,.5\nc,0,0\n",
        "must be a square matrix, with as many rows as columns, got 2 columns and more rows.",
    ),
    "matrix row cut short": (
        ",a,b\na,.5,1\nb,0\n",
        "line 3 must be a record of 3 fields, as in the header, got 2 fields.",
    ),
    "matrix in another order": (",a,b,c\nb,0,0,0\n", "line 2: name must be 'a', in the order of the header, got 'b'."),
    "matrix name twice": (",a,a\na,.5,1\n", "line 1, column 3 must be a distinct name, got 'a' a second time."),
    "matrix empty name": (",a,\na,.5,1\n", "line 1, column 3 must be the name of an item, got an empty text."),
    "matrix of one": (",a\na,.5\n", "line 1, column 2: number of items must be at least 2, got 1."),
    "matrix text": (",a,b\na,.5,x\nb,0,.5\n", "line 2: b must be a number in [0, 1], got 'x'."),
    "matrix nan": (",a,b\na,.5,1\nb,nan,.5\n", "line 3 (b), column a must be a finite probability, got nan."),
    "matrix inf": (",a,b\na,.5,-inf\nb,0,.5\n", "line 2 (a), column b must be a finite probability, got -inf."),
    "matrix outside": (",a,b\na,.5,1.5\nb,-.5,.5\n", "line 2 (a), column b must be a probability in [0, 1], got 1.5."),
    "matrix sum": (
        ",a,b,c\na,.5,.6,.6\nb,.4,.5,0\nc,.3,1,.5\n",
        "line 2 (a), column c must satisfy P[i, j] + P[j, i] = 1 within 1e-6, got 0.6, and 0.3 at the mirrore",
    ),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_table(tmp_path: Path, case: str):
    text, message = BAD_TABLES[case]
    path = _write(tmp_path, text)
    assert message in _error(lambda: read_games(path))
    assert str(path) in _error(lambda: read_games(path))


def test_wrong_encoding_names_line_and_byte(tmp_path: Path):
    path = tmp_path / "g.csv"
    path.write_bytes((BATTLES + "a,b,tie\na,Größe,tie\n").encode("latin-1"))
    assert "line 3 must be text in UTF-8, got byte 0xf6 at position 5 of the line." in _error(lambda: read_games(path))
    path.write_bytes(BATTLES.encode("utf-16"))
    assert "line 1 must be text in UTF-8, got byte 0xff" in _error(lambda: read_games(path))


def test_missing_columns_of_a_named_format(tmp_path: Path):
    path = _write(tmp_path, "model_a,model_b,result\na,b,tie\n")
    message = _error(lambda: read_games(path, format="battles"))
    assert "header must have the columns 'winner', got 'model_a', 'model_b', 'result'." in message
    message = _error(lambda: read_games(path, columns=Columns(winner="outcome")))
    assert "header must be that of battles (model_a,model_b,outcome)" in message


def test_names_cannot_steer_the_terminal(tmp_path: Path):
    message = _error(lambda: read_games(_write(tmp_path, BATTLES + "a,\x1b[2J,\x1b]0;x\x07\n")))
    assert message.isprintable()
    path = _write(tmp_path, ",a\x1b[31m,b\na\x1b[31m,.5,2\nb,0,.5\n", "m\n.csv")
    assert "m\\n.csv, line 2 (a\\x1b[31m), column b" in _error(lambda: read_games(path))


BAD_ARRAYS = {
    "not square": (np.zeros((2, 3)), "must be a square matrix [..., n, n] with n >= 2, got shape [2, 3]."),
    "vector": (np.zeros(4), "must be a square matrix [..., n, n] with n >= 2, got shape [4]."),
    "scalar": (np.zeros(()), "must be a square matrix [..., n, n] with n >= 2, got shape []."),
    "one item": (np.full((1, 1), 0.5), "must be a square matrix [..., n, n] with n >= 2, got shape [1, 1]."),
    "no games": (np.zeros((0, 3, 3)), "must be a square matrix [..., n, n] with n >= 2, got shape [0, 3, 3]."),
    "text": (np.array([["a", "b"], ["c", "d"]]), "dtype must be a real number type, got <U1."),
    "complex": (np.zeros((2, 2), complex), "dtype must be a real number type, got complex128."),
    "objects": (np.array([[None, 1], [2, 3]]), "dtype must be a number type, got object."),
    "records": (np.zeros((2, 2), [("a", float)]), "dtype must be a real number type, got [('a', '<f8')]."),
    "nan": (
        np.array([[[0.5, 0], [1, 0.5]], [[0.5, np.nan], [1, 0.5]]]),
        "entry [1, 0, 1] must be a finite probability, got nan.",
    ),
    "outside": (np.array([[0.5, 1.25], [-0.25, 0.5]]), "entry [0, 1] must be a probability in [0, 1], got 1.25."),
    "sum": (
        np.array([[0.5, 0.75], [0.5, 0.5]]),
        "entry [0, 1] must satisfy P[i, j] + P[j, i] = 1 within 1e-6, got 0.75, and 0.5 at the mirrored entry",
    ),
    "bool": (np.eye(2) == 0, "entry [0, 1] must satisfy P[i, j] + P[j, i] = 1 within 1e-6, got 1.0, and 1.0 at"),
    "integers": (np.array([[0, 1], [1, 0]]), "entry [0, 1] must satisfy P[i, j] + P[j, i] = 1 within 1e-6, got 1.0"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_array(tmp_path: Path, case: str):
    array, message = BAD_ARRAYS[case]
    np.save(tmp_path / "g.npy", array, allow_pickle=True)
    assert message in _error(lambda: read_games(tmp_path / "g.npy"))


def test_damaged_arrays(tmp_path: Path):
    np.save(tmp_path / "g.npy", ROCK_PAPER_SCISSORS)
    whole = (tmp_path / "g.npy").read_bytes()
    for size, message in [
        (0, "got an unreadable header."),
        (60, "got an unreadable header."),
        (150, "must be 72 bytes long after its header"),
    ]:
        (tmp_path / "g.npy").write_bytes(whole[:size])
        assert message in _error(lambda: read_games(tmp_path / "g.npy"))
    np.savez(tmp_path / "g.npz", preferences=ROCK_PAPER_SCISSORS)
    whole = (tmp_path / "g.npz").read_bytes()
    (tmp_path / "g.npz").write_bytes(whole[: len(whole) // 2])
    assert "must be an undamaged numpy file, got BadZipFile: File is not a zip file." in _error(
        lambda: read_games(tmp_path / "g.npz")
    )
    middle = whole.index(np.float64(0.5).tobytes())
    (tmp_path / "g.npz").write_bytes(whole[:middle] + b"x" + whole[middle + 1 :])
    assert "must be an undamaged numpy file, got BadZipFile: Bad CRC-32" in _error(
        lambda: read_games(tmp_path / "g.npz")
    )


BAD_NPZ = {
    "several arrays": (
        {"a": np.ones(2), "b": np.ones(2)},
        "must be an archive with an array 'preferences', got arrays 'a', 'b'.",
    ),
    "names missing": (
        {"preferences": ROCK_PAPER_SCISSORS, "items": np.array(["a", "b"])},
        "array items: shape must be [3], a name for each item, got [2].",
    ),
    "names twice": (
        {"preferences": ROCK_PAPER_SCISSORS, "items": np.array(list("aba"))},
        "items[2] must be a distinct name, got 'a' a second time.",
    ),
    "names empty": (
        {"preferences": ROCK_PAPER_SCISSORS, "items": np.array(["a", "", "b"])},
        "items[1] must be the name of an item, got an empty text.",
    ),
    "names of floats": (
        {"preferences": ROCK_PAPER_SCISSORS, "items": np.ones(3)},
        "array items must be integers or text of at most 10000 characters, got dtype float64.",
    ),
    "names that are no text": (
        {"p": ROCK_PAPER_SCISSORS, "items": np.array(["a", "b", "\ud800"])},
        "name must be text in Unicode, got '\\ud800'.",
    ),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_bad_npz(tmp_path: Path, case: str):
    arrays, message = BAD_NPZ[case]
    np.savez(tmp_path / "g.npz", **arrays)
    assert message in _error(lambda: read_games(tmp_path / "g.npz"))


def test_npz_without_arrays(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "g.npz", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    assert "must be an archive with an array 'preferences', got no array." in _error(
        lambda: read_games(tmp_path / "g.npz")
    )


def test_files_that_are_not_there(tmp_path: Path):
    assert "no.csv must be a file that exists" in _error(lambda: read_games(tmp_path / "no.csv"))
    assert "no.npy must be a file that exists" in _error(lambda: read_games(tmp_path / "no.npy"))
    assert "must be a file, got a directory." in _error(lambda: read_games(tmp_path))
    assert "suffix must be one of .npy, .npz, .csv, got '.xls'." in _error(lambda: read_games(tmp_path / "g.xls"))
    assert "format must be one of array, matrix, pairs, battles, got 'json'." in _error(
        lambda: read_games("g", format="json")
    )


def test_prior_needs_counts_and_a_number(tmp_path: Path):
    np.save(tmp_path / "g.npy", ROCK_PAPER_SCISSORS)
    assert "has no counts" in _error(lambda: read_games(tmp_path / "g.npy", prior=1))
    matrix = _write(tmp_path, ",a,b\na,.5,1\nb,0,.5\n")
    assert "has no counts" in _error(lambda: read_games(matrix, prior=1))
    for prior in (-1.0, float("nan"), float("inf")):
        assert f"prior must be a finite number >= 0, got {prior}." in _error(
            lambda prior=prior: read_games(matrix, prior=prior)
        )


def test_too_large_is_said_before_anything_is_allocated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with open(tmp_path / "g.npy", "wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (5, 2_000_000, 2_000_000)}
        np.lib.format.write_array_header_1_0(stream, header)
    message = _error(lambda: read_games(tmp_path / "g.npy"))
    assert "got 5 games of 2000000 items, which needs about 960,000.0 GB." in message
    monkeypatch.setattr(memory, "available_memory", lambda: 3 * 48 * 9)
    battles = _write(tmp_path, BATTLES + "a,b,tie\n" * 50 + "b,c,tie\n")
    assert len(read_games(battles).items) == 3
    monkeypatch.setattr(memory, "available_memory", lambda: 48 * 9 - 1)
    assert "g.csv must be small enough for the 0.000431 MB of free memory, got a game of 3 items" in _error(
        lambda: read_games(battles)
    )
    matrix = _write(tmp_path, ",a,b,c\na,.5,0,0\nb,1,.5,0\nc,1,1,.5\n")
    assert "got a game of 3 items" in _error(lambda: read_games(matrix))


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs Linux")
def test_available_memory_is_known_here():
    available = memory.available_memory()
    assert available is not None
    assert 2**20 < available < 2**50


def test_a_group_of_processes_has_what_its_limit_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "_CGROUPS", ((tmp_path, "most", "used", ("cached", "more")),))
    (tmp_path / "memory.stat").write_text("anon 500\ncached 300\nmore 50\n")
    (tmp_path / "used").write_text("900\n")
    (tmp_path / "most").write_text("1000\n")
    assert memory.available_memory() == 1000 - 900 + 350
    (tmp_path / "memory.stat").unlink()
    assert memory.available_memory() == 100
    (tmp_path / "most").write_text("max\n")
    assert memory.available_memory() != 100


# --- references ---

ITEMS = ("a", "b", "c")


def test_reference_in_every_form(tmp_path: Path):
    expected = [0.5, 0.0, 0.5]
    table = _write(tmp_path, "probability,item\n0.5,c\n0.5,a\n0,b\n", "r.csv")
    (tmp_path / "r.json").write_text('{"c": 0.5, "b": 0, "a": 5e-1}')
    np.save(tmp_path / "r.npy", np.array(expected, np.float32))
    for source in (table, tmp_path / "r.json", tmp_path / "r.npy", "0.5, 0,0.5"):
        np.testing.assert_array_equal(read_reference(source, ITEMS), expected)
    np.save(tmp_path / "r.npy", np.tile(expected, (4, 1)))
    assert read_reference(tmp_path / "r.npy", ITEMS, (2, 4)).shape == (4, 3)


BAD_REFERENCES = {
    "negative": ("r", "-0.5,1,0.5", "reference -0.5,1,0.5, entry [0] (a) must be a probability >= 0, got -0.5."),
    "nan": ("r", "0.5,nan,0.5", "reference 0.5,nan,0.5, entry [1] (b) must be a probability >= 0, got nan."),
    "all zero": ("r", "0,0,0", "reference 0,0,0 must be probabilities that sum to 1 within 1e-06, got only zeros."),
    "sum": (
        "r",
        "0.5,0.5,0.5",
        "reference 0.5,0.5,0.5 must be probabilities that sum to 1 within 1e-06, got a sum of 1.5.",
    ),
    "too few": ("r", "0.5,0.5", "reference 0.5,0.5: shape must be [3], a probability for each item, got [2]."),
    "not a file": (
        "r",
        "uniform",
        "reference must be a .csv file (item,probability), a .json file ({item: probability}), a .npy fi",
    ),
    "csv missing": (
        "r.csv",
        "item,probability\na,1\n",
        "must contain a probability for each item, got none for 'b', 'c'. A probability of 0 excludes an",
    ),
    "csv unknown": (
        "r.csv",
        "item,probability\nz,1\n",
        "line 2: item must be an item of the game: 'a', 'b', 'c', got 'z'.",
    ),
    "csv twice": ("r.csv", "item,probability\na,1\na,1\n", "line 3: item must be distinct, got 'a' a second time."),
    "csv text": ("r.csv", "item,probability\na,x\n", "line 2: probability must be a probability >= 0, got 'x'."),
    "csv header": ("r.csv", "a,b\n1,2\n", "line 1: header must have the columns 'item', 'probability', got 'a', 'b'."),
    "csv negative": (
        "r.csv",
        "item,probability\na,1\nb,-1\nc,1\n",
        "entry [1] (b) must be a probability >= 0, got -1.0.",
    ),
    "json unknown": ("r.json", '{"z": 1}', "item must be an item of the game: 'a', 'b', 'c', got 'z'."),
    "json twice": ("r.json", '{"a": 1, "a": 0}', "item must be distinct, got 'a' a second time."),
    "json missing": (
        "r.json",
        '{"a": 1}',
        "must contain a probability for each item, got none for 'b', 'c'. A probability of 0 excludes an",
    ),
    "json text": ("r.json", '{"a": "1"}', "item a must be a probability >= 0, got '1'."),
    "json list": ("r.json", "[1, 0, 0]", "must be an object {item: probability}, got a list."),
    "json cut short": (
        "r.json",
        '{"a": 1,\n',
        "line 2, column 1 must be valid JSON, got the fault 'Expecting property name enclosed in double ",
    ),
    "json deep": ("r.json", "[" * 100_000, "must be an undamaged JSON file, got nesting that is too deep."),
    "json nan": ("r.json", '{"a": NaN, "b": 0, "c": 1}', "entry [0] (a) must be a probability >= 0, got nan."),
    "json huge": (
        "r.json",
        '{"a": 1' + "0" * 400 + ', "b": 0, "c": 1}',
        "entry [0] (a) must be a probability >= 0, got inf.",
    ),
    "missing file": ("", "no.json", "no.json must be a file that exists, got a path where nothing is."),
}


@pytest.mark.parametrize("case", BAD_REFERENCES)
def test_bad_reference(tmp_path: Path, case: str):
    name, text, message = BAD_REFERENCES[case]
    source = _write(tmp_path, text, name) if "." in name else text
    assert message in _error(lambda: read_reference(source, ITEMS))


def test_reference_arrays_that_do_not_fit(tmp_path: Path):
    np.save(tmp_path / "r.npy", np.full((2, 3), 1 / 3))
    message = _error(lambda: read_reference(tmp_path / "r.npy", ITEMS, (4,)))
    assert "batch shape must be one that broadcasts with that of the games, [4], got [2]." in message
    np.save(tmp_path / "r.npy", np.array([[0.5, 0.5, 0], [0.5, 0.25, 0]]))
    assert "entry [1] must be probabilities that sum to 1 within 1e-06, got a sum of 0.75." in _error(
        lambda: read_reference(tmp_path / "r.npy", ITEMS)
    )
    np.save(tmp_path / "r.npy", np.array(["a", "b", "c"]))
    assert "dtype must be a real number type, got <U1." in _error(lambda: read_reference(tmp_path / "r.npy", ITEMS))


# --- answers ---


def make_answer(axes: tuple[int, ...] = (), several_betas: bool = False, beta: float = 0.1) -> Answer:
    rng = np.random.default_rng(0)
    policy = rng.dirichlet(np.ones(3), axes)
    return Answer(
        items=("a", 'b,"\n', "ü"),
        several_betas=several_betas,
        beta=np.full(axes, beta),
        policy=policy,
        payoffs=policy / 3,
        mean_win_rate=np.full_like(policy, 0.5),
        comparisons=None if axes else np.array([4.0, 5.0, 6.0]),
        exploitability=np.full(axes, 1e-7),
        kl_bound=np.full(axes, 1e-6 if beta else np.inf),
        queries=np.full(axes, 7),
        status=np.full(axes, "CONVERGED"),
    )


def test_json_of_one_game(tmp_path: Path):
    answer = make_answer()
    write_answer(tmp_path / "o.json", answer)
    written = json.loads((tmp_path / "o.json").read_text())
    assert list(written) == [
        "items", "beta", "policy", "payoffs", "mean_win_rate", "comparisons",
        "exploitability", "kl_bound", "queries", "status",
    ]  # fmt: skip
    assert written["comparisons"] == [4, 5, 6]
    assert written["items"] == list(answer.items)
    assert written["policy"] == answer.policy.tolist()  # to the last digit
    assert (written["beta"], written["queries"], written["status"]) == (0.1, 7, "CONVERGED")
    assert written["kl_bound"] == 1e-6


def test_no_name_in_a_csv_file_is_a_formula(tmp_path: Path):
    answer = dataclasses.replace(make_answer(), items=("=HYPERLINK(1)", "@x", "y=z"))
    write_answer(tmp_path / "o.csv", answer)
    with open(tmp_path / "o.csv", newline="", encoding="utf-8") as stream:
        assert [row["item"] for row in csv.DictReader(stream)] == ["'=HYPERLINK(1)", "'@x", "y=z"]


def test_json_of_a_batch_at_beta_0_has_no_infinity(tmp_path: Path):
    answer = make_answer((2, 4), several_betas=True, beta=0.0)
    answer.policy[1, 2] = np.nan
    write_answer(tmp_path / "o.json", answer)
    text = (tmp_path / "o.json").read_text()
    assert "Infinity" not in text
    assert "NaN" not in text
    written = json.loads(text)
    assert np.shape(written["policy"]) == (2, 4, 3)
    assert written["policy"][1][2] == [None, None, None]
    assert written["kl_bound"] == [[None] * 4] * 2
    assert written["comparisons"] is None
    assert np.shape(written["mean_win_rate"]) == (2, 4, 3)
    assert written["status"] == [["CONVERGED"] * 4] * 2


def test_csv_of_one_game_and_of_a_batch(tmp_path: Path):
    answer = make_answer()
    write_answer(tmp_path / "o.csv", answer)
    with open(tmp_path / "o.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    of_item = ["beta", "item", "probability", "payoff", "mean_win_rate", "comparisons"]
    assert list(rows[0]) == [*of_item, "exploitability", "kl_bound", "queries", "status"]
    assert {row["status"] for row in rows} == {"CONVERGED"}
    assert [float(row["exploitability"]) for row in rows] == [float(answer.exploitability)] * len(rows)
    assert tuple(row["item"] for row in rows) == answer.items
    assert [float(row["probability"]) for row in rows] == answer.policy.tolist()
    assert rows[0]["comparisons"] == "4.0"

    write_answer(tmp_path / "o.csv", make_answer((2, 4), several_betas=True))
    with open(tmp_path / "o.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 4 * 3
    assert [row["game"] for row in rows[::3]] == ["0", "1", "2", "3"] * 2
    assert rows[0]["comparisons"] == ""


def test_npz(tmp_path: Path):
    answer = make_answer((4,))
    write_answer(tmp_path / "o.npz", answer)
    with np.load(tmp_path / "o.npz", allow_pickle=False) as written:
        assert set(written) == {
            "items", "beta", "policy", "payoffs", "mean_win_rate", "exploitability", "kl_bound", "queries", "status",
        }  # fmt: skip
        assert tuple(written["items"]) == answer.items
        assert "comparisons" not in written
        np.testing.assert_array_equal(written["policy"], answer.policy)
        assert written["status"].tolist() == ["CONVERGED"] * 4


def test_npz_of_one_game_has_its_comparisons(tmp_path: Path):
    write_answer(tmp_path / "o.npz", make_answer())
    with np.load(tmp_path / "o.npz", allow_pickle=False) as written:
        assert written["comparisons"].tolist() == [4, 5, 6]
        assert written["mean_win_rate"].tolist() == [0.5] * 3


def test_an_answer_to_one_game_is_a_reference(tmp_path: Path):
    """Also where names begin like formulas."""
    answer = dataclasses.replace(make_answer(), items=("=a", "-b", "c"))
    write_answer(tmp_path / "o.csv", answer)
    write_answer(tmp_path / "o.json", answer)
    for name in ("o.csv", "o.json"):
        np.testing.assert_allclose(read_reference(str(tmp_path / name), answer.items), answer.policy)
    write_answer(tmp_path / "o.json", make_answer((2, 3)))
    with pytest.raises(BadInput, match="must be an answer for one game at one beta, got an answer for several"):
        read_reference(str(tmp_path / "o.json"), make_answer().items)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "o.json"
    path.write_text("before")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    assert "o.json must be writable, got the error No space left on device." in _error(
        lambda: write_answer(path, make_answer())
    )
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["o.json"]


def test_outputs_that_cannot_be_written(tmp_path: Path):
    source = _write(tmp_path, "x")
    check_output(tmp_path / "o.JSON", source)
    assert "suffix must be one of .json, .csv, .npz, got '.txt'." in _error(
        lambda: check_output(tmp_path / "o.txt", source)
    )
    assert "in a directory that exists, got" in _error(lambda: check_output(tmp_path / "no" / "o.json", source))
    assert "in a directory that exists, got the file " in _error(lambda: check_output(source / "o.json", source))
    assert "must be another file than the input" in _error(lambda: check_output(source, source))
    (tmp_path / "d.json").mkdir()
    assert "must be a file to write, got a directory." in _error(lambda: check_output(tmp_path / "d.json", source))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_output_directory_that_is_read_only(tmp_path: Path):
    (tmp_path / "d").mkdir(mode=0o555)
    assert "not writable" in _error(lambda: check_output(tmp_path / "d" / "o.json", tmp_path / "g.csv"))


def _write(folder: Path, text: str, name: str = "g.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def _error(call: object) -> str:
    assert callable(call)
    with pytest.raises(BadInput) as caught:
        call()
    message = str(caught.value)
    assert message.isprintable(), "one line, nothing that steers a terminal"
    return message
