"""A sweep says what a solve says, in files that are the same bit by bit, and repairs them.

One file, though long: all sweeps share the games and what is compiled for them.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from sweeps.runs import GAMES, SETTINGS, contents, start

import nashjax as nj
from nashjax.files import BadInput
from nashjax.games.random import KINDS
from nashjax.sweeps import store


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that nothing has happened to."""
    directory = tmp_path_factory.mktemp("sweep") / "out"
    nj.sweep(GAMES, directory, **SETTINGS)
    return directory


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def checksum(directory: Path, name: str) -> None:
    digest = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    (directory / f"{name}.sha256").write_text(f"{digest}  {name}\n")


def test_the_answers_are_those_of_a_solve(finished: Path):
    results = nj.sweeps.load(finished)
    assert results.complete
    assert len(results) == 30
    shards = list(results)
    assert [shard.first_game for shard in shards] == list(range(0, 600, 20))
    games = GAMES.games(0, 600)
    expected = nj.solve(games, SETTINGS["beta"], tol=SETTINGS["tol"])
    for name in ("log_policy", "exploitability", "kl_bound", "queries", "steps", "status"):
        found = np.concatenate([getattr(shard.solution, name) for shard in shards])
        np.testing.assert_array_equal(found, np.asarray(getattr(expected, name)))
    told = f"{games.dtype} [20, 3, 3]\n".encode() + games[20:40].tobytes()
    assert shards[1].input_sha256 == hashlib.sha256(told).hexdigest()
    assert json.loads((finished / "summary.json").read_text())["statuses"]["CONVERGED"] == 600


