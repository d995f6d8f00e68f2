"""All methods side by side: how fast each converges, that the rate does not depend on n, and what each needs.

Run `python -m benchmarks.convergence` in the project's folder (about 9 minutes on 2 cores; needs the extra `plot`);
`--games 2 --actions 3,30 --max-queries 2000 --output .` for a quick look. Writes `convergence.json` into the folder
`--output`, by default benchmarks/results, and three pictures into benchmarks/figures or that same folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

import nashjax as nj
from benchmarks.record import RESULTS, write_results
from nashjax._math import simplex
from nashjax.games.random import KINDS

FIGURES = Path(__file__).parent / "figures"
ABOUT = (
    "Float64, from the reference, a Dirichlet(1) policy of each game. Rows with `part` = `path`: what a method has "
    "reached after some queries on gaussian games, median over the games: KL(p*||p) in nats, exploitability (at "
    "beta = 0 the best so far), span of log p - log p* in nats; p* by Newton's method to exploitability 1e-28. "
    "`rate`: factor of KL(p*||p) per query of Nash Mirror Prox over the last half of the steps above 1e-20, the "
    "slowest of the games, and its bound 1/sqrt(1 + 2 beta). `queries`: median over the games of the queries to the "
    "exploitability that names the column, null where half of the games or more did not reach it within "
    "`max_queries`; beta = 0: exploitability of the plain game."
)
BETAS = (0.5, 0.1, 0.03, 0.01)
TOLERANCES = (1e-3, 1e-6, 1e-9)

# Colour and line of each method, the same in all pictures.
DASHES = (0, (4, 4))
STYLES: dict[str, tuple[Any, str, Any]] = {
    "NashMP": (nj.NashMP(), "#08519c", "-"),
    "EGPO": (nj.EGPO(), "#9ecae1", DASHES),
    "AdaptiveNashMP": (nj.AdaptiveNashMP(), "#d94801", "-"),
    "MemoryNashMP": (nj.MemoryNashMP(), "#a63603", DASHES),
    "NashProx": (nj.NashProx(), "#fdae6b", "-"),
    "Newton": (nj.Newton(), "#252525", "-"),
    "OnlineMirrorDescent": (nj.OnlineMirrorDescent(), "#006d2c", "-"),
    "MagneticMirrorDescent": (nj.MagneticMirrorDescent(), "#74c476", DASHES),
    "NashMD": (nj.NashMD(), "#6a51a3", "-"),
    "OptimisticMWU": (nj.OptimisticMWU(), "#e7298a", "-"),
    "SelfPlayMWU": (nj.SelfPlayMWU(), "#66a61e", "-"),
    "PredictiveRM": (nj.PredictiveRM(), "#e6ab02", "-"),
    "ExtragradientRM": (nj.ExtragradientRM(), "#7570b3", "-"),
}
REGULARIZED = tuple(STYLES)[:9]
PLAIN = ("NashMP", "AdaptiveNashMP", "NashProx", *tuple(STYLES)[9:])


def references(num_games: int, n: int) -> np.ndarray:
    """A Dirichlet(1) policy for each game, `[games, n]`."""
    return np.random.default_rng(n).dirichlet(np.ones(n), num_games)


def logarithmic(last: int, points: int = 60) -> np.ndarray:
    """Whole numbers from 1 to `last`, evenly spaced in the logarithm."""
    return np.unique(np.round(np.geomspace(1, last, points)).astype(int))


def reached(queries: np.ndarray, values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Median over the games `[games, steps]` of the last value after each number of queries of the grid."""
    at = [np.searchsorted(q, grid, side="right") - 1 for q in queries]
    return np.median([v[i] for v, i in zip(values, at, strict=True)], axis=0)


