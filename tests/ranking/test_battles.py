"""Records from files and tables: every form, every kind of row that cannot be used, and what is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nashjax.files import BadInput, read_games
from nashjax.files.source import Source

pd = pytest.importorskip("pandas", reason="needs the extra `rank`")
pa = pytest.importorskip("pyarrow", reason="needs the extra `rank`")
pytest.importorskip("pyarrow.parquet")

from nashjax.ranking import Battles, reading  # noqa: E402

ROWS = [("x", "y", "model_a"), ("y", "z", "model_b"), ("z", "x", "tie"), ("x", "y", "model_b"), ("x", "y", "Model_A ")]


def frame(rows: list[tuple[Any, ...]] = ROWS, **columns: Any) -> Any:
    return pd.DataFrame(rows, columns=["model_a", "model_b", "winner"]).assign(**columns)


def write(folder: Path, text: str, name: str = "b.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_counts_by_hand():
    counts = Battles.read(frame()).counts()
    np.testing.assert_array_equal(counts.lead, [[0, 1, 0], [-1, 0, -1], [0, 1, 0]])
    np.testing.assert_array_equal(counts.comparisons, [[0, 3, 1], [3, 0, 1], [1, 1, 0]])
    np.testing.assert_array_equal(counts.ties, [[0, 0, 1], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_allclose(counts.preferences(), [[0.5, 2 / 3, 0.5], [1 / 3, 0.5, 0], [0.5, 1, 0.5]])
    np.testing.assert_allclose(counts.preferences(2.0)[0, 1], (2 + 1) / (3 + 2))


def test_dropped_ties_are_no_comparisons():
    counts = Battles.read(frame()).counts("drop")
    assert counts.comparisons[0, 2] == counts.ties.sum() == 0
    assert counts.preferences()[0, 2] == 0.5


@pytest.mark.parametrize("name", ["battles.csv", "battles.parquet"])
def test_files_and_tables_give_the_same(tmp_path: Path, name: str):
    table = frame(judge=["k", "l", "k", "l", "k"])
    path = tmp_path / name
    table.to_parquet(path) if name.endswith("parquet") else table.to_csv(path, index=False)
    ours, theirs = Battles.read(path, labels=["judge"]), Battles.read(table, labels=["judge"])
    assert ours.items == theirs.items == ("x", "y", "z")
    for a, b in zip(ours.counts(), theirs.counts(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [ours.label("judge").names[i] for i in ours.label("judge").codes] == ["k", "l", "k", "l", "k"]


def test_the_strict_reader_of_solve_counts_the_same(tmp_path: Path):
    text = 'model_a,model_b,winner\n"a, b",c,model_a\r\nc ,"a, b",draw\nd,c,MODEL_B\n\n"e\ne",c,model_a\n'
    path = write(tmp_path, text)
    game, battles = read_games(path), Battles.read(path)
    assert battles.items == game.items
    np.testing.assert_array_equal(battles.counts().preferences(), game.preferences)
    np.testing.assert_array_equal(battles.counts().comparisons, game.comparisons)


@pytest.mark.parametrize(("name", "file"), [("food", "pairs"), ("football_men", "pairs"), ("llm_crowd", "battles")])
def test_real_data_is_read_as_solve_reads_it(data: Path, name: str, file: str):
    path = data / name / f"{file}.csv"
    game, battles = read_games(path), Battles.read(path)
    assert battles.items == game.items
    assert battles.bad_rows.count == 0
    np.testing.assert_array_equal(battles.counts().preferences(), game.preferences)
    assert battles.num_comparisons == game.comparisons.sum() / 2  # pyright: ignore[reportOptionalMemberAccess]


def test_pairs_stand_for_many_comparisons(tmp_path: Path):
    path = write(tmp_path, "item_a,item_b,wins_a,wins_b,ties\nx,y,3,1,2\ny,x,1,0,0\n")
    battles = Battles.read(path)
    assert battles.num_comparisons == 7
    np.testing.assert_array_equal(battles.counts().lead, [[0, 1], [-1, 0]])


def test_weights_and_conditions_and_columns_by_name():
    table = frame(w=[1, 2, 3, 4, 0], language=["en", "en", "de", "en", "en"]).rename(columns={"model_a": "left"})
    battles = Battles.read(table, item_a="left", weight="w", where={"language": "en"})
    # The last row weighs nothing; the third is of another language.
    np.testing.assert_array_equal(battles.counts().comparisons, [[0, 5, 0], [5, 0, 2], [0, 2, 0]])
    assert len(battles.first) == 3


def test_groups_have_the_items_that_occur_in_them():
    groups = Battles.read(frame(kind=["b", "a", "a", "b", "b"]), labels=["kind"]).groups("kind")
    assert list(groups) == ["a", "b"]
    assert groups["a"].items == ("x", "y", "z")
    assert groups["b"].items == ("x", "y")
    np.testing.assert_array_equal(groups["b"].counts().lead, [[0, 1], [-1, 0]])


def test_counts_make_battles():
    wins = np.array([[9.0, 3, 0], [1, 0, 0], [0, 2, 0]])
    ties = np.array([[0.0, 0, 4], [0, 0, 0], [4, 0, 0]])
    counts = Battles.from_counts(["p", "q", "r"], wins, ties).counts()
    np.testing.assert_array_equal(counts.lead, [[0, 2, 0], [-2, 0, -2], [0, 2, 0]])
    np.testing.assert_array_equal(counts.comparisons, [[0, 4, 4], [4, 0, 2], [4, 2, 0]])


BAD = (
    "model_a,model_b,winner,w\n"
    "x,y,model_a,1\n"  # line 2
    ",y,model_a,1\n"
    "x,x,model_a,1\n"
    "x,y,nobody,1\n"
    "x,y,model_a\n"
    "x,y,model_a,-1\n"
    '"x\nx",y,model_a,1\n'  # two lines, and good
    "\n"
    "x,y,tie,heavy\n"  # line 11
    "y,x,tie,1\n"
)


def test_bad_rows_are_counted_and_the_first_are_named_with_their_lines(tmp_path: Path):
    path = write(tmp_path, BAD)
    battles = Battles.read(path, weight="w")
    assert battles.items == ("x", "x\nx", "y")
    assert battles.num_comparisons == 3
    assert battles.bad_rows.count == 6
    assert [example.removeprefix(f"{path}, ") for example in battles.bad_rows.examples] == [
        "line 3: name must be the name of an item, got an empty text.",
        "line 4: items must be different, got 'x' twice.",
        "line 5: winner must be one of 'tie', 'draw', 'both', 'bothbad', 'tie (bothbad)', 'model_a', 'model_b', got "
        "'nobody'.",
        "line 6 must be a record of 4 fields, as in the header, got 3 fields.",
        "line 7: w must be a weight >= 0 and <= 1e+15, got '-1'.",
    ]


def test_bad_rows_are_known_to_every_group():
    table = pd.DataFrame(
        {"model_a": ["x", "y", "x"], "model_b": ["y", "x", "x"], "winner": ["model_a"] * 3, "k": list("pqp")}
    )
    groups = Battles.read(table, labels=["k"]).groups("k")
    assert [group.bad_rows.count for group in groups.values()] == [1, 1]
    assert "items must be different" in groups["q"].bad_rows.examples[0]


def test_strict_stops_at_the_first_bad_row(tmp_path: Path):
    with pytest.raises(BadInput, match="line 3: name must be the name of an item, got an empty text"):
        Battles.read(write(tmp_path, BAD), weight="w", strict=True)


def test_bad_rows_of_tables_are_named_by_their_index():
    rows = [*ROWS, (None, "y", "model_a"), ("x", 3.5, "model_b"), ("x", "n" * 100_000, "tie"), ("x", "a\0", "tie")]
    battles = Battles.read(frame(rows))
    assert battles.items == ("3.5", "x", "y", "z")  # numbers beside texts are names, too
    assert battles.bad_rows.count == 3
    assert battles.bad_rows.examples == (
        "the table, row 5: name must be the name of an item, got an empty text.",
        "the table, row 7: name must be at most 10000 characters long, got 100000.",
        "the table, row 8: name must be the name of an item, got a text with a NUL byte.",
    )


def test_a_row_without_a_label_is_bad_only_where_the_label_is_wanted():
    table = frame(judge=["k", None, "l", "k", " "])
    assert Battles.read(table).bad_rows.count == 0
    kept = Battles.read(table, labels=["judge"])
    assert kept.bad_rows.count == 2
    assert kept.bad_rows.examples[0] == "the table, row 1: judge must be a text that is not empty, got an empty text."


FILES = {
    "empty": ("", r"must contain a header and rows below it, got an empty file\."),
    "no rows": (
        "model_a,model_b,winner\n",
        r"must contain a header and rows below it, got the header 'model_a', 'model_b', 'winner' alone\.",
    ),
    "other columns": (
        "a,b,c\n1,2,3\n",
        r"line 1: header must have the columns 'model_a', 'model_b', 'winner', got 'a', 'b', 'c'\.",
    ),
    "a column twice": (
        "model_a,model_b,winner,winner\nx,y,tie,tie\n",
        r"line 1: columns must be distinct, got 'winner' twice\.",
    ),
    "no good row": (
        "model_a,model_b,winner\nx,x,tie\n",
        "must be at least 1, got 1 rows that cannot be used, the first being .*different, got 'x' twice",
    ),
    "not text": (
        "model_a,model_b,winner\nx,\xff\xfe,tie\n",
        r"line 2 must be text in UTF-8, got byte 0xff at position 3 of the line\.",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_cannot_be_used(tmp_path: Path, kind: str):
    text, message = FILES[kind]
    path = tmp_path / "b.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match=message):
        Battles.read(path)


@pytest.mark.parametrize("name", ["absent.csv", "absent.parquet"])
def test_files_that_are_not_there(tmp_path: Path, name: str):
    with pytest.raises(BadInput, match="must be a file that exists"):
        Battles.read(tmp_path / name)


def test_one_word_is_no_list_of_words():
    """Its letters would pass for words, and rows won by `a` for ties."""
    with pytest.raises(TypeError, match="tie_words must be a list of strings, got 'draw'"):
        Battles.read(frame(), tie_words="draw")
    with pytest.raises(TypeError, match="labels must be a list of strings, got 'kind'"):
        Battles.read(frame(kind=list("baabb")), labels="kind")


def test_a_parquet_column_of_lists_is_refused_by_its_name(tmp_path: Path):
    table = frame(said=[["a"], ["b", "c"], [], ["d"], ["e"]])
    table.to_parquet(tmp_path / "b.parquet")
    assert Battles.read(tmp_path / "b.parquet").num_comparisons == 5
    with pytest.raises(BadInput, match=r"b\.parquet: type of column said must be text, number or truth, got 'list<"):
        Battles.read(tmp_path / "b.parquet", labels=["said"])


def test_a_parquet_file_that_is_none(tmp_path: Path):
    with pytest.raises(BadInput, match="Parquet"):
        Battles.read(write(tmp_path, "model_a,model_b,winner\n", "b.parquet"))


NUM_ROWS = 20_000


def parquet(path: Path, winner: Any, num_rows: int = NUM_ROWS, **options: Any) -> Path:
    """A file of battles of `a` and `b` with this column of winners."""
    table = pa.table({"model_a": ["a"] * num_rows, "model_b": ["b"] * num_rows, "winner": winner})
    pa.parquet.write_table(table, path, compression="zstd", **options)
    return path


def repeated(text: Any) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(NUM_ROWS, np.int32)), [text])


POOLS: list[Any] = []
"""Memory pools that outlive their buffers: pyarrow crashes if a buffer is freed after its pool, as garbage can be."""


@pytest.mark.parametrize("text", ["x" * 100_000, b"x" * 100_000], ids=["text", "binary"])
def test_a_long_text_that_many_rows_of_a_parquet_file_share_is_kept_once(tmp_path: Path, text: str | bytes):
    """A file of 800 bytes, whose texts have 2 GB together."""
    path = parquet(tmp_path / "b.parquet", repeated(text), store_schema=False)
    assert path.stat().st_size < 1000
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    POOLS.append(pool)
    pa.set_memory_pool(pool)
    try:
        with pytest.raises(BadInput, match=r"20000 rows that cannot be used, .* row 1: winner must be one of .* 'xxx"):
            Battles.read(path)
    finally:
        pa.set_memory_pool(usual)
    assert 0 < pool.max_memory() < 5e7


@pytest.mark.parametrize(
    ("winner", "options", "limit", "message"),
    [
        (["x" * 1000] * NUM_ROWS, {"use_dictionary": False}, 10**7, "at most 10 MB long, got 20.5 MB"),
        (pa.array([b"x" * 1000] * NUM_ROWS, pa.binary(1000)), {}, 10**7, "at most 10 MB long, got 20.2 MB"),
        (repeated("tie"), {}, 2 * 10**5, "at most 0.2 MB long, got 0.24 MB"),
    ],
    ids=["plain", "fixed", "rows"],
)
def test_a_parquet_file_that_unpacks_to_more_than_the_limit_is_refused(tmp_path: Path, winner, options, limit, message):
    path = parquet(tmp_path / "b.parquet", winner, **options)
    with pytest.raises(BadInput, match=f"unpacked columns must be {message}. Use --max-file-size to raise the limit."):
        Battles.read(Source(path, limit))


def test_a_parquet_file_that_unpacks_to_more_than_it_says_is_refused(tmp_path: Path, monkeypatch):
    path = parquet(tmp_path / "b.parquet", [f"{i} {'x' * 1000}" for i in range(NUM_ROWS)], row_group_size=1000)
    monkeypatch.setattr(reading, "_check_parquet", lambda *_: None)
    with pytest.raises(BadInput, match=r"unpacked columns must be at most 5 MB long, got 5\.1 MB"):
        Battles.read(Source(path, 5 * 10**6))


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary(3), pa.dictionary("int8", "str")]
)
def test_all_types_of_text_of_a_parquet_file_are_read(tmp_path: Path, kind: Any):
    winner = pa.array(["tie", None, "tie"], pa.string())
    winner = winner.cast(pa.binary()).cast(kind) if pa.types.is_fixed_size_binary(kind) else winner.cast(kind)
    battles = Battles.read(parquet(tmp_path / "b.parquet", winner, 3, row_group_size=2))
    assert (battles.num_comparisons, battles.bad_rows.count) == (2, 1)


def test_damaged_parquet_files_are_read_or_refused_but_never_crash(tmp_path: Path):
    random, path, refusals = np.random.default_rng(0), tmp_path / "damaged.parquet", []
    good = [
        parquet(path, repeated("x" * 10_000), store_schema=False).read_bytes(),
        parquet(path, ["tie", "model_a", None], 3, row_group_size=2).read_bytes(),
    ]
    for trial in range(200):
        content = bytearray(good[trial % 2])
        for at in random.integers(0, len(content), random.integers(1, 4)):
            content[at] = random.choice([0, 1, 127, 128, 255, int(random.integers(256))])
        path.write_bytes(content)
        try:
            Battles.read(path)
        except BadInput as error:
            refusals.append(str(error))
    assert len(refusals) > 100
    assert all(said.startswith(str(path)) and said.isprintable() for said in refusals)


ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "format": ({"format": "matrix"}, r"format must be one of battles, pairs, got 'matrix'\."),
    "no such column": (
        {"weight": "w"},
        r"the table: header must have the columns 'w', got 'model_a', 'model_b', 'winner'\.",
    ),
    "one column twice": (
        {"item_b": "model_a"},
        "the table: columns of items and outcome must be three different ones, got 'model_a', 'model_a',",
    ),
    "no such text": (
        {"where": {"winner": "me"}},
        r"the table: column winner must contain 'me', got 'Model_A', 'model_a', 'model_b', 'tie'\.",
    ),
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_arguments_that_cannot_be_used(kind: str):
    arguments, message = ARGUMENTS[kind]
    with pytest.raises(BadInput, match=message):
        Battles.read(frame(), **arguments)


def test_things_that_are_no_source():
    with pytest.raises(TypeError, match="source must be a path or a DataFrame, got "):
        Battles.read([1, 2])


COUNTS: dict[str, tuple[tuple[Any, ...], str]] = {
    "one item": ((["a"], np.zeros((1, 1))), r"items must be at least 2 distinct names, got \['a'\]\."),
    "names twice": ((["a", "a"], np.zeros((2, 2))), r"items must be at least 2 distinct names, got \['a', 'a'\]\."),
    "shape": ((["a", "b"], np.zeros((2, 3))), r"wins must have shape \[2, 2\], got shape \[2, 3\]\."),
    "negative": ((["a", "b"], np.array([[0, -1], [0, 0]])), r"wins\[0, 1\] must be a finite number >= 0, got -1\.0\."),
    "not symmetric": (
        (["a", "b"], np.ones((2, 2)), np.array([[0, 1], [0, 0]])),
        r"ties\[0, 1\] must be equal to its mirrored entry, got 1\.0\.",
    ),
    "nothing": (
        (["a", "b"], np.eye(2)),
        r"wins must be more than 0 off the diagonal somewhere, or ties, got no comparison\.",
    ),
}


@pytest.mark.parametrize("kind", COUNTS)
def test_counts_that_cannot_be_used(kind: str):
    arguments, message = COUNTS[kind]
    with pytest.raises(ValueError, match=message):
        Battles.from_counts(*arguments)


def test_labels_that_were_not_read():
    with pytest.raises(BadInput, match=r"column must be one of the labels that were read \(none\), got 'judge'"):
        Battles.read(frame()).label("judge")


def test_many_rows_are_counted_as_numpy_counts_them():
    rng = np.random.default_rng(0)
    rows = 200_000
    first, lead = rng.integers(50, size=rows), rng.integers(1, 50, size=rows)
    names = np.array([f"m{i:02d}" for i in range(50)])
    outcome = rng.integers(3, size=rows)
    table = pd.DataFrame(
        {
            "model_a": names[first],
            "model_b": names[(first + lead) % 50],
            "winner": np.array(["model_a", "model_b", "tie"])[outcome],
        }
    )
    counts = Battles.read(table).counts()
    expected = np.zeros((50, 50))
    np.add.at(expected, (first, (first + lead) % 50), np.array([1, -1, 0])[outcome])
    np.testing.assert_array_equal(counts.lead, expected - expected.T)
