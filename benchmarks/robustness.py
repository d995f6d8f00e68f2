"""Whether every game is solved: thousands of every kind, beta from 1e-6 to 1, also degenerate ones, in both precisions.

Run `python -m benchmarks.robustness` in the project's folder (5 to 10 minutes on 2 cores); `--games 64 --output .` for
a quick look. Writes `robustness.json` into the folder `--output`, by default benchmarks/results.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import nashjax as nj
from benchmarks.record import RESULTS, write_results
from nashjax._math.regularized import rounding_floor
from nashjax.games.random import KINDS

ABOUT = (
    "The default of nashjax.solve, each game with a beta of its own, log-uniform in [1e-6, 1], and beta = 0 for one "
    "game in eight; tol 1e-12 in float64 and 1e-6 in float32, at most 100,000 queries. Kinds: those of random_game, "
    "`ties` (uniform games rounded to 0, 1/2, 1) and `copies` (tournaments in which every action stands twice). The "
    "reference is uniform, for `cyclic` games (whose equilibrium is uniform) Dirichlet(1). converged, stalled, "
    "max_queries: how many games ended so. wrong: games said to be converged whose exploitability, computed again in "
    "float64, is above the tolerance and what rounding may add. median_steps, most_steps: of one game. unsolved_above: "
    "the largest beta of a game that ran out of queries. seconds: of the solve, compilation included."
)
ALL_KINDS = (*KINDS, "ties", "copies")


def draw(kind: str, n: int, num_games: int) -> jax.Array:
    """Preferences `[num_games, n, n]`."""
    key = jax.random.key(n)
    match kind:
        case "ties":
            return jnp.round(2 * nj.games.random_game(key, n, (num_games,), "uniform").preferences) / 2
        case "copies":
            twice = jnp.arange(n) // 2
            tournaments = nj.games.random_game(key, n, (num_games,), "tournament").preferences
            return tournaments[:, twice][:, :, twice]
        case _:
            return nj.games.random_game(key, n, (num_games,), kind).preferences


def row(kind: str, n: int, num_games: int, dtype: str) -> dict[str, object]:
    """Solve the games of one kind and size, and judge them again in float64."""
    P = draw(kind, n, num_games).astype(dtype)
    beta = 10 ** np.random.default_rng(n).uniform(-6, 0, num_games)
    beta = jnp.asarray(np.where(np.arange(num_games) % 8 == 0, 0, beta), dtype)
    reference = np.full((num_games, n), 1 / n)
    if kind == "cyclic":  # whose equilibrium is the uniform reference
        reference = np.random.default_rng(n).dirichlet(np.ones(n), num_games)
    tol = 1e-12 if dtype == "float64" else 1e-6
    start = time.perf_counter()
    solution = jax.block_until_ready(nj.solve(P, beta, reference=reference, tol=tol))
    seconds = time.perf_counter() - start
    # Again with the very logarithms returned: rounding them to probabilities would weigh more than the tolerance.
    problem = nj.RegularizedGame(
        nj.MatrixGame(P.astype(jnp.float64)), beta.astype(jnp.float64), jnp.log(reference.astype(dtype).astype(float)).T
    )
    log_p = jax.nn.log_softmax(solution.log_policy.astype(jnp.float64), axis=-1).T
    true = problem.exploitability(log_p, problem.payoffs(log_p))
    floor = rounding_floor(beta, jnp.dtype(dtype)).astype(jnp.float64)
    # At beta > 0 an exploitability is the square of a distance, and distances add up; at 0 the payoffs' errors do.
    allowed = jnp.where(beta > 0, (jnp.sqrt(tol) + jnp.sqrt(floor)) ** 2, tol + 4 * floor)
    converged = np.asarray(solution.converged)
    spent = np.asarray(solution.status) == nj.Status.MAX_QUERIES
    found: dict[str, object] = {
        "dtype": dtype,
        "n": n,
        "kind": kind,
        "games": num_games,
        "converged": int(converged.sum()),
        "stalled": int((np.asarray(solution.status) == nj.Status.STALLED).sum()),
        "max_queries": int(spent.sum()),
        "wrong": int((converged & ~np.asarray(true <= allowed)).sum()),
        "median_steps": float(np.median(solution.steps)),
        "most_steps": int(solution.steps.max()),
        "unsolved_above": float(f"{np.asarray(beta)[spent].max():.2g}") if spent.any() else None,
        "seconds": round(seconds, 1),
    }
    print(found, flush=True)
    return found


def main() -> None:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--games", type=int, default=4096, help="games of each kind")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = [
        row(kind, n, options.games, dtype)
        for dtype in ("float64", "float32")
        for n in (3, 10, 50)
        for kind in ALL_KINDS
    ]
    print("written to", write_results("robustness", ABOUT, rows, options.output))


if __name__ == "__main__":
    main()