def path_rows(num_games: int, n: int, betas: tuple[float, ...], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """What each method has reached after each number of queries."""
    game = nj.games.random_game(jax.random.key(n), n, (num_games,))
    reference = references(num_games, n)
    rows = []
    for beta in betas:
        last = 20_000 if beta == 0 else int(150 / beta)
        grid = logarithmic(last)
        log_star = nj.solve(game, beta, reference=reference, tol=1e-28).log_policy if beta else None
        for name in names:
            algorithm = STYLES[name][0]
            steps = 200 if name == "Newton" else last // min(algorithm.queries_per_step, 2)
            path = nj.trajectory(game, beta, algorithm=algorithm, num_steps=steps, reference=reference)
            exploitability = np.asarray(path.exploitability)
            # Of the plain game the best policy so far, as `solve` returns it: several methods are not monotone there.
            measures: dict[str, Any] = {
                "exploitability": exploitability if beta else np.minimum.accumulate(exploitability, axis=1)
            }
            if log_star is not None:
                star = jnp.moveaxis(log_star, -1, 0)[..., None]
                log_policy = jnp.moveaxis(path.log_policy, -1, 0)
                measures["kl"] = simplex.kl_divergence(star, log_policy)
                measures["span"] = simplex.span(log_policy, star)
            queries = np.asarray(path.queries)
            here = grid[grid <= queries[:, -1].min()]
            row: dict[str, Any] = {"part": "path", "method": name, "beta": beta, "n": n, "games": num_games}
            row["queries"] = here.tolist()
            for measure, values in measures.items():
                row[measure] = [float(f"{v:.3g}") for v in reached(queries, np.asarray(values), here)]
            rows.append(row)
        print("paths at beta =", beta, flush=True)
    return rows


@jax.jit
def contraction(game: nj.MatrixGame, beta: jax.Array, log_reference: jax.Array, log_star: jax.Array) -> jax.Array:
    """`KL(p*||p)` at each of 300 steps of Nash Mirror Prox, `[301, games]`."""
    problem = nj.RegularizedGame(game, beta, log_reference)
    algorithm = nj.NashMP()
    start = algorithm.init(problem, log_reference)

    def advance(state: Any, _: None) -> tuple[Any, jax.Array]:
        state = algorithm.step(problem, state)
        return state, simplex.kl_divergence(log_star, state.log_policy)

    rest = jax.lax.scan(advance, start, length=300)[1]
    return jnp.concatenate([simplex.kl_divergence(log_star, log_reference)[None], rest])


def rate_rows(num_games: int, actions: list[int]) -> list[dict[str, Any]]:
    """The factor by which a query of Nash Mirror Prox shrinks `KL(p*||p)`, the slowest game of each size."""
    rows = []
    for n in actions:
        games = max(1, min(num_games, 3000 // n))
        reference = references(games, n)
        log_reference = jnp.log(reference).T
        for kind in ("gaussian", "uniform", "cyclic") if n < 1000 else ("gaussian",):
            game = nj.games.random_game(jax.random.key(n), n, (games,), kind).symmetrized()
            for beta in BETAS:
                log_star = nj.solve(game, beta, reference=reference, tol=1e-26).log_policy.T
                kl = np.asarray(contraction(game, jnp.asarray(beta), log_reference, log_star))
                factors = []
                for path in kl.T:
                    last = int(np.argmax(path < 1e-20)) or len(path)
                    first = last // 2
                    factors.append((path[last - 1] / path[first]) ** (0.5 / (last - 1 - first)))
                bound = (1 + 2 * beta) ** -0.5
                row = {"part": "rate", "n": n, "kind": kind, "beta": beta, "games": games}
                rows.append(row | {"measured": round(float(max(factors)), 6), "bound": round(bound, 6)})
            print(rows[-1], flush=True)
    return rows


def query_rows(num_games: int, n: int, betas: tuple[float, ...], max_queries: int) -> list[dict[str, Any]]:
    """The queries of each method to each tolerance on each kind of game."""
    rows = []
    for kind in KINDS:
        game = nj.games.random_game(jax.random.key(n), n, (num_games,), kind)
        for beta in betas:
            for name in REGULARIZED if beta else PLAIN:
                solution = nj.solve(
                    game,
                    beta,
                    reference=references(num_games, n),
                    algorithm=STYLES[name][0],
                    tol=np.array(TOLERANCES)[:, None],
                    max_queries=max_queries,
                )
                queries = np.where(solution.converged, solution.queries, np.inf)
                row: dict[str, Any] = {"part": "queries", "kind": kind, "beta": beta, "method": name, "n": n}
                row |= {"games": num_games, "max_queries": max_queries}
                for tol, median in zip(TOLERANCES, np.median(queries, axis=1), strict=True):
                    row[f"{tol:.0e}".replace("e-0", "e-")] = float(median) if np.isfinite(median) else None
                rows.append(row)
        print("queries of", kind, flush=True)
    return rows


def draw_paths(rows: list[dict[str, Any]], file: Path) -> None:
    """Figure 1: divergence, exploitability and span at four values of beta."""
    measures = {"kl": "KL(p*‖p), nats", "exploitability": "exploitability", "span": "span of log p − log p*, nats"}
    figure, axes = plt.subplots(3, len(BETAS), figsize=(13, 9), sharey="row", layout="constrained")
    for column, beta in enumerate(BETAS):
        for panel, (measure, label) in zip(axes[:, column], measures.items(), strict=True):
            for row in rows:
                if row["beta"] == beta:
                    _, color, line = STYLES[row["method"]]
                    panel.loglog(row["queries"], row[measure], color=color, linestyle=line, label=row["method"])
            if measure == "kl":
                start = next(row["kl"][0] for row in rows if row["beta"] == beta)
                grid = logarithmic(int(150 / beta))
                panel.loglog(grid, start * (1 + 2 * beta) ** (-grid / 2), "k:", label="(1 + 2 beta)^(-N/2)")
                panel.set_title(f"beta = {beta:g}")
            panel.set_ylim({"kl": (1e-20, 30), "exploitability": (1e-16, 1), "span": (1e-9, 300)}[measure])
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
            if column == 0:
                panel.set_ylabel(label)
    for panel in axes[-1]:
        panel.set_xlabel("queries N")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(file, dpi=85)
    plt.close(figure)


def draw_plain(rows: list[dict[str, Any]], file: Path) -> None:
    """Figure 2: the plain game."""
    figure, panel = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    for row in rows:
        _, color, line = STYLES[row["method"]]
        panel.loglog(row["queries"], row["exploitability"], color=color, linestyle=line, label=row["method"])
    grid = logarithmic(20_000)
    panel.loglog(grid, 0.3 / np.sqrt(grid), "k:", linewidth=1)
    panel.loglog(grid, 0.3 / grid, "k:", linewidth=1)
    panel.text(2e4, 0.3 / np.sqrt(2e4), " 1/√N", va="center")
    panel.text(2e4, 0.3 / 2e4, " 1/N", va="center")
    panel.set(xlabel="queries N", ylabel="exploitability", ylim=(1e-6, 0.5), title="the plain game, beta = 0")
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=8, loc="lower left")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def draw_rates(rows: list[dict[str, Any]], file: Path) -> None:
    """Figure 3: the rate of Nash Mirror Prox against the number of actions."""
    figure, panel = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    markers = {"gaussian": "o", "uniform": "s", "cyclic": "^"}
    for beta, color in zip(BETAS, ("#fdae6b", "#e6550d", "#3182bd", "#08306b"), strict=True):
        panel.axhline(1 - (1 + 2 * beta) ** -0.5, color=color, linestyle=":")
        for kind, marker in markers.items():
            here = [row for row in rows if row["beta"] == beta and row["kind"] == kind]
            n, left = [row["n"] for row in here], [1 - row["measured"] for row in here]
            panel.loglog(n, left, marker + "-", color=color, markersize=5, linewidth=0.8)
        place = {"transform": panel.get_yaxis_transform(), "va": "center", "color": color}
        panel.text(1.01, 1 - (1 + 2 * beta) ** -0.5, f"beta = {beta:g}", **place)
    for kind, marker in markers.items():
        panel.plot([], [], marker, color="#555555", label=kind)
    panel.plot([], [], "k:", label="1 − 1/√(1 + 2 beta)")
    panel.set(xlabel="number of actions n", ylabel="share of KL(p*‖p) that one query removes (slowest game)")
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_xticks(sorted({row["n"] for row in rows}), [str(n) for n in sorted({row["n"] for row in rows})])
    panel.minorticks_off()
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main() -> None:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--games", type=int, default=16, help="games of each kind; fewer from n = 300 on")
    parser.add_argument("--actions", default="3,10,30,100,300,1000,3000", help="sizes for the rate, commas between")
    parser.add_argument("--max-queries", type=int, default=30_000, help="most queries of a solve")
    parser.add_argument("--output", type=Path, default=None, help="folder to write to")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    figures = options.output or FIGURES
    figures.mkdir(parents=True, exist_ok=True)

    paths = path_rows(options.games, 30, BETAS, REGULARIZED)
    draw_paths(paths, figures / "convergence.png")
    plain = path_rows(options.games, 30, (0.0,), PLAIN)
    draw_plain(plain, figures / "plain_game.png")
    rates = rate_rows(options.games, [int(n) for n in options.actions.split(",")])
    draw_rates(rates, figures / "rate.png")
    queries = query_rows(options.games, 30, (0.1, 0.03, 0.0), options.max_queries)
    rows = paths + plain + rates + queries
    print("written to", write_results("convergence", ABOUT, rows, options.output or RESULTS), "and", figures)


if __name__ == "__main__":
    main()
