"""Queries of adaptive Nash-MP against the fixed step of the paper, and what float32 can show.

Run `python -m benchmarks.adaptive` in the project's folder (about 15 minutes on 2 cores); `--games 2 --actions 3,10
--output .` for a quick look. Writes `adaptive.json` into the folder `--output`, by default benchmarks/results.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import nashjax as nj
from benchmarks.record import RESULTS, write_results
from nashjax.games.random import KINDS

ABOUT = (
    "Queries to exploitability 1e-6 in float64, from the reference: uniform, for `cyclic` games (whose equilibrium is "
    "uniform) Dirichlet(1). fixed, adaptive: median over the games; ratio: fixed / adaptive, median over the games; "
    "worst_ratio: the smallest of any game; accepted: share of adaptive trials accepted. floor, fixed_floor: the "
    "smallest exploitability that adaptive and fixed Nash-MP reach in float32, tol = 0, in units of "
    "eps^2 (1/beta + 8 beta), the worst game."
)
BETAS = (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.5)


def study(num_games: int, actions: list[int], betas: tuple[float, ...] = BETAS) -> list[dict[str, object]]:
    """A row for each size, beta and kind."""
    rows = []
    for n in actions:
        games_here = max(num_games // 4, 1) if n >= 300 else num_games
        for kind in KINDS:
            game = nj.games.random_game(jax.random.key(n), n, (games_here,), kind)
            reference = np.full(n, 1 / n)
            if kind == "cyclic":
                reference = np.random.default_rng(n).dirichlet(np.ones(n), games_here)
            rows += [row(game, kind, beta, reference) for beta in betas]
    return rows


def row(game: nj.MatrixGame, kind: str, beta: float, reference: np.ndarray) -> dict[str, object]:
    """Both algorithms on the same games, in both precisions."""
    fixed = nj.solve(game, beta, reference=reference, algorithm=nj.NashMP())
    adaptive = nj.solve(game, beta, reference=reference, algorithm=nj.AdaptiveNashMP())
    if not bool(fixed.converged.all() and adaptive.converged.all()):
        raise RuntimeError(f"a game did not converge: {kind}, n = {game.num_actions}, beta = {beta}")
    ratio = np.asarray(fixed.queries) / np.asarray(adaptive.queries)
    trials = np.asarray(adaptive.steps)
    single = game.preferences.astype(jnp.float32)
    unit = np.finfo(np.float32).eps ** 2 * (1 / beta + 8 * beta)
    lowest = {
        algorithm: float(
            nj.solve(
                single, beta, reference=reference, algorithm=algorithm, tol=0.0, max_queries=40_000
            ).exploitability.max()
            / unit
        )
        for algorithm in (nj.AdaptiveNashMP(), nj.NashMP())
        if game.num_actions <= 100
    }
    found: dict[str, object] = {
        "n": game.num_actions,
        "beta": beta,
        "kind": kind,
        "games": len(ratio),
        "fixed": float(np.median(fixed.queries)),
        "adaptive": float(np.median(adaptive.queries)),
        "ratio": round(float(np.median(ratio)), 2),
        "worst_ratio": round(float(ratio.min()), 2),
        "accepted": round(float((np.asarray(adaptive.queries) - 1 - trials).sum() / max(trials.sum(), 1)), 3),
    }
    if lowest:
        found["floor"], found["fixed_floor"] = (round(value, 2) for value in lowest.values())
    print(found, flush=True)
    return found


def main() -> None:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--games", type=int, default=32, help="games of each kind; a quarter of it from n = 300 on")
    parser.add_argument("--actions", default="3,10,30,100,500", help="numbers of actions, with commas between")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = study(options.games, [int(n) for n in options.actions.split(",")])
    print("written to", write_results("adaptive", ABOUT, rows, options.output))


if __name__ == "__main__":
    main()