def test_two_sweeps_are_the_same_bytes_and_sha256sum_says_so(finished: Path, tmp_path: Path):
    summary = nj.sweep(GAMES, str(tmp_path / "again"), **SETTINGS)
    assert (summary.games, summary.shards, summary.converged, summary.redone) == (600, 30, True, ())
    assert contents(tmp_path / "again") == contents(finished)
    names = sorted(path.name for path in finished.glob("*.sha256"))
    done = subprocess.run(["sha256sum", "-c", *names], cwd=finished, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.count(": OK") == 30
    with zipfile.ZipFile(finished / "shard-00000000.npz") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_finished_sweep_is_not_solved_again(copy: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nashjax.sweeps.run.solve_chunk", None)
    assert nj.sweep(GAMES, copy, **SETTINGS).games == 600


@pytest.mark.parametrize("kind", KINDS)
def test_random_games_depend_on_seed_and_position_only(kind: str):
    whole = nj.sweeps.RandomGames(kind, 5, 9000, seed=3)
    games = whole.games(0, 9000)
    np.testing.assert_array_equal(nj.sweeps.RandomGames(kind, 5, 4101, seed=3).games(4090, 11), games[4090:4101])
    for size in (1, 7, 4096, 5000):
        chunk = next(whole.chunks(size, np.dtype(np.float64), lambda number: number == 1))
        np.testing.assert_array_equal(chunk.games, games[size : 2 * size])
    key = jax.random.fold_in(jax.random.key(3), 4099)
    np.testing.assert_allclose(nj.games.random_game(key, 5, kind=kind).preferences, games[4099], rtol=0, atol=1e-12)
    assert (nj.sweeps.RandomGames(kind, 5, 9000, seed=4).games(0, 100) != games[:100]).any()


def test_other_chunks_give_the_same_answers(finished: Path, tmp_path: Path):
    nj.sweep(GAMES, tmp_path / "out", beta=SETTINGS["beta"], tol=SETTINGS["tol"])
    (shard,) = nj.sweeps.load(tmp_path / "out")
    for part in nj.sweeps.load(finished):
        here = slice(part.first_game, part.first_game + 20)
        np.testing.assert_allclose(np.exp(part.solution.log_policy), shard.solution.policy[here], rtol=0, atol=1e-9)


def test_single_precision(tmp_path: Path):
    nj.sweep(GAMES, tmp_path, **SETTINGS, dtype="float32")
    shard = next(iter(nj.sweeps.load(tmp_path)))
    assert shard.solution.log_policy.dtype == np.float32
    games = GAMES.games(0, 20).astype(np.float32)
    expected = nj.solve(games, SETTINGS["beta"], tol=SETTINGS["tol"])
    np.testing.assert_allclose(np.exp(shard.solution.log_policy), expected.policy, atol=1e-6)


def test_a_sweep_in_single_precision_goes_on_without_x64(tmp_path: Path):
    games = nj.sweeps.RandomGames("uniform", 3, 40, seed=7)
    nj.sweep(games, tmp_path, **SETTINGS, dtype="float32")
    before = contents(tmp_path)
    jax.config.update("jax_enable_x64", False)
    try:
        nj.sweep(games, tmp_path, **SETTINGS)
    finally:
        jax.config.update("jax_enable_x64", True)  # as in tests/conftest.py
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_means_the_same_games_in_both_dtypes(kind: str):
    games = nj.sweeps.RandomGames(kind, 5, 100, seed=3)
    single, double = games.games(40, 60, "float32"), games.games(40, 60, "float64")
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(single, double, rtol=0, atol=1e-6)
    with jax.enable_x64(False):
        np.testing.assert_array_equal(games.games(40, 60), single)
        np.testing.assert_array_equal(games.games(40, 60, "float64"), double)


def test_a_seed_means_the_same_games_under_other_settings_of_jax():
    games = nj.sweeps.RandomGames("gaussian", 3, 5, seed=2**32 - 1)
    with jax.threefry_partitionable(False), jax.default_prng_impl("rbg"):
        elsewhere = games.games(0, 5)
    np.testing.assert_array_equal(games.games(0, 5), elsewhere)


@pytest.mark.parametrize("loads_with_x64", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_loaded_sweep_hands_out_the_games_it_solved(
    dtype: str, loads_with_x64: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    solved: list[np.ndarray] = []

    def solve_and_keep(games: np.ndarray, beta: float, tol: float) -> nj.Solution:
        solved.append(games.copy())
        return nj.solve(games, beta, tol=tol)

    monkeypatch.setattr("nashjax.sweeps.run.solve_chunk", solve_and_keep)
    nj.sweep(nj.sweeps.RandomGames("gaussian", 3, 40, seed=1), tmp_path, **SETTINGS, dtype=dtype)
    with jax.enable_x64(loads_with_x64):
        results = nj.sweeps.load(tmp_path)
        found = [results.games(shard) for shard in results]
    assert [games.dtype for games in found] == [dtype, dtype]
    np.testing.assert_array_equal(found, solved)


def test_policies_of_a_loaded_sweep_keep_their_dtype_without_x64(finished: Path):
    shard = next(iter(nj.sweeps.load(finished)))
    with jax.enable_x64(False):
        policy = shard.solution.policy
    assert isinstance(policy, np.ndarray)
    assert policy.dtype == np.float64
    np.testing.assert_array_equal(policy, np.exp(shard.solution.log_policy))


def test_games_of_an_iterable_are_read_again_from_it(tmp_path: Path):
    games = GAMES.games(0, 40)
    nj.sweep(games, tmp_path, **SETTINGS)
    results = nj.sweeps.load(tmp_path)
    _, second = results
    np.testing.assert_array_equal(results.games(second, iter(games)), games[20:])
    with pytest.raises(TypeError, match="source must be the iterable that the sweep was given, got None"):
        results.games(second)
    for other in (games[::-1], games[:20]):
        with pytest.raises(BadInput, match=r"source must be the source of the games in shard-00000001\.npz, got other"):
            results.games(second, other)


def test_games_that_cannot_be_drawn_again_are_refused(copy: Path):
    shard = next(iter(nj.sweeps.load(copy)))
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["source"]["draws"]  # as nashjax 0.1 wrote it
    path.write_text(json.dumps(manifest))
    results = nj.sweeps.load(copy)
    assert next(iter(results)).num_games == 20  # answers are as good as before
    with pytest.raises(
        BadInput, match=r"manifest\.json, source: draws must be 2, got nothing\. Draw games of nashjax 0\.1"
    ):
        results.games(shard)
    with pytest.raises(BadInput, match=r"source\.draws must be nothing.* as in its manifest\.json, got 2"):
        nj.sweep(GAMES, copy, **SETTINGS)
    for change, message in (
        ({"draws": 2, "seed": 8}, "source must be the source of the games in shard-00000000.npz, got other games"),
        ({"draws": 2, "seed": "7"}, "seed must be an integer from 0 to 4294967295, got '7'"),
        ({"draws": 2, "more": 1}, "keys must be from, draws, kind, .*, got .*, more"),
    ):
        path.write_text(json.dumps(manifest | {"source": manifest["source"] | change}))
        with pytest.raises(BadInput, match=message):
            nj.sweeps.load(copy).games(shard)


def test_games_that_do_not_converge_are_counted(tmp_path: Path):
    summary = nj.sweep(GAMES, tmp_path, beta=0.1, tol=0)
    assert not summary.converged
    assert summary.statuses["STALLED"] + summary.statuses["CONVERGED"] == 600


def damage_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "does not agree": damage_a_bit,
    "not agree": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "checksum": lambda path: path.write_bytes(b""),
    "has no checksum": lambda path: path.with_name(path.name + ".sha256").unlink(),
    "agree with its": lambda path: path.with_name(path.name + ".sha256").write_text("no checksum"),
    "with its checksum": lambda path: shutil.copy(path.with_name("shard-00000009.npz"), path),
    "no regular file": lambda path: (path.unlink(), os.mkfifo(path)),
    "it cannot be read (no regular file)": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_damaged_shards_are_made_anew(reason: str, finished: Path, copy: Path):
    for number in (3, 29):
        DAMAGES[reason](copy / f"shard-{number:08d}.npz")
    with pytest.raises(BadInput, match=r"shard-00000003\.npz must be an undamaged shard, got one that "):
        list(nj.sweeps.load(copy))
    notes: list[str] = []
    summary = nj.sweep(GAMES, copy, **SETTINGS, notify=notes.append)
    assert summary.redone == ("shard-00000003.npz", "shard-00000029.npz")
    assert len(notes) == 2
    assert f"{copy}: shard-00000003.npz is solved again because it " in notes[0]
    assert reason in notes[0]
    assert contents(copy) == contents(finished)


def test_files_that_never_end_or_never_begin(copy: Path):
    (copy / "summary.json").write_text(json.dumps({"games": 1, "shards": 10**15}))
    assert not nj.sweeps.load(copy).complete
    (copy / "manifest.json").unlink()
    os.mkfifo(copy / "manifest.json")
    with pytest.raises(BadInput, match=r"manifest\.json must be a readable file, got the error no regular file"):
        nj.sweep(GAMES, copy, **SETTINGS)


def test_a_lock_that_leads_elsewhere_is_not_written(copy: Path, tmp_path: Path):
    (tmp_path / "precious").write_text("mine")
    (copy / "lock").unlink()
    (copy / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(BadInput, match="copy: the lock must be writable, got the error"):
        nj.sweep(GAMES, copy, **SETTINGS)
    assert (tmp_path / "precious").read_text() == "mine"


def test_missing_files_are_made_anew(finished: Path, copy: Path):
    for name in ("shard-00000005.npz", "shard-00000007.npz", "shard-00000007.npz.sha256", "summary.json"):
        (copy / name).unlink()
    (copy / ".shard-00000005.npz-0123.partial").write_bytes(b"half")
    assert not nj.sweeps.load(copy).complete
    nj.sweep(GAMES, copy, **SETTINGS)
    assert contents(copy) == contents(finished)


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch PICKLE_WAS_RUN",)


def archive_of(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def pickled() -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.array([Evil()], object), allow_pickle=True)
    return stream.getvalue()


FIELDS = ("log_policy", "exploitability", "kl_bound", "queries", "steps", "status", "first_game", "input_sha256")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        pickle.dumps(Evil()),
        archive_of(x=b"1"),
        archive_of(**dict.fromkeys(FIELDS, pickled())),
        archive_of(**dict.fromkeys(FIELDS, b"0" * 1_000_000)),
    ],
    # Not by their contents: archives hold the time, which two workers would see differently.
    ids=["nothing", "a beginning", "a pickle", "another field", "pickles as fields", "no arrays"],
)
def test_hostile_shards_with_good_checksums_are_made_anew(
    content: bytes, finished: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(copy.parent)
    (copy / "shard-00000003.npz").write_bytes(content)
    checksum(copy, "shard-00000003.npz")
    with pytest.warns(UserWarning, match=r"shard-00000003\.npz is solved again because it holds no answers"):
        nj.sweep(GAMES, copy, **SETTINGS)
    assert contents(copy) == contents(finished)
    assert not (copy.parent / "PICKLE_WAS_RUN").exists()


def member(array: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array))
    return stream.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        {"log_policy": np.float64(0)},
        {"log_policy": np.zeros((20, 3), np.float32), "exploitability": np.zeros(20, np.float32)},
        {"first_game": np.int64(-20)},
        {"status": np.full(20, 9, np.int8)},
        {"queries": b"\x93NUMPY\x01\x00v\x00{'descr': '<i4', 'fortran_order': False, 'shape': (" + b"(" * 100 + b"\n"},
        {"queries": b"\x93NUMPY\x01\x00\x02\x00\xff\n"},
    ],
    ids=["no axes", "another dtype", "a negative position", "an unknown status", "nested header", "no header"],
)
def test_wrong_arrays_in_shards_with_good_checksums_are_named(change: dict[str, Any], copy: Path):
    path = copy / "shard-00000003.npz"
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
    members |= {name: value if isinstance(value, bytes) else member(value) for name, value in change.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    checksum(copy, path.name)
    with pytest.raises(BadInput, match=r"shard-00000003\.npz must be an undamaged shard, got one that holds") as caught:
        list(nj.sweeps.load(copy))
    assert caught.value.__cause__ is not None
    assert "\n" not in str(caught.value)


def test_stored_pickles_are_not_read(copy: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(copy.parent)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in FIELDS:
            archive.writestr(f"{name}.npy", pickled())
    (copy / "shard-00000003.npz").write_bytes(stream.getvalue())
    checksum(copy, "shard-00000003.npz")
    with pytest.raises(BadInput, match=r"must be an undamaged shard, got one that holds no answers \(.*"):
        list(nj.sweeps.load(copy))
    assert not (copy.parent / "PICKLE_WAS_RUN").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 0.2}, r"out: beta must be 0\.1 as in its manifest\.json, got 0\.2\. Use the settings of the sweep"),
        ({"tol": 1e-6}, r"tol must be 1e-05 as in its manifest\.json, got 1e-06"),
        ({"chunk_size": 21}, "chunk_size must be 20 as in .*, got 21"),
        ({"dtype": "float32"}, 'dtype must be "float64" as in .*, got "float32"'),
        ({"source": nj.sweeps.RandomGames("uniform", 3, 600, seed=8)}, r"source\.seed must be 7 as in .*, got 8"),
        ({"source": [np.full((3, 3), 0.5)]}, r'source\.from must be "random_games" as in .*, got "iterable"'),
    ],
)
def test_other_settings_are_refused(change: dict[str, Any], message: str, finished: Path):
    before = contents(finished)
    with pytest.raises(BadInput, match=message):
        nj.sweep(**{"source": GAMES, "output": finished, **SETTINGS, **change})
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace('"format": 1', '"format": 2'),
            r"manifest\.json: format must be an integer from 1 to 1, got 2\. A newer nashjax",
        ),
        (
            lambda text: text.replace('"format": 1', '"format": "1"'),
            r"format must be an integer from 1 to 1, got \"1\"\.",
        ),
        (lambda text: text.replace('"format": 1', '"format": 0'), "format must be an integer from 1 to 1, got 0"),
        (lambda text: text[:50], r"manifest\.json must be .*JSON.*, got"),
        (lambda text: "[" * 100_000, r"manifest\.json must be .*JSON.*, got"),
        (lambda text: "[]", r"manifest\.json must be a JSON object, got \[\]"),
        (
            lambda text: text.replace('"beta": 0.1', f'"beta": {"[" * 400}{"]" * 400}'),
            "must be JSON of at most 20 levels",
        ),
        (
            lambda text: text.replace('"beta": 0.1', '"beta": "0.1"'),
            r'json: beta must be a finite number >= 0, got "0\.1"',
        ),
        (
            lambda text: text.replace('"beta": 0.1', f'"beta": -{"9" * 400}'),
            "beta must be a finite number >= 0, got -99",
        ),
        (lambda text: text.replace('"dtype": "float64"', '"dtype": []'), r"dtype must be float32 or float64, got \[\]"),
        (lambda text: text.replace('"dtype": "float64",', ""), "dtype must be float32 or float64, got nothing"),
        (
            lambda text: text.replace('"chunk_size": 20', '"chunk_size": 2.5'),
            "chunk_size must be null or an integer >= 1",
        ),
        (lambda text: text.replace('"random_games"', "[]"), "source must be an object whose 'from' is random_games,"),
        (lambda text: text.replace('"jaxlib": "', '"jaxlib": "9'), r"versions\.jaxlib must be \"9"),
        (lambda text: text.replace('"number": 1', '"number": 8'), r"devices\.number must be 8 as in .*, got 1"),
        (lambda text: text.replace('"cores": ', '"cores": 9'), r"devices\.cores must be 9\d+ as in .*, got \d+"),
        (lambda text: text.replace('"beta"', '"more": 1, "beta"'), "more must be 1 as in .*, got nothing"),
    ],
)
def test_manifests_that_cannot_be_gone_on_from(change: Any, message: str, copy: Path):
    path = copy / "manifest.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(BadInput, match=message):
        nj.sweep(GAMES, copy, **SETTINGS)


