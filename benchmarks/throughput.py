"""Games a second, and how near that is to what the machine can do.

Run `python -m benchmarks.throughput` in the project's folder (minutes; the picture needs the extra `plot`). Measures on
whatever jax runs on and writes `throughput_DEVICE.json` and `.png` into the folder `--output`, by default
benchmarks/results.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nashjax as nj
from benchmarks import tables
from benchmarks.record import RESULTS, write_results

ABOUT = (
    "`gaussian` games, float32, uniform reference, tol 1e-6, median of 5 compiled runs (15 for the parts) of "
    "`nashjax.solve` with its checks. queries: mean of a game. flops_share: the multiplications and additions of "
    "these queries alone (2 n^2 each) against the largest rate that a product of two matrices reaches in the same "
    "process. bytes_share: the bytes of all matrices, read once, against the largest rate at which an array is read. "
    "parts: shares of the time of a call: before the first step, the mean game's steps, and waiting for the slowest "
    "games (and all else that grows with the steps); gigabytes_per_s: the matrices twice for each step."
)
BETA = 0.01
CPU_SIZES = (3, 5, 10, 18, 32, 56, 100, 178, 316, 562, 1000)
ACCELERATOR_CASES = {10: 10**6, 100: 10**5, 500: 4000}
BATCHES = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
PARTS = ((10, 256), (10, 1024), (10, 4096), (10, 65536), (100, 1024), (500, 64))
ENTRIES = 2**24
"""Of all matrices of a case on a processor, at most."""


def median_seconds(run: Callable[[], Any], runs: int = 5) -> float:
    """Of compiled runs."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def ceilings() -> dict[str, float]:
    """What the device can do: float32 operations a second in a matrix product, bytes a second read from memory."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    square = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda x: jnp.matmul(x, x, precision=jax.lax.Precision.HIGHEST))
    flops = 2 * size**3 / median_seconds(lambda: product(square))
    long = jnp.ones(2**27 if jax.default_backend() == "cpu" else 2**30, jnp.float32)
    total = jax.jit(jnp.sum)
    return {"flops_per_s": flops, "bytes_per_s": long.nbytes / median_seconds(lambda: total(long))}


def measure(study: str, n: int, num_games: int, limits: dict[str, float]) -> dict[str, Any]:
    """One case."""
    games = nj.games.random_game(jax.random.key(n), n, (num_games,))
    solution = nj.solve(games, BETA)
    if not bool(solution.converged.all()):
        raise RuntimeError(f"n = {n}: {int((~solution.converged).sum())} games did not converge")
    seconds = median_seconds(lambda: nj.solve(games, BETA))
    queries = float(np.mean(np.asarray(solution.queries)))
    row = {
        "study": study,
        "n": n,
        "games": num_games,
        "us": float(f"{seconds / num_games * 1e6:.4g}"),
        "games_per_s": float(f"{num_games / seconds:.4g}"),
        "queries": round(queries, 1),
        "flops_share": float(f"{2 * n**2 * queries * num_games / seconds / limits['flops_per_s']:.3g}"),
        "bytes_share": float(f"{4 * n**2 * num_games / seconds / limits['bytes_per_s']:.3g}"),
    }
    print(row, flush=True)
    return row


def parts(n: int, num_games: int) -> dict[str, Any]:
    """Where the time of a call goes: what it costs before the first step, the steps, and waiting for the slowest game.

    With no tolerance to reach, games go on as long as their queries last, nearly all as many steps: two such limits
    give the cost of a step and of what comes before.
    """
    games = nj.games.random_game(jax.random.key(n), n, (num_games,))

    def limited(max_queries: int) -> tuple[float, float]:
        def solve() -> nj.Solution:
            return nj.solve(games, BETA, algorithm=nj.AdaptiveNashMP(), tol=0.0, max_queries=max_queries)

        return median_seconds(solve, 15), float(np.mean(solve().steps))

    (few_seconds, few), (many_seconds, many) = limited(11), limited(31)
    step = (many_seconds - few_seconds) / (many - few)
    seconds = median_seconds(lambda: nj.solve(games, BETA), 15)
    steps = float(np.mean(np.asarray(nj.solve(games, BETA).steps)))
    before = few_seconds - few * step
    shares = {"before": before / seconds, "steps": steps * step / seconds}
    row = {
        "study": "parts",
        "n": n,
        "games": num_games,
        "us": float(f"{seconds / num_games * 1e6:.4g}"),
        "us_of_a_step": float(f"{step / num_games * 1e6:.3g}"),
        "mean_steps": round(steps, 1),
        **{f"share_{name}": round(share, 3) for name, share in shares.items()},
        "share_waiting": round(1 - sum(shares.values()), 3),
        "gigabytes_per_s": float(f"{2 * 4 * n**2 * num_games / step / 1e9:.3g}"),
    }
    print(row, flush=True)
    return row


def study() -> list[dict[str, Any]]:
    """The rates of the machine, then a row for each case."""
    limits = ceilings()
    print(limits, flush=True)
    rows: list[dict[str, Any]] = [{"study": "ceilings", **{name: float(f"{x:.4g}") for name, x in limits.items()}}]
    if jax.default_backend() == "cpu":
        rows += [measure("actions", n, int(min(max(ENTRIES // n**2, 16), 65536)), limits) for n in CPU_SIZES]
    else:
        rows += [measure("actions", n, num_games, limits) for n, num_games in ACCELERATOR_CASES.items()]
    rows += [measure("batch", 10, num_games, limits) for num_games in BATCHES]
    return rows + [parts(n, num_games) for n, num_games in PARTS]


def draw(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Cost of a game against actions, and against the batch."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    found = [row for row in rows if row["study"] == "actions"]
    n, us = np.array([row["n"] for row in found]), np.array([row["us"] for row in found])
    left.loglog(n, us, "o-", color="#084594", label="nashjax.solve")
    left.loglog(n, us[-1] * (n / n[-1]) ** 2, "k:", label="$n^2$")
    if jax.default_backend() == "cpu":
        for name, size in cache_bytes().items():
            left.axvline(np.sqrt(size / 4), color="#cb6a49", linewidth=0.8)
            left.text(np.sqrt(size / 4), us.min(), f" one matrix fills {name}", rotation=90, fontsize=7)
    left.set(title=f"{title}, beta = {BETA}", xlabel="actions", ylabel="microseconds for a game")
    left.legend(frameon=False)
    found = [row for row in rows if row["study"] == "batch"]
    right.loglog([row["games"] for row in found], [row["us"] for row in found], "o-", color="#084594")
    right.set(title="10 actions", xlabel="games in a call", ylabel="microseconds for a game")
    figure.savefig(path, dpi=110)


def cache_bytes() -> dict[str, int]:
    """The caches of a core, where Linux tells."""
    sizes = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (index / "type").read_text().strip() != "Instruction":
            size = (index / "size").read_text().strip()
            sizes["L" + (index / "level").read_text().strip()] = int(size.rstrip("K")) * 1024
    return sizes


def main() -> None:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args()
    device = jax.devices()[0].device_kind
    path = options.output / f"throughput_{device.lower().replace(' ', '_')}.json"
    rows = study()
    print(tables.throughput(rows))
    draw(rows, path.with_suffix(".png"), device)
    print("written to", write_results(path.stem, ABOUT, rows, options.output))


if __name__ == "__main__":
    main()
