"""Whether the intervals of a ranking hold the truth: synthetic arenas of known preferences (`nashjax.ranking`).

Run `python -m benchmarks.intervals` in the project's folder with the extra `rank` installed (a few minutes). Writes
`intervals.json` into benchmarks/results and prints a table. An arena is a game drawn at random; votes are drawn
from it, and its 95 % intervals are held against the Nash average and the mass of the true game at the same beta.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

import nashjax as nj
from benchmarks import tables
from benchmarks.record import RESULTS, write_results
from nashjax.ranking import Battles, rank

ABOUT = (
    "payoff, mass, rank: the share of 95 % intervals that hold the truth, over all items of all arenas; worst_arena: "
    "the least such share of payoffs in an arena; leader: over the first items of the rankings alone; width: median of "
    "the payoffs' intervals, in units of preference."
)


@dataclasses.dataclass(frozen=True)
class Setting:
    """How arenas are drawn, and what is asked of them."""

    name: str
    items: int = 10
    votes: int = 40
    seen: float = 1.0
    beta: float = 0.1
    kind: str = "gaussian"
    judges: int = 0
    cluster: bool = False
    bayesian: bool = False
    prior: float = 0.0


SETTINGS = (
    Setting("dense"),
    Setting("dense, 30 votes a pair", votes=30),
    Setting("dense, Bayesian", bayesian=True),
    Setting("dense, 30 items", items=30),
    Setting("dense, transitive", kind="bradley_terry"),
    Setting("dense, beta 0.01", beta=0.01),
    Setting("dense, beta 0", beta=0.0),
    Setting("4 votes a pair", votes=4),
    Setting("4 votes a pair, prior 2", votes=4, prior=2.0),
    Setting("4 votes a pair, beta 0.01", votes=4, beta=0.01),
    Setting("half of the pairs", seen=0.5),
    Setting("half of the pairs, beta 0.01", seen=0.5, beta=0.01),
    Setting("20 judges of different taste, by rows", judges=20),
    Setting("20 judges of different taste, by judges", judges=20, cluster=True),
)


def draw_arena(setting: Setting, rng: np.random.Generator) -> tuple[np.ndarray, Battles]:
    """The true preferences, and votes drawn from them."""
    n = setting.items
    key = jax.random.key(int(rng.integers(2**31)))
    truth = np.asarray(nj.games.random_game(key, n, kind=setting.kind).preferences, np.float64)
    first, second = np.triu_indices(n, 1)
    met = np.zeros(len(first), bool)
    while len(np.unique([first[met], second[met]])) < n:  # every item meets another
        met = rng.permutation(len(first)) < round(setting.seen * len(first))
    first, second = (np.repeat(x[met], setting.votes) for x in (first, second))
    judge = rng.integers(max(setting.judges, 1), size=len(first))
    p = truth[first, second]
    if setting.judges:
        # Each judge has a taste of its own for each item; the truth is the mean over judges.
        taste = 0.8 * rng.normal(size=(2000, n))
        log_odds = np.log(truth / (1 - truth))
        truth = np.mean(1 / (1 + np.exp(-(log_odds + taste[:, :, None] - taste[:, None, :]))), axis=0)
        p = 1 / (1 + np.exp(-(log_odds[first, second] + taste[judge, first] - taste[judge, second])))
    won = rng.random(len(first)) < p
    table = {
        "model_a": [f"m{i:03d}" for i in first],
        "model_b": [f"m{i:03d}" for i in second],
        "winner": np.where(won, "model_a", "model_b"),
        "judge": [f"j{i}" for i in judge],
    }
    return truth, Battles.read(pd.DataFrame(table), labels=["judge"])


def measure(setting: Setting, arenas: int, bootstrap: int, seed: int) -> dict[str, Any]:
    """How often the intervals of a setting hold the truth."""
    start = time.perf_counter()
    rng = np.random.default_rng([seed, SETTINGS.index(setting)])
    held: dict[str, list[np.ndarray]] = {"payoff": [], "mass": [], "rank": []}
    widths = []
    drawn = [draw_arena(setting, rng) for _ in range(arenas)]
    truths = np.stack([truth for truth, _ in drawn])
    solved = nj.solve(truths, setting.beta, tol=1e-12 if setting.beta else 1e-9)
    for number, ((truth, battles), policy) in enumerate(zip(drawn, np.asarray(solved.policy), strict=True)):
        found = rank(
            battles,
            setting.beta,
            bootstrap=bootstrap,
            seed=number,
            cluster="judge" if setting.cluster else None,
            bayesian=setting.bayesian,
            prior=setting.prior,
        )
        order = [int(name[1:]) for name in found.items]
        payoff = truth @ policy
        true = {
            "payoff": payoff[order],
            "mass": policy[order],
            "rank": 1 + (payoff[None, :] > payoff[:, None] + 1e-9).sum(axis=1)[order],
        }
        for name, values in true.items():
            estimate = getattr(found, name)
            held[name].append((estimate.low - 1e-9 <= values) & (values <= estimate.high + 1e-9))
        widths.append(found.payoff.high - found.payoff.low)
    payoffs = np.stack(held["payoff"])
    row = dataclasses.asdict(setting) | {name: round(float(np.stack(x).mean()), 4) for name, x in held.items()}
    row |= {
        "worst_arena": round(float(payoffs.mean(axis=1).min()), 4),
        "leader": round(float(payoffs[:, 0].mean()), 4),
        "width": round(float(np.median(np.stack(widths))), 4),
        "arenas": arenas,
        "bootstrap": bootstrap,
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(f"{setting.name:40s} payoff {row['payoff']:.3f}  mass {row['mass']:.3f}  ({row['seconds']} s)", flush=True)
    return row


def main() -> None:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arenas", type=int, default=200)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = [measure(setting, arguments.arenas, arguments.bootstrap, arguments.seed) for setting in SETTINGS]
    write_results("intervals", ABOUT, rows, arguments.output)
    print(tables.intervals(rows))


if __name__ == "__main__":
    main()
