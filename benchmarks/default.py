"""Where the default of `solve` changes methods, and what each method alone would have cost.

Run `python -m benchmarks.default` in the project's folder (about 10 minutes on 2 cores); `--actions 10 --output .` for
a quick look. Writes `default.json` into the folder `--output`, by default benchmarks/results.
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
    "Microseconds for a game, median of 3 runs after compilation, of AdaptiveNashMP alone (at most 20,000 queries), of "
    "Newton alone and of the default, on the same `uniform` games: 256 of n = 10, 64 of n = 50, 8 of n = 200. "
    "unsolved: share of games that did not reach the tolerance."
)
BETAS = (0.1, 0.01, 1e-3, 1e-4, 1e-5, 0.0)
SETTINGS = (("float32", 1e-6), ("float64", 1e-6), ("float64", 1e-12))
GAMES = {10: 256, 50: 64, 200: 8}
METHODS = {"adaptive": nj.AdaptiveNashMP(), "newton": nj.Newton(), "default": None}


def measure(P: jax.Array, beta: float, tol: float, method: str) -> tuple[float, float]:
    """Microseconds for a game and the share unsolved."""
    budget = 20_000 if method == "adaptive" else 100_000

    def solve() -> nj.Solution:
        return jax.block_until_ready(nj.solve(P, beta, tol=tol, algorithm=METHODS[method], max_queries=budget))

    solution = solve()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        solve()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) / len(P) * 1e6, float(1 - solution.converged.mean())


def row(n: int, dtype: str, tol: float, beta: float) -> dict[str, object]:
    """All methods on the same games."""
    P = nj.games.random_game(jax.random.key(n), n, (GAMES[n],), "uniform").preferences.astype(dtype)
    found: dict[str, object] = {"n": n, "dtype": dtype, "tol": tol, "beta": beta}
    for method in METHODS:
        microseconds, unsolved = measure(P, beta, tol, method)
        found[method] = round(microseconds, 1)
        found[f"{method}_unsolved"] = round(unsolved, 3)
    print(found, flush=True)
    return found


def main() -> None:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actions", default="10,50,200", help=f"numbers of actions among {sorted(GAMES)}")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    actions = [int(n) for n in options.actions.split(",")]
    rows = [row(n, dtype, tol, beta) for n in actions for dtype, tol in SETTINGS for beta in BETAS]
    print(tables.default(rows))
    print("written to", write_results("default", ABOUT, rows, options.output))


if __name__ == "__main__":
    main()
