"""How many games to solve together: the time of a game against the size of the blocks.

Run `python -m benchmarks.blocks` in the project's folder (minutes on 2 cores). Writes `blocks.json` into the folder
`--output`, by default benchmarks/results.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import jax
import numpy as np

import nashjax as nj
from benchmarks import tables
from benchmarks.record import RESULTS, write_results

ABOUT = (
    "Microseconds for a game of AdaptiveNashMP, float32, `gaussian` games, tol 1e-6, median of 3 compiled runs. "
    "block_size 0: all games in one block, as a plain vmap would have it; default: what solve chooses by itself."
)
CASES = ((3, 16384, 0.1), (10, 4096, 0.01), (32, 1024, 0.01), (100, 512, 0.01), (500, 16, 0.01))
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 2048)


def microseconds(P: jax.Array, beta: float, block_size: int | None) -> float:
    """Median time of a solve, for a game."""

    def solve() -> None:
        jax.block_until_ready(nj.solve(P, beta, algorithm=nj.AdaptiveNashMP(), block_size=block_size))

    solve()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        solve()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) / len(P) * 1e6


def study() -> list[dict[str, object]]:
    """A row for each case and size."""
    rows = []
    for n, num_games, beta in CASES:
        P = nj.games.random_game(jax.random.key(n), n, (num_games,)).preferences
        # Smaller blocks than these are not worth their time.
        sizes: list[int | None] = [size for size in SIZES if size < num_games and size * n >= 32]
        for size in [*sizes, num_games, None]:
            name = "default" if size is None else 0 if size == num_games else size
            found = {"n": n, "games": num_games, "beta": beta, "block_size": name}
            found["microseconds"] = round(microseconds(P, beta, size), 2)
            print(found, flush=True)
            rows.append(found)
    return rows


def main() -> None:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args()
    rows = study()
    print(tables.blocks(rows))
    print("written to", write_results("blocks", ABOUT, rows, options.output))


if __name__ == "__main__":
    main()
