"""How the steps of adaptive Nash-MP were chosen: queries over a grid of growth, shrink and first step.

Run `python -m benchmarks.tuning` in the project's folder (minutes on 2 cores); `--games 2 --output .` for a quick look.
Writes `tuning.json` into the folder `--output`, by default benchmarks/results.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import jax
import numpy as np

import nashjax as nj
from benchmarks.record import RESULTS, write_results
from nashjax.games.random import KINDS

ABOUT = (
    "Queries of AdaptiveNashMP to exploitability 1e-6 in float64, from Dirichlet(1) references, over the six kinds of "
    "games, n = 3, 10, 100 and beta = 0.001, 0.01, 0.1, 0.5, from keys other than those of adaptive.json. queries: "
    "geometric mean over the settings of the median over the games; worst: the largest ratio, over the settings, to "
    "the least median of any point of the grid; uniform: geometric mean of the medians from uniform references, where "
    "batches are mostly solved: all kinds but `cyclic`, n = 10, 100 and beta = 0.01, 0.1."
)
GROWTH, SHRINK, FIRST = (1.2, 1.35, 1.5, 2.0), (0.4, 0.5, 0.6, 0.7), (4.0, 16.0, 64.0)
ACTIONS, BETAS = (3, 10, 100), (0.001, 0.01, 0.1, 0.5)
USUAL_ACTIONS, USUAL_BETAS = (10, 100), (0.01, 0.1)


def medians(num_games: int, *, uniform: bool) -> np.ndarray:
    """The median queries from uniform or random references, `[growth * shrink * first, settings]`."""
    columns = []
    for n in USUAL_ACTIONS if uniform else ACTIONS:
        for kind in KINDS:
            if uniform and kind == "cyclic":  # its equilibrium is the reference
                continue
            game = nj.games.random_game(jax.random.key(1000 + n), n, (num_games,), kind)
            reference = np.full(n, 1 / n)
            if not uniform:
                reference = np.random.default_rng(1000 + n).dirichlet(np.ones(n), num_games)
            for beta in USUAL_BETAS if uniform else BETAS:
                column = []
                for growth, shrink, first in itertools.product(GROWTH, SHRINK, FIRST):
                    algorithm = nj.AdaptiveNashMP(growth=growth, shrink=shrink, first_step=first)
                    solution = nj.solve(game, beta, reference=reference, algorithm=algorithm)
                    if not bool(solution.converged.all()):
                        raise RuntimeError(f"a game did not converge: {kind}, n = {n}, beta = {beta}, {algorithm}")
                    column.append(np.median(solution.queries))
                columns.append(column)
            print(f"n = {n}, {kind}", flush=True)
    return np.array(columns).T


def main() -> None:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--games", type=int, default=16, help="games of each kind and size")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    queries = medians(options.games, uniform=False)
    usual = np.exp(np.log(medians(options.games, uniform=True)).mean(1))
    mean, worst = np.exp(np.log(queries).mean(1)), (queries / queries.min(0)).max(1)
    grid = itertools.product(GROWTH, SHRINK, FIRST)
    rows = [
        {
            "growth": g,
            "shrink": s,
            "first_step": f,
            "queries": round(float(q), 1),
            "worst": round(float(w), 2),
            "uniform": round(float(u), 1),
        }
        for (g, s, f), q, w, u in sorted(zip(grid, mean, worst, usual, strict=True), key=lambda row: row[1])
    ]
    print("written to", write_results("tuning", ABOUT, rows, options.output))


if __name__ == "__main__":
    main()