def test_directories_that_are_something_else(tmp_path: Path, copy: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(BadInput, match=r"must be an empty directory .*, got .* 'thesis\.tex' and no manifest\.json"):
        nj.sweep(GAMES, tmp_path / "mine", **SETTINGS)
    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]
    with pytest.raises(BadInput, match="output must be a directory, got the file"):
        nj.sweep(GAMES, tmp_path / "mine" / "thesis.tex", **SETTINGS)
    with pytest.raises(BadInput, match="the directory must be writable, got the error No such file"):
        nj.sweep(GAMES, tmp_path / "nowhere" / "out", **SETTINGS)
    with pytest.raises(BadInput, match="must be a file that exists, got a path where nothing is"):
        nj.sweeps.load(tmp_path / "mine")
    (copy / "shard-00000030.npz").write_bytes(b"")
    with pytest.raises(BadInput, match=r"with the shards up to shard-00000029\.npz, got shard-00000030\.npz"):
        nj.sweep(GAMES, copy, **SETTINGS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": -1}, "beta must be a finite number >= 0, got -1"),
        ({"beta": np.array([0.1, 0.2])}, "beta must be a finite number >= 0, got array"),
        ({"beta": 1e-320}, "beta.* 1e-320"),
        ({"tol": float("nan")}, "tol must be a finite number >= 0, got nan"),
        ({"chunk_size": 0}, "chunk_size must be an integer from 1 to 2147483647, got 0"),
        ({"chunk_size": 1.5}, "chunk_size must be an integer from 1 to .*, got 1.5"),
        ({"dtype": "int32"}, "dtype must be float32 or float64, got 'int32'"),
        ({"dtype": "text"}, "dtype must be float32 or float64, got 'text'"),
        ({"source": 3}, "source must be the path of a folder, .*, got 3"),
        ({"source": []}, "source must be at least one game, got no games"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises((TypeError, ValueError), match=message):
        nj.sweep(**{"source": GAMES, "output": tmp_path / "out", **SETTINGS, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "normal"}, "kind must be one of 'gaussian', .*, got 'normal'"),
        ({"num_actions": 1}, "num_actions must be an integer from 2 to 32768, got 1"),
        ({"num_games": True}, "num_games must be an integer .*, got True"),
        ({"seed": -1}, "seed must be an integer from 0 to 4294967295, got -1"),
        ({"scale": float("inf")}, "scale must be a finite number >= 0, got inf"),
    ],
)
def test_bad_random_games(change: dict[str, Any], message: str):
    with pytest.raises((TypeError, ValueError), match=message):
        nj.sweeps.RandomGames(**{"kind": "gaussian", "num_actions": 3, "num_games": 5, **change})


