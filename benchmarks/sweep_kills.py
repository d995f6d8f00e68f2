"""Whether a sweep that is killed again and again ends with the bytes of one that is not.

Run `python -m benchmarks.sweep_kills` in the project's folder (some minutes, 150 MB of disk). A million games are
solved twice, by the command line in processes of their own: once in peace, once killed (-9) ten times, each time after
a number of shards and a pause that are drawn; every second kill waits until a file is being written. Then all files are
compared bit by bit. Writes `sweep_kills.json` into the folder `--output`, by default benchmarks/results.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nashjax as nj
from benchmarks.record import RESULTS, write_results

ABOUT = (
    "`nashjax sweep` of random gaussian games, float32, in processes of its own that share compiled programs: once in "
    "peace, once killed with -9 at random moments and started again. seconds: of all processes, their start and "
    "compilation among them. kills_in_a_write: those that left a file half written. same_files: how many files of the "
    "second directory are bit by bit those of the first, of `files`. games_once: whether the shards hold each game "
    "exactly once, in order."
)
MOST_SECONDS = 600
"""That one process may take to write a shard."""


def command(directory: Path, options: argparse.Namespace) -> list[str]:
    """The sweep."""
    settings = {
        "num-actions": 10,
        "num-games": options.games,
        "seed": 0,
        "beta": options.beta,
        "chunk-size": options.chunk,
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-c", "from nashjax.cli import main; main()", "sweep", str(directory), *words]


def shards(directory: Path) -> int:
    return sum(1 for _ in directory.glob("shard-*.npz"))


def half_written(directory: Path) -> set[str]:
    return {path.name for path in directory.glob(".*.partial")}


def wait(process: subprocess.Popen[bytes], reached: Any) -> bool:
    """Whether the process still lives when something is reached."""
    deadline = time.monotonic() + MOST_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if reached():
            return True
        time.sleep(0.0002)
    return False


def run_killed(directory: Path, options: argparse.Namespace) -> tuple[int, int]:
    """Start the sweep until it has been killed so many times, and then to its end: kills, kills in a write."""
    moments, kills, in_a_write = random.Random(options.seed), 0, 0
    while kills < options.kills:
        before = half_written(directory)
        process = subprocess.Popen(command(directory, options), stdout=subprocess.DEVNULL)
        left = options.games // options.chunk - shards(directory)
        # So spread that all kills come before the end.
        target = shards(directory) + int(moments.random() * 1.5 * left / (options.kills - kills + 1))
        alive = wait(
            process, lambda target=target: shards(directory) >= target and (directory / "manifest.json").exists()
        )
        time.sleep(moments.random() * 0.05)
        if alive and kills % 2:
            of_kind = ".npz-" if kills % 4 == 3 else ".sha256-"  # a shard itself, or its checksum
            wait(process, lambda before=before, kind=of_kind: any(kind in x for x in half_written(directory) - before))
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            raise RuntimeError("the sweep has ended before all kills; fewer kills, more games or smaller chunks")
        new = half_written(directory) - before
        kills, in_a_write = kills + 1, in_a_write + bool(new)
        print(f"kill {kills}: {shards(directory)} shards, half written: {sorted(new)}", flush=True)
    subprocess.run(command(directory, options), check=True)
    return kills, in_a_write


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file but the lock."""
    files = sorted(path for path in directory.iterdir() if path.name != "lock")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def games_once(directory: Path, num_games: int) -> bool:
    """Whether the shards hold each game exactly once."""
    at = 0
    for shard in nj.sweeps.load(directory):
        if shard.first_game != at:
            return False
        at += shard.num_games
    return at == num_games


def study(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    start = time.perf_counter()
    subprocess.run(command(folder / "peace", options), check=True)
    peace = time.perf_counter() - start
    start = time.perf_counter()
    kills, in_a_write = run_killed(folder / "killed", options)
    killed = time.perf_counter() - start
    expected, found = digests(folder / "peace"), digests(folder / "killed")
    row = {
        "games": options.games,
        "n": 10,
        "beta": options.beta,
        "chunk_size": options.chunk,
        "shards": shards(folder / "killed"),
        "seconds_in_peace": round(peace, 1),
        "kills": kills,
        "kills_in_a_write": in_a_write,
        "seconds_killed": round(killed, 1),
        "files": len(expected),
        "same_files": sum(found.get(name) == digest for name, digest in expected.items()),
        "further_files": len(found.keys() - expected.keys()),
        "games_once": games_once(folder / "killed", options.games),
    }
    print(row, flush=True)
    return [row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--games", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--chunk", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/compiled"
        write_results("sweep_kills", ABOUT, study(options, Path(folder)), options.output)


if __name__ == "__main__":
    main()
