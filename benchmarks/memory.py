"""Queries and time of Nash-MP with memory beside adaptive Nash-MP and the default.

Run `python -m benchmarks.memory` in the project's folder (about 5 minutes on 2 cores); `--parts table --output .` for
a quick look. Writes `memory.json` into the folder `--output`, by default benchmarks/results.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nashjax as nj
from benchmarks.record import RESULTS, write_results
from nashjax.games.random import KINDS

ABOUT = (
    "Exploitability 1e-6, from the uniform reference unless said otherwise. table: queries, median of 6 games. random: "
    "games of the kind (n = 3, 10, 30 and 60, 84 each, beta log-uniform in [0.001, 0.5], Dirichlet(1) references), how "
    "many need more than 3 queries more than adaptive Nash-MP with memory 16, the largest excess, the median ratio of "
    "queries. embedding and matrix: queries and seconds of one solve after compilation; methods stop after 4,000 "
    "queries (embedding) or 600 (matrix), `converged` false. linear_solves: the default without its "
    "stage `memory`. Features and S of the embedding games as in large.py with "
    "d = 8, n = 1500; shape embedding of matrix: the matrix of such a game."
)
METHODS = {
    "adaptive": nj.AdaptiveNashMP(),
    "memory_16": nj.MemoryNashMP(),
    "memory_48": nj.MemoryNashMP(memory=48),
    "memory_64": nj.MemoryNashMP(memory=64),
    "default": nj.Auto(),
    "linear_solves": nj.Auto(stages=tuple(stage for stage in nj.Auto().stages if stage.name != "memory")),
}
TABLE = ((10, 0.01), (10, 0.001), (30, 0.001), (100, 0.01), (100, 0.001))
Row = dict[str, Any]


def table() -> list[Row]:
    """Queries on random games, in both precisions."""
    rows = []
    for n, beta in TABLE:
        for kind in ("gaussian", "uniform", "tournament"):
            game = nj.games.random_game(jax.random.key(n), n, (6,), kind).preferences
            for dtype in ("float64", "float32"):
                row: Row = {"part": "table", "n": n, "beta": beta, "kind": kind, "dtype": dtype}
                for method in ("adaptive", "memory_16", "memory_64"):
                    solution = nj.solve(game.astype(dtype), beta, algorithm=METHODS[method])
                    if not bool(solution.converged.all()):
                        raise RuntimeError(f"a game did not converge: {row}, {method}")
                    row[method] = float(np.median(solution.queries))
                rows.append(row)
                print(row, flush=True)
    return rows


def random() -> list[Row]:
    """How often memory needs more queries than adaptive steps."""
    rows = []
    for dtype in ("float64", "float32"):
        for kind in KINDS:
            excess, ratio = [], []
            for n in (3, 10, 30, 60):
                rng = np.random.default_rng(n)
                game = nj.games.random_game(jax.random.key(n), n, (84,), kind).preferences.astype(dtype)
                beta, reference = 10 ** rng.uniform(-3, np.log10(0.5), 84), rng.dirichlet(np.ones(n), 84)
                memory, adaptive = (
                    nj.solve(game, beta, reference=reference, algorithm=METHODS[method])
                    for method in ("memory_16", "adaptive")
                )
                if not bool(memory.converged.all() and adaptive.converged.all()):
                    raise RuntimeError(f"a game did not converge: {kind}, n = {n}, {dtype}")
                excess.append(np.asarray(memory.queries) - np.asarray(adaptive.queries))
                ratio.append(np.asarray(adaptive.queries) / np.asarray(memory.queries))
            over, shares = np.concatenate(excess), np.concatenate(ratio)
            rows.append(
                {
                    "part": "random",
                    "kind": kind,
                    "dtype": dtype,
                    "games": len(over),
                    "over_3": int((over > 3).sum()),
                    "largest_excess": int(over.max()),
                    "ratio": round(float(np.median(shares)), 2),
                }
            )
            print(rows[-1], flush=True)
    return rows


def embedding_game(n: int, seed: int) -> nj.games.EmbeddingGame:
    """A game of features whose mean is not 0, so that some actions are better than others."""
    rng = np.random.default_rng(seed)
    skew = rng.normal(size=(8, 8)) * 2 / 8
    return nj.games.EmbeddingGame(jnp.asarray(0.5 + rng.normal(size=(n, 8))), jnp.asarray((skew - skew.T) / 2))


def measure(game: nj.Game, beta: float, method: str, max_queries: int) -> Row:
    """Queries, seconds and whether the game is solved."""

    def solve() -> nj.Solution:
        return jax.block_until_ready(nj.solve(game, beta, algorithm=METHODS[method], max_queries=max_queries))

    solution = solve()
    start = time.perf_counter()
    solve()
    seconds = time.perf_counter() - start
    found = {"method": method, "queries": int(solution.queries), "converged": bool(solution.converged)}
    return found | {"seconds": round(seconds, 4)}


def embedding() -> list[Row]:
    """Games of features, whose queries are dear."""
    rows = []
    for beta in (0.01, 0.001, 1e-4):
        for seed in range(3):
            game = embedding_game(1500, seed)
            for method in ("adaptive", "memory_16", "memory_48", "default"):
                row = {"part": "embedding", "n": 1500, "beta": beta, "seed": seed}
                rows.append(row | measure(game, beta, method, 4000))
                print(rows[-1], flush=True)
    return rows


def matrix() -> list[Row]:
    """Matrices, around the bounds of the stage `memory` of the default."""
    rows = []
    for n in (500, 1000, 2000):
        x = embedding_game(n, 0)
        games = {
            "gaussian": nj.games.random_game(jax.random.key(0), n),
            "tournament": nj.games.random_game(jax.random.key(0), n, kind="tournament"),
            "embedding": nj.MatrixGame(jax.nn.sigmoid((x.features @ x.skew) @ x.features.T)),
        }
        for shape, game in games.items():
            for beta in (1e-4, 3e-4, 5e-4, 0.001):
                for method in ("memory_16", "linear_solves"):
                    row = {"part": "matrix", "n": n, "shape": shape, "beta": beta}
                    rows.append(row | measure(game, beta, method, 600 if method == "memory_16" else 100_000))
                    print(rows[-1], flush=True)
    return rows


PARTS = {"table": table, "random": random, "embedding": embedding, "matrix": matrix}


def main() -> None:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="parts to run, with commas between")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = [row for part in options.parts.split(",") for row in PARTS[part]()]
    print("written to", write_results("memory", ABOUT, rows, options.output))


if __name__ == "__main__":
    main()
