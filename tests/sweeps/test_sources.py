"""Where games come from: folders, iterables, and what is wrong with them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nashjax as nj
from nashjax.files import BadInput
from nashjax.sweeps.sources import GameFolder


def games(seed: int, count: int, n: int = 3) -> np.ndarray:
    return np.array(nj.games.random_game(jax.random.key(seed), n, (count,), kind="uniform").preferences)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files with 3 actions, one of a single game with 4, one compressed with 3 again."""
    path = tmp_path / "games"
    path.mkdir()
    np.savez(path / "a.npz", preferences=games(0, 7), items=np.array(["x", "y", "z"]))
    np.savez(path / "b.npz", games(1, 1))
    np.savez(path / "c.npz", preferences=games(2, 1, 4)[0], names=np.array(["1"] * 4))
    np.savez_compressed(path / "d.npz", preferences=games(3, 4).reshape(2, 2, 3, 3))
    (path / "readme.txt").write_text("not a game")
    return path


def sweep(source: Any, tmp_path: Path, **settings: Any) -> nj.sweeps.SweepSummary:
    return nj.sweep(source, tmp_path / "out", **{"beta": 0.1, "tol": 1e-6, "chunk_size": 4, **settings})


def policies(tmp_path: Path) -> list[np.ndarray]:
    return [np.asarray(shard.solution.policy) for shard in nj.sweeps.load(tmp_path / "out")]


