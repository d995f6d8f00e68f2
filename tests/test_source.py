"""Files, pipes, devices and standard input: each is read wherever a file is, and never beyond the limit."""

from __future__ import annotations

import gzip
import io
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scripts import call

from nashjax.files import BadInput, read_games, read_reference, source
from nashjax.files.source import Source

GAME = np.array([[0.5, 0.75, 0.25], [0.25, 0.5, 0.625], [0.75, 0.375, 0.5]])
BATTLES = "model_a,model_b,winner\nx,y,model_a\ny,z,model_a\nz,x,model_a\n"
CYCLE = np.array([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])


def of_numpy(save: Callable, *arrays: np.ndarray, **named: np.ndarray) -> bytes:
    stream = io.BytesIO()
    save(stream, *arrays, **named)
    return stream.getvalue()


GAMES = {
    "npy": (of_numpy(np.save, GAME), GAME),
    "npz": (of_numpy(np.savez, preferences=GAME), GAME),
    "packed npz": (of_numpy(np.savez_compressed, preferences=GAME), GAME),
    "csv": (BATTLES.encode(), CYCLE),
    "packed csv": (gzip.compress(BATTLES.encode()), CYCLE),
    "packed npy": (gzip.compress(of_numpy(np.save, GAME)), GAME),
}


def fed_pipe(path: Path, content: bytes) -> Path:
    """A pipe that gives this content once."""
    os.mkfifo(path)
    threading.Thread(target=path.write_bytes, args=(content,), daemon=True).start()
    return path


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Puts content on the standard input."""
    return lambda content: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize("form", GAMES)
def test_games_come_from_pipes_and_standard_input_in_every_format(tmp_path: Path, feed: Callable, form: str):
    content, expected = GAMES[form]
    np.testing.assert_array_equal(read_games(fed_pipe(tmp_path / "pipe", content)).preferences, expected)
    feed(content)
    np.testing.assert_array_equal(read_games("-").preferences, expected)


def test_a_packed_file_is_read_by_its_name(tmp_path: Path):
    (tmp_path / "b.csv.gz").write_bytes(GAMES["packed csv"][0])
    np.testing.assert_array_equal(read_games(tmp_path / "b.csv.gz").preferences, CYCLE)


REFERENCES = {
    "csv": b"item,probability\nx,0.5\ny,0.25\nz,0.25\n",
    "json": b' {"x": 0.5, "y": 0.25, "z": 0.25}',
    "npy": of_numpy(np.save, np.array([0.5, 0.25, 0.25])),
}


@pytest.mark.parametrize("form", REFERENCES)
def test_references_come_from_pipes_and_standard_input(tmp_path: Path, feed: Callable, form: str):
    feed(REFERENCES[form])
    for at in (fed_pipe(tmp_path / "pipe", REFERENCES[form]), "-"):
        np.testing.assert_array_equal(read_reference(at, ("x", "y", "z")), [0.5, 0.25, 0.25])


def test_records_come_from_pipes_that_are_read_more_than_once(tmp_path: Path):
    """The header, the columns and the lines of bad rows are read one after the other."""
    pytest.importorskip("pyarrow", reason="needs the extra `rank`")
    from nashjax.ranking import Battles

    read = Battles.read(fed_pipe(tmp_path / "pipe", (BATTLES + "x,x,tie\n").encode()))
    np.testing.assert_array_equal(read.counts().preferences(), CYCLE)
    assert read.bad_rows.examples == (f"{tmp_path / 'pipe'}, line 5: items must be different, got 'x' twice.",)


def test_the_commands_take_standard_input(feed: Callable):
    feed(BATTLES.encode())
    done = call("solve", "-", "--beta", 1)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("standard input: 3 items, 3 comparisons")
    done = call("solve", "-", "--reference", "-")
    assert done.returncode == 2
    assert done.stderr == "error: --reference must be another source than FILE, got standard input for both.\n"


ENDLESS = {
    "solve": ("solve", "/dev/zero"),
    "reference": ("solve", "g.csv", "--reference", "/dev/zero"),
    "rank": ("rank", "/dev/zero"),
    "matrix": ("rank", "/dev/urandom", "--comparisons-per-pair", "3"),
    "prompts": ("finetune", "--model", "tiny", "--judge", "demo", "--output", "RUN", "--prompts", "/dev/zero"),
}


@pytest.mark.parametrize("command", ENDLESS)
def test_endless_devices_end_at_the_limit(tmp_path: Path, command: str):
    pytest.importorskip("pyarrow", reason="needs the extra `rank`")
    pytest.importorskip("flax", reason="needs the extra `lm`")
    (tmp_path / "g.csv").write_text(BATTLES)
    done = call(*ENDLESS[command], "--max-file-size", "2M", folder=tmp_path)
    device = "/dev/urandom" if command == "matrix" else "/dev/zero"
    message = f"error: {device} must be at most 2 MB long, got more. Use --max-file-size to raise the limit.\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


def test_a_stream_as_long_as_the_limit_is_read(tmp_path: Path):
    content = BATTLES.encode()
    fitting = Source(fed_pipe(tmp_path / "a", content), len(content))
    np.testing.assert_array_equal(read_games(fitting).preferences, CYCLE)
    with pytest.raises(BadInput, match=r"must be at most .* long, got more"):
        read_games(Source(fed_pipe(tmp_path / "b", content), len(content) - 1))


def test_packed_data_unpack_to_no_more_than_the_limit(tmp_path: Path):
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(BATTLES.encode() + b"\n" * 10**6))
    with pytest.raises(BadInput, match=r"b\.csv\.gz must be at most 0\.1 MB long, got more"):
        read_games(Source(tmp_path / "b.csv.gz", 10**5))
    np.savez_compressed(tmp_path / "g.npz", preferences=np.full((300, 20, 20), 0.5))
    with pytest.raises(BadInput, match=r"g\.npz, array preferences must be at most 0\.5 MB long, got 0\.96 MB"):
        read_games(Source(tmp_path / "g.npz", 5 * 10**5))
    assert read_games(Source(tmp_path / "g.npz", 10**6)).preferences.shape == (300, 20, 20)


def test_a_file_larger_than_the_free_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "g.csv"
    path.write_text(BATTLES)
    monkeypatch.setattr(source, "available_memory", lambda: 50)
    with pytest.raises(BadInput, match=r"g\.csv must be at most 5e-05 MB long, got 5\.9e-05 MB"):
        read_games(Source(path, 10))
    assert len(read_games(Source(path, 59)).items) == 3


def test_packed_data_that_are_damaged_are_refused(tmp_path: Path):
    packed = gzip.compress(BATTLES.encode())
    for content in (packed[:-9], packed[:12] + b"\xff" * 20):
        (tmp_path / "b.csv.gz").write_bytes(content)
        with pytest.raises(BadInput, match=r"b\.csv\.gz must be an undamaged CSV file, got "):
            read_games(tmp_path / "b.csv.gz")


def test_a_closed_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(BadInput, match=r"standard input must be open, got a closed stream\."):
        read_games("-")


def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from nashjax.files import tables

    monkeypatch.setattr(tables, "_LONGEST_LINE", 100)
    (tmp_path / "g.csv").write_bytes(BATTLES.encode() + b"\0" * 10_000)
    with pytest.raises(BadInput, match=r"g\.csv, line 5 must be at most 100 characters long, got a longer line\."):
        read_games(tmp_path / "g.csv")
