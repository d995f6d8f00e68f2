"""A million random games: whether one is said to be solved that is not, and how many are not solved.

Run `python -m benchmarks.fuzz` in the project's folder (compilation alone takes some minutes; `--games 3000` for a
look, which writes nothing). Writes `fuzz.json` into benchmarks/results and prints its tables. Every game that
`nashjax.solve` says has converged is looked at again by plain numpy in float64, by another formula.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nashjax as nj
from benchmarks import tables
from benchmarks.record import RESULTS, write_results
from nashjax.games.random import KINDS

ABOUT = (
    "Games of all kinds, n = 2..64, beta from 1e-6 to 1 (uniform in its logarithm), tol 1e-6, float32 and float64. A "
    "third of the references each is uniform, drawn from Dirichlet(0.3), and that with up to half of the actions "
    "excluded. Of four games one stays as drawn, one has a duplicated action, one probabilities rounded to quarters "
    "and one to 0, 1/2 and 1 (exact ties). refuted: games said to have converged whose exploitability, computed by "
    "numpy, is more than the tolerance and the documented rounding, the distances that they are squares of added up; "
    "worst: their largest exploitability, in tolerances. share: of games that did not converge; statuses: how these "
    "ended."
)
TOL = 1e-6
SHARES = {2: 0.12, 3: 0.15, 5: 0.2, 8: 0.2, 16: 0.18, 32: 0.1, 64: 0.05}
"""Of all games, for each number of actions."""
CHUNK = 4096


def draw(rng: np.random.Generator, kind: str, n: int, count: int, dtype: str) -> tuple[np.ndarray, ...]:
    """Preferences, betas and references."""
    key = jax.random.key(int(rng.integers(2**32)))
    P = np.array(nj.games.random_game(key, n, (count,), kind).preferences, np.float64)
    form = rng.integers(4, size=count)
    if n > 2:  # the second action is the first again
        P[form == 1, 1, :] = P[form == 1, 0, :]
        P[form == 1, :, 1] = P[form == 1, :, 0]
        P[form == 1, :2, :2] = 0.5
    for which, levels in ((2, 4), (3, 2)):
        above = np.triu(np.round(P[form == which] * levels) / levels - 0.5, 1)
        P[form == which] = 0.5 + above - np.swapaxes(above, -1, -2)
    beta = 10 ** rng.uniform(-6, 0, count)
    reference = np.full((count, n), 1 / n)
    own = rng.dirichlet(np.full(n, 0.3), count) + 1e-6
    sparse = own.copy()
    sparse[rng.random((count, n)) < 0.5] = 0
    sparse[np.arange(count), rng.integers(n, size=count)] += 1e-3  # one at least is allowed
    which = rng.integers(3, size=count)
    reference[which == 1], reference[which == 2] = own[which == 1], sparse[which == 2]
    reference /= reference.sum(-1, keepdims=True)
    return P.astype(dtype), beta.astype(dtype), reference.astype(dtype)


def exploitability(P: np.ndarray, beta: np.ndarray, reference: np.ndarray, log_policy: np.ndarray) -> np.ndarray:
    """`beta logsumexp(log r + P p / beta) + beta KL(p||r) - 1/2` in float64, of the games `1/2 + (P - P^T)/2`."""
    P, beta, reference, u = (np.asarray(x, np.float64) for x in (P, beta, reference, log_policy))
    P = 0.5 + (P - np.swapaxes(P, -1, -2)) / 2
    p = np.exp(u)
    p /= p.sum(-1, keepdims=True)
    reference = reference / reference.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.log(reference) + (P @ p[..., None])[..., 0] / beta[:, None]
        divergence = np.where(p > 0, p * (np.log(p) - np.log(reference)), 0).sum(-1)
    top = weights.max(-1)
    log_sum = top + np.log(np.exp(weights - top[:, None]).sum(-1))
    return beta * log_sum + beta * divergence - 0.5


def allowed(beta: np.ndarray, dtype: str) -> np.ndarray:
    """The largest exploitability that a game said to have converged may have (README).

    An exploitability is the square of a distance, and it is the distances that add up: that of the tolerance, that of
    the documented rounding, and what is lost in float64 above.
    """
    eps = np.finfo(dtype).eps
    floor = np.where(beta > eps, eps**2 / beta, eps) + 8 * eps**2 * beta + 1e-15
    return (np.sqrt(TOL) + np.sqrt(floor)) ** 2


def measure(total: int, seed: int) -> list[dict[str, Any]]:
    """All cells: for each dtype, by actions and size of beta, and by kind."""
    rng = np.random.default_rng(seed)
    cells: dict[tuple[Any, ...], dict[str, Any]] = defaultdict(
        lambda: {"games": 0, "refuted": 0, "worst": 0.0, "not_converged": 0, "statuses": defaultdict(int)}
    )
    start, done = time.perf_counter(), 0
    for n, share in SHARES.items():
        for kind in KINDS:
            for dtype in ("float32", "float64"):
                left = math.ceil(total * share / len(KINDS) / 2)
                while left > 0:
                    count = min(left, CHUNK)
                    left -= count
                    done += count
                    look(cells, rng, kind, n, count, dtype)
        print(f"n = {n}: {done} games after {time.perf_counter() - start:.0f} s", flush=True)
    rows = []
    for key, cell in cells.items():
        worst = float(f"{cell['worst']:.3g}")
        share = float(f"{cell['not_converged'] / cell['games']:.3g}")
        rows.append(dict(key) | cell | {"worst": worst, "share": share, "statuses": dict(cell["statuses"])})
    return rows


def look(cells: Any, rng: np.random.Generator, kind: str, n: int, count: int, dtype: str) -> None:
    """Solve a chunk of games and count what came of them."""
    P, beta, reference = draw(rng, kind, n, count, dtype)
    solution = nj.solve(P, jnp.asarray(beta), reference=reference, tol=TOL)
    status = np.asarray(solution.status)
    gap = exploitability(P, beta, reference, np.asarray(solution.log_policy))
    converged = status == nj.Status.CONVERGED
    refuted = converged & ~(gap <= allowed(beta.astype(np.float64), dtype))
    decade = np.floor(np.log10(beta.astype(np.float64))).astype(int).clip(-6, -1)
    for size in range(-6, 0):
        add(cells, {"dtype": dtype, "n": n, "beta": f"1e{size}"}, decade == size, status, converged, refuted, gap)
    add(cells, {"dtype": dtype, "kind": kind}, np.full(count, True), status, converged, refuted, gap)


def add(
    cells: Any,
    key: dict[str, Any],
    chosen: np.ndarray,
    status: np.ndarray,
    converged: np.ndarray,
    refuted: np.ndarray,
    gap: np.ndarray,
) -> None:
    """Count the chosen games in a cell."""
    cell = cells[tuple(key.items())]
    cell["games"] += int(chosen.sum())
    cell["refuted"] += int((chosen & refuted).sum())
    cell["worst"] = max(cell["worst"], float(np.max(gap[chosen & converged], initial=0)) / TOL)
    cell["not_converged"] += int((chosen & ~converged).sum())
    for number in status[chosen & ~converged]:
        cell["statuses"][nj.Status(int(number)).name] += 1


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--games", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = measure(arguments.games, arguments.seed)
    print(tables.fuzz(rows))
    if arguments.games >= 1_000_000:
        print(write_results("fuzz", ABOUT, rows, RESULTS))


if __name__ == "__main__":
    main()