def check_policies(tmp_path: Path, batch: np.ndarray) -> None:
    """The first shards hold what solves of four games at a time say of these games."""
    parts, first = batch.reshape(-1, 4, *batch.shape[1:]), policies(tmp_path)[: len(batch) // 4]
    for found, part in zip(first, parts, strict=True):
        np.testing.assert_allclose(found, nj.solve(part, 0.1).policy, rtol=1e-14)


def test_a_folder_of_games_of_two_sizes(folder: Path, tmp_path: Path):
    summary = sweep(str(folder), tmp_path)
    assert summary.games == 13
    shards = list(nj.sweeps.load(tmp_path / "out"))
    # 8 games with 3 actions out of two files, one with 4, and 4 with 3.
    assert [shard.solution.log_policy.shape for shard in shards] == [(4, 3), (4, 3), (1, 4), (4, 3)]
    assert [shard.first_game for shard in shards] == [0, 4, 8, 9]
    check_policies(tmp_path, np.concatenate([games(0, 7), games(1, 1)]))
    np.testing.assert_allclose(policies(tmp_path)[2], nj.solve(games(2, 1, 4), 0.1).policy, rtol=1e-14)
    np.testing.assert_allclose(policies(tmp_path)[3], nj.solve(games(3, 4), 0.1).policy, rtol=1e-14)
    (tmp_path / "out" / "shard-00000001.npz").unlink()  # games of two files
    (folder / "more.txt").write_text("no file of games")
    assert sweep(folder, tmp_path).games == 13
    check_policies(tmp_path, np.concatenate([games(0, 7), games(1, 1)]))


def test_changed_folders_are_refused(folder: Path, tmp_path: Path):
    sweep(folder, tmp_path)
    content = (folder / "b.npz").read_bytes()
    np.savez(folder / "b.npz", games(5, 1))  # as many games, as many bytes
    assert len(content) == (folder / "b.npz").stat().st_size
    with pytest.raises(BadInput, match=r"out: source\.files\.b\.npz must be \[.*\] as in its manifest\.json, got \["):
        sweep(folder, tmp_path)
    (folder / "b.npz").write_bytes(content)
    np.savez(folder / "bb.npz", games(5, 2))
    with pytest.raises(BadInput, match=r"source\.files\.bb\.npz must be nothing.* as in its manifest\.json, got \["):
        sweep(folder, tmp_path)
    (folder / "bb.npz").unlink()
    (folder / "d.npz").unlink()
    with pytest.raises(BadInput, match=r"source\.files\.d\.npz must be .*, got nothing"):
        sweep(folder, tmp_path)


def test_a_file_that_changes_on_the_way_is_refused(folder: Path):
    source = GameFolder(folder)
    np.savez(folder / "a.npz", preferences=games(9, 7), items=np.array(["x", "y", "z"]))
    with pytest.raises(BadInput, match=r"a\.npz must be the file that was there when .* got a file that has changed"):
        next(source.chunks(4, np.dtype(np.float64), lambda number: True))


def test_invalid_games_are_named(folder: Path, tmp_path: Path):
    bad = games(3, 5)
    bad[2, 0, 2] = 0.9
    np.savez(folder / "d.npz", bad)
    with pytest.raises(
        BadInput, match=r"d\.npz, game 2: entry \[0, 2\] must satisfy P\[i, j\] \+ P\[j, i\] = 1 .*, got 0\.9"
    ):
        sweep(folder, tmp_path)
    assert [len(policy) for policy in policies(tmp_path)] == [4, 4, 1]  # what was solved before stays
    with pytest.raises(BadInput, match=r"source\[1\], game 0: entry \[0, 1\] must be a finite probability, got nan"):
        nj.sweep([games(0, 4), np.full((4, 3, 3), np.nan)], tmp_path / "other", beta=0.1, chunk_size=4)


def rewrite(path: Path, change: Any) -> None:
    path.write_bytes(change(path.read_bytes()))


def store_object(path: Path) -> None:
    np.savez(path, preferences=np.array([[{"a": 1}, 2], [3, 4]], object))


def store_bomb(path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999, 1000, 1000), }"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("preferences.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (store_object, "dtype must be a number type, got object"),
        (store_bomb, "must be small enough for the .* of free memory"),
        (lambda path: rewrite(path, lambda content: content[:-30]), "must be an undamaged "),
        (lambda path: rewrite(path, lambda content: b""), r"must be a \.npz file, got content"),
        (
            lambda path: rewrite(path, lambda content: b"\x80\x04pickle"),
            r"must be a \.npz file, got content",
        ),
        (lambda path: rewrite(path, lambda content: content[:200] + b"????" + content[204:]), "damaged"),
        (lambda path: np.savez(path, preferences=np.ones((2, 3))), r"shape \[2, 3\]"),
        (lambda path: np.savez(path, preferences=np.ones((0, 3, 3))), r"shape \[0, 3, 3\]"),
        (
            lambda path: np.savez(path, preferences=np.array([["a", "b"], ["c", "d"]])),
            "got <U1",
        ),
        (
            lambda path: np.savez(path, a=games(0, 1), b=games(0, 1)),
            "must be an archive with an array",
        ),
        (lambda path: (path.unlink(), path.mkdir()), "a directory"),
        (
            lambda path: (path.unlink(), path.symlink_to("nowhere")),
            "must be a file that exists, got a path where nothing is",
        ),
        (lambda path: (path.unlink(), os.mkfifo(path)), "must be a regular file, got a pipe or a device"),
        (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "must be a regular file, got a pipe or a device"),
    ],
)
def test_files_that_cannot_be_used_are_named(spoil: Any, message: str, folder: Path, tmp_path: Path):
    spoil(folder / "b.npz")
    with pytest.raises(BadInput, match=rf"b\.npz.*{message}"):
        sweep(folder, tmp_path)


def test_folders_that_cannot_be_used(tmp_path: Path):
    with pytest.raises(BadInput, match="nowhere must be a file that exists, got a path where nothing is"):
        sweep(tmp_path / "nowhere", tmp_path)
    with pytest.raises(
        BadInput, match=r"must be a folder of \.npz files with games, got a folder without any \.npz file"
    ):
        sweep(tmp_path, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"file must be a folder of \.npz files, got a file"):
        sweep(tmp_path / "file", tmp_path)
    assert not (tmp_path / "out").exists()


def stream(batch: np.ndarray) -> Iterator[Any]:
    """The same games as arrays of several kinds, one or two at a time."""
    yield batch[0]
    yield nj.MatrixGame(jnp.asarray(batch[1:3]))
    yield batch[3:4].tolist()
    yield nj.MatrixGame(jnp.asarray(batch[4]))
    yield from batch[5:, None]