def test_precision_of_one_thread_alone_is_refused(tmp_path: Path):
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64 must be set for all threads, got"):
        nj.sweep(GAMES, tmp_path / "out", **SETTINGS)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_stops_it_and_nothing_is_lost(
    number: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls: list[int] = []
    sync = os.fsync

    def full_after_a_while(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 21:
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    directory = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_after_a_while)
        with pytest.raises(
            BadInput, match=rf"{directory} must have room for shard.* MB, got .*(full|used up)\. Finished"
        ):
            nj.sweep(GAMES, directory, **SETTINGS)
    there = contents(directory)
    assert not [name for name in there if name.endswith(".partial")]
    assert 1 <= len(nj.sweeps.load(directory)) < 10
    assert there.items() <= contents(finished).items()
    nj.sweep(GAMES, directory, **SETTINGS)
    assert contents(directory) == contents(finished)


def test_the_second_process_is_refused_and_told_who_is_first(copy: Path):
    holder = start(
        "import sys, pathlib; from nashjax.sweeps.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()",
        copy,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            BadInput,
            match=rf"copy must be free of other sweeps, got a sweep at .* \(host .*, process {holder.pid}, since 2",
        ):
            nj.sweep(GAMES, copy, **SETTINGS)
    finally:
        holder.kill()  # -9: the kernel lets go
        holder.communicate()
    assert nj.sweep(GAMES, copy, **SETTINGS).games == 600


def test_shared_locks_keep_later_runs_out(tmp_path: Path):
    from nashjax.sweeps.lock import locked

    with locked(tmp_path, shared=True):
        with locked(tmp_path, joins=True), pytest.raises(BadInput, match="at work"), locked(tmp_path):
            pass
        with pytest.raises(BadInput, match="at work"), locked(tmp_path):
            pass
    with locked(tmp_path), pytest.raises(BadInput, match="at work"), locked(tmp_path, joins=True):
        pass


def test_files_are_there_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store.write_file(tmp_path, "a", b"old")

    def fail(*paths: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(BadInput, match="a must be writable, got the error Permission denied"):
        store.write_file(tmp_path, "a", b"new")
    assert contents(tmp_path) == {"a": b"old"}


def test_a_damaged_summary_is_written_anew(finished: Path, tmp_path: Path):
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    (copy / "summary.json").write_text('{"games": ')
    assert not nj.sweeps.load(copy).complete
    nj.sweep(GAMES, copy, **SETTINGS)
    assert contents(copy) == contents(finished)


@pytest.mark.parametrize("output", [5, "", "a\0b"])
def test_an_output_that_is_no_path_is_refused(output: Any):
    with pytest.raises((TypeError, ValueError), match="output must be the path of a directory, got"):
        nj.sweep(GAMES, output, **SETTINGS)
