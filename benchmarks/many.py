"""Games of different sizes, solved together by `solve_many`: time, programs, and whether padding changes an answer.

Run `python -m benchmarks.many` in the project's folder (ten minutes; `--quick` a tenth of the games). Writes
`many.json` into benchmarks/results. Each case runs in a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import linprog

import nashjax as nj
from benchmarks import tables
from benchmarks.record import RESULTS, write_results
from nashjax._execution import unequal
from nashjax._execution.programs import PROGRAMS

ABOUT = (
    "float32, `gaussian` games, numbers of actions drawn evenly from 2 to 60. first_seconds and programs: the first "
    "call, with compilation; seconds: median of later calls; batch_seconds: one batch of as many games of 60 actions, "
    "called in turn with the others, compiled; ratio: median over turns of the first to the second; padded_sizes: the "
    "sizes chosen; unsolved: games that did not converge; worst_l1: largest distance of a policy to the one that "
    "`solve` finds without padding, among all games of 7, 23, 41 and 60 actions, both to tolerance 1e-6; l1_bound: "
    "largest sum of the two certified bounds on these distances (none at beta 0); alone_ms: of a call of "
    "`solve` with one game, median over the games of those sizes, compiled; at beta 0 highs_ms: the same for HiGHS "
    "through scipy, and highs_worst: largest difference of the worst payoff of a policy, in float64, to the value that "
    "HiGHS finds."
)
SAMPLED_SIZES = (7, 23, 41, 60)
MOST_ALONE = 40


@dataclasses.dataclass(frozen=True)
class Case:
    """Games and what is asked of them."""

    games: int
    beta: float
    turns: int


CASES = (Case(10_000, 0.1, 25), Case(10_000, 0.01, 9), Case(1_000, 0.0, 9))


def draw(number: int, sizes: np.ndarray) -> list[np.ndarray]:
    """Games of these sizes, float32."""
    rng = np.random.default_rng(number)
    games = []
    for n in sizes:
        upper = np.triu(np.tanh(rng.normal(size=(n, n)) / 2) / 2, 1)
        games.append((0.5 + upper - upper.T).astype(np.float32))
    return games


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def measure(case: Case) -> dict[str, Any]:
    """Solve the games, and look at the answers again."""
    sizes = np.random.default_rng(0).integers(2, 61, case.games)
    games, batch = draw(1, sizes), np.stack(draw(2, np.full(case.games, 60)))
    row: dict[str, Any] = {"games": case.games, "beta": case.beta}
    chosen: list[int] = []
    pad = unequal._pad
    unequal._pad = lambda entries, size, dtype: chosen.append(size) or pad(entries, size, dtype)
    row["first_seconds"], solutions = timed(lambda: nj.solve_many(games, case.beta))
    unequal._pad = pad
    row["programs"], row["padded_sizes"] = len(PROGRAMS), chosen
    nj.solve(batch, case.beta)
    turns = [
        (timed(lambda: nj.solve(batch, case.beta))[0], timed(lambda: nj.solve_many(games, case.beta))[0])
        for _ in range(case.turns)
    ]
    together, many = np.array(turns).T
    row |= {"batch_seconds": float(np.median(together)), "seconds": float(np.median(many))}
    row["ratio"] = float(np.median(many / together))
    row["unsolved"] = sum(not solution.converged for solution in solutions)
    row |= compare_with_alone(case, sizes, games, solutions)
    if case.beta == 0:
        row |= compare_with_highs(games, solutions)
    return {name: round(value, 4) if name.endswith(("seconds", "ratio")) else value for name, value in row.items()}


def compare_with_alone(
    case: Case, sizes: np.ndarray, games: list[np.ndarray], solutions: list[nj.Solution]
) -> dict[str, float]:
    """The distance to answers without padding, and the time of one game."""
    distances, bounds, times = [0.0], [0.0], []
    for n in SAMPLED_SIZES:
        places = np.flatnonzero(sizes == n)
        exact = nj.solve(np.stack([games[i] for i in places]), case.beta)
        policies = np.stack([solutions[i].policy for i in places])
        distances.append(float(np.abs(policies - exact.policy).sum(axis=-1).max()))
        own = [nj.metrics.l1_bound(solutions[i].exploitability, case.beta) for i in places]
        bounds.append(float(np.max(np.array(own) + nj.metrics.l1_bound(exact.exploitability, case.beta))))
        nj.solve(games[places[0]], case.beta)
        times += [timed(lambda i=i: nj.solve(games[i], case.beta))[0] for i in places[:MOST_ALONE]]
    certified = {} if case.beta == 0 else {"l1_bound": max(bounds)}
    return {"worst_l1": max(distances), "alone_ms": round(1000 * float(np.median(times)), 3)} | certified


def compare_with_highs(games: list[np.ndarray], solutions: list[nj.Solution]) -> dict[str, float]:
    """The values of the games by a linear program each."""
    differences, times = [], []
    for P, solution in zip(games, solutions, strict=True):
        n = len(P)
        margin = (P.astype(np.float64) - P.T) / 2
        rows = np.column_stack([margin, np.ones(n)])  # margin^T p >= v
        seconds, found = timed(
            lambda A=rows, n=n: linprog(
                np.eye(n + 1)[n] * -1, A, np.zeros(n), [[1.0] * n + [0.0]], [1.0], [(0, 1)] * n + [(None, None)]
            )
        )
        times.append(seconds)
        p = solution.policy.astype(np.float64)
        differences.append(abs(-found.fun - (-margin @ (p / p.sum())).min()))
    return {"highs_ms": round(1000 * float(np.median(times)), 3), "highs_worst": float(max(differences))}


def main() -> None:
    """Measure every case in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the games; writes nothing")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(measure(Case(**arguments.case))))
        return
    rows = []
    for case in CASES:
        if arguments.quick:
            case = dataclasses.replace(case, games=case.games // 10, turns=3)
        command = [sys.executable, "-m", "benchmarks.many", "--case", json.dumps(dataclasses.asdict(case))]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(ended.stdout))
        print(rows[-1], flush=True)
    print(tables.many(rows))
    if not arguments.quick:
        print(write_results("many", ABOUT, rows, RESULTS))


if __name__ == "__main__":
    main()