def test_an_iterator(tmp_path: Path):
    assert sweep(stream(games(0, 12)), tmp_path).games == 12
    assert [len(policy) for policy in policies(tmp_path)] == [4, 4, 4]
    check_policies(tmp_path, games(0, 12))
    os.unlink(tmp_path / "out" / "shard-00000001.npz")
    assert sweep(list(stream(games(0, 12))), tmp_path).games == 12
    check_policies(tmp_path, games(0, 12))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_games_in_half_precision_are_solved(dtype: str, folder: Path, tmp_path: Path):
    """Their probabilities sum to 1 within the rounding of that precision only."""
    batch = games(3, 4).astype(jnp.dtype(dtype))
    wide = batch.astype(np.float64)
    assert np.abs(wide + wide.swapaxes(-1, -2) - 1).max() > 1e-5
    for name, source in (("a", batch), ("b", [nj.MatrixGame(jnp.asarray(batch))])):
        assert nj.sweep(source, tmp_path / name, beta=0.1, progress=False).games == 4
    if dtype == "float16":  # numpy saves no others
        np.savez(folder / "a.npz", preferences=batch)
        nj.sweep(folder, tmp_path / "c", beta=0.1, progress=False)
    batch = batch.copy()
    batch[2, 0, 1] += 0.125
    with pytest.raises(BadInput, match=r"source\[0\], game 2: entry \[0, 1\] must satisfy"):
        nj.sweep(batch, tmp_path / "d", beta=0.1, progress=False)


def test_an_iterator_that_writes_each_game_over_the_last(tmp_path: Path):
    def draw() -> Iterator[np.ndarray]:
        same = np.empty((3, 3))
        for game in games(0, 12):
            same[:] = game
            yield same

    sweep(draw(), tmp_path)
    check_policies(tmp_path, games(0, 12))


def test_an_iterator_that_gives_other_games_is_refused(tmp_path: Path):
    sweep(games(0, 12), tmp_path)
    changed = games(0, 12)
    changed[5] = changed[5].T
    with pytest.raises(
        BadInput, match=r"source: games 4 to 7 must be the games that shard-00000001\.npz answers, got other"
    ):
        sweep(iter(changed), tmp_path)
    with pytest.raises(BadInput, match="source must be the 12 games of the finished sweep, got more games"):
        sweep(games(0, 13), tmp_path)
    with pytest.raises(BadInput, match="source: games 8 to 10 must be the games that shard-00000002"):
        sweep(games(0, 12)[:11], tmp_path)
    with pytest.raises(
        BadInput, match="source must be all games that it gave this sweep before, got only 2 of 3 chunks"
    ):
        sweep(games(0, 12)[:8], tmp_path)
    assert len(list((tmp_path / "out").glob("shard-*.npz"))) == 3
    assert sweep(nj.MatrixGame(jnp.asarray(games(0, 12))), tmp_path).games == 12


def test_an_iterator_that_fails_is_gone_on_from(tmp_path: Path):
    def failing() -> Iterator[np.ndarray]:
        yield games(0, 9)
        yield games(0, 2)
        raise ConnectionError("the server has gone")

    with pytest.raises(ConnectionError, match="the server has gone"):
        sweep(failing(), tmp_path)
    assert [len(policy) for policy in policies(tmp_path)] == [4, 4]
    assert not nj.sweeps.load(tmp_path / "out").complete
    assert sweep([games(0, 9), games(1, 3)], tmp_path).games == 12


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (np.ones(3), r"source\[1\] must be preferences \[n, n\] or \[games, n, n\] with n >= 2, got shape \[3\]"),
        (np.ones((1, 2, 3)), r"shape \[1, 2, 3\]"),
        (np.ones((0, 3, 3)), r"shape \[0, 3, 3\]"),
        ([[0.5], [0.5, 0.5]], r"source\[1\] must be an array of real numbers, .*, got rows that differ"),
        ([["a", "b"], ["c", "d"]], r"source\[1\] must be an array of real numbers, got dtype <U1"),
    ],
)
def test_items_that_are_no_games_are_named(item: Any, message: str, tmp_path: Path):
    with pytest.raises((TypeError, ValueError), match=message):
        sweep([games(0, 1), item], tmp_path)


def test_only_the_games_ahead_are_drawn(tmp_path: Path):
    """A stream may be longer than the memory."""
    drawn: list[int] = []
    furthest: list[int] = []

    def draw() -> Iterator[np.ndarray]:
        for seed in range(12):
            drawn.append(seed)
            done = len(list((tmp_path / "out").glob("shard-*.npz")))
            furthest.append(seed - done)
            yield games(seed % 2, 4)

    sweep(draw(), tmp_path)
    assert len(drawn) == 12
    assert max(furthest) <= 5  # drawn, waiting, being solved, being written, and just about to be renamed
