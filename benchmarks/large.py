"""Games of very many actions without a matrix: time, memory, and the share of the machine's matrix product.

Run `python -m benchmarks.large` in the project's folder (some minutes, Linux; `--quick` a tenth of the actions). Writes
`large.json` into benchmarks/results. Each case runs in a process of its own.
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

import jax
import jax.numpy as jnp
import numpy as np

import nashjax as nj
from benchmarks import tables
from benchmarks.record import RESULTS, write_results

ABOUT = (
    "float32, uniform reference; features and factors whose mean is not 0, so that some actions are better than "
    "others. first_seconds: compilation included; seconds: again, compiled; query_seconds: one query; "
    "product_share: of the rate that a product of two matrices 2048 x 2048 reaches in the same process, what the "
    "query reaches if it is counted as the full product of features, 2 n^2 d operations (it computes half of it, "
    "and the probabilities besides); peak_mb: most memory the process has held; exploitability_float64: of the "
    "policy, by a query in float64; effective_actions: exponential of the policy's entropy; distance_to_dense: "
    "largest difference of a probability to the solution of the game's matrix, both in float64."
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A game and what is asked of it."""

    kind: str
    actions: int
    width: int
    beta: float
    tol: float


CASES = (
    Case("embedding", 100_000, 64, 0.1, 1e-4),
    Case("embedding", 3_000, 64, 0.1, 1e-6),
    Case("low rank", 1_000_000, 16, 0.1, 1e-6),
    Case("low rank", 1_000_000, 16, 0.01, 1e-6),
)


def draw(case: Case) -> Any:
    """A game whose logits, or margins, are of order one."""
    rng = np.random.default_rng(0)
    n, d = case.actions, case.width
    if case.kind == "embedding":
        skew = rng.normal(size=(d, d)) * 2 / d
        features = 0.5 + rng.normal(size=(n, d))
        return nj.games.EmbeddingGame(jnp.asarray(features, jnp.float32), jnp.asarray((skew - skew.T) / 2, jnp.float32))
    left, right = rng.uniform(0, 1, (2, n, d)) / np.sqrt(2 * d)  # all margins are within 1/2
    return nj.games.LowRankGame(jnp.asarray(left, jnp.float32), jnp.asarray(right, jnp.float32))


def measure(case: Case) -> dict[str, Any]:
    """Solve it, twice, and look at the answer again."""
    game = draw(case)
    row: dict[str, Any] = dataclasses.asdict(case)
    row["first_seconds"] = round(timed(lambda: solve(case, game))[0], 2)
    row["seconds"], solution = timed(lambda: solve(case, game))
    row["seconds"] = round(row["seconds"], 3)
    row["queries"], row["status"] = int(solution.queries), nj.Status(int(solution.status)).name
    row["exploitability"] = float(solution.exploitability)
    row["effective_actions"] = round(float(jnp.exp(nj.metrics.entropy(solution.policy))))
    query = jax.jit(type(game).payoffs)
    times = [timed(lambda: query(game, solution.policy))[0] for _ in range(4 if case.actions > 10_000 else 12)]
    row["query_seconds"] = float(np.median(times[1:]))
    row["peak_mb"] = round(peak_megabytes())
    if case.kind == "embedding":
        rate = 2 * case.actions**2 * case.width / row["query_seconds"]
        row["product_share"] = round(rate / product_rate(), 2)
    jax.config.update("jax_enable_x64", True)
    exact = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), game)
    row["exploitability_float64"] = float(exploitability(exact, np.asarray(solution.policy, np.float64), case.beta))
    if case.kind == "embedding" and case.actions <= 5_000:
        margin = np.tanh(np.asarray(exact.features) @ np.asarray(exact.skew) @ np.asarray(exact.features).T / 2) / 2
        dense = nj.solve(0.5 + (margin - margin.T) / 2, case.beta, tol=1e-14)
        own = nj.solve(exact, case.beta, tol=1e-14)
        row["distance_to_dense"] = float(np.abs(dense.policy - own.policy).max())
    return row


def solve(case: Case, game: Any) -> nj.Solution:
    """The solve that is measured."""
    return nj.solve(game, case.beta, tol=case.tol)


def exploitability(game: Any, policy: np.ndarray, beta: float) -> jax.Array:
    """In float64, by `nashjax.metrics`."""
    return nj.metrics.exploitability(game, policy / policy.sum(), beta)


def product_rate() -> float:
    """Operations a second of a product of matrices in float32."""
    a = jax.random.normal(jax.random.key(0), (2048, 2048))
    product = jax.jit(lambda a: jnp.dot(a, a, precision=jax.lax.Precision.HIGHEST))
    return 2 * 2048**3 / float(np.median([timed(lambda: product(a))[0] for _ in range(20)][1:]))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    start = time.perf_counter()
    result = jax.block_until_ready(work())
    return time.perf_counter() - start, result


def peak_megabytes() -> float:
    """The most memory this process has held."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def main() -> None:
    """Measure every case in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the actions; writes nothing")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(measure(Case(**arguments.case))))
        return
    rows = []
    for case in CASES:
        if arguments.quick:
            case = dataclasses.replace(case, actions=case.actions // 10)
        command = [sys.executable, "-m", "benchmarks.large", "--case", json.dumps(dataclasses.asdict(case))]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(ended.stdout))
        print(rows[-1], flush=True)
    print(tables.large(rows))
    if not arguments.quick:
        print(write_results("large", ABOUT, rows, RESULTS))


if __name__ == "__main__":
    main()
